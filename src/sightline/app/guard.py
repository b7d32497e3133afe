"""What stands before every page of the app: who may come in, how much may be sent, and what a page may load.

Plain ASGI. Without a token only this machine is answered; with one, a browser shows it once and gets a cookie.
"""

from __future__ import annotations

import asyncio
import hmac
import html
import secrets
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qs

from sightline.services.guard import App, Door, Message, Receive, Send, header_of, of_this_machine

COOKIE: Final = "sightline"
LOGIN: Final = "/login"
_POLICY: Final = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; media-src 'self' data: blob:; "
    "worker-src 'self' blob:; frame-src 'self'; frame-ancestors 'self'; form-action 'self'; base-uri 'self'"
)
"""Nothing is loaded from anywhere else, whatever the page says."""
_ALWAYS: Final = {b"x-content-type-options": b"nosniff", b"referrer-policy": b"no-referrer"}
_LONGEST_FORM: Final = 4096


@dataclass(frozen=True, kw_only=True)
class Gate(Door):
    """Lets requests through that may come in, and no more of them than ``most`` bytes."""

    app: App
    token: str = field(repr=False)
    """Demanded of every request; empty: of none, and the host must be named as this machine."""
    most: int
    """Bytes of a body."""
    closing: asyncio.Event = field(default_factory=asyncio.Event, repr=False)
    """Set when the app stops: pages keep a stream of events open for as long as they are."""
    session: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    """What the cookie holds, as long as the app runs."""

    async def _http(self, scope: Message, receive: Receive, send: Send) -> None:
        headers = scope["headers"]
        if not self.token and not of_this_machine(headers):
            await _reply(send, 403, "<p>The app is asked by another name than that of this machine.</p>")
        elif _is_foreign(headers):
            await _reply(send, 403, "<p>A page of another address asked.</p>")
        elif self.token and scope["path"] == LOGIN:
            await self._login(scope, receive, send)
        elif self.token and not self._may_enter(headers):
            await _reply(send, 401, _FORM.format(word=""))
        elif (told := header_of(headers, b"content-length")).isdigit() and int(told[:20]) > self.most:
            await _reply(send, 413, self._too_much)
        else:
            await self._passed(scope, receive, send)

    def _may_enter(self, headers: list[tuple[bytes, bytes]]) -> bool:
        bearer = header_of(headers, b"authorization")
        if hmac.compare_digest(bearer, b"Bearer " + self.token.encode()):
            return True
        wanted = f"{COOKIE}={self.session}".encode()
        given = [part.strip() for name, value in headers if name == b"cookie" for part in value.split(b";")]
        return any(hmac.compare_digest(part, wanted) for part in given)

    async def _login(self, scope: Message, receive: Receive, send: Send) -> None:
        """A link with the token, or the form: a browser that shows it gets the cookie."""
        sent = scope.get("query_string", b"")
        if scope["method"] == "POST":
            sent = await _form(receive)
        token = parse_qs(sent.decode("latin-1")).get("token", [""])[0]
        if not hmac.compare_digest(token.encode(), self.token.encode()):
            await _reply(send, 401, _FORM.format(word="<p>That is not the token.</p>"))
            return
        cookie = f"{COOKIE}={self.session}; HttpOnly; SameSite=Strict; Path=/".encode()
        await _reply(send, 303, "", {b"location": b"/", b"set-cookie": cookie})

    async def _passed(self, scope: Message, receive: Receive, send: Send) -> None:
        """What the app answers. A body that is longer than it may be, and does not say so, is refused as it comes."""
        got, started, refused, whole = 0, False, False, False

        async def bounded() -> Message:
            nonlocal got, refused
            message = await self._next(receive)
            got += len(message.get("body", b""))
            if got <= self.most:
                return message
            if not (started or refused):
                await _reply(send, 413, self._too_much)
            refused = True
            return {"type": "http.disconnect"}

        async def guarded(message: Message) -> None:
            nonlocal started, whole
            if refused:
                return
            if message["type"] == "http.response.start":
                started = True
                message = {**message, "headers": _guarded(message.get("headers", ()))}
            whole = message["type"] == "http.response.body" and not message.get("more_body")
            await send(message)

        try:
            await self.app(scope, bounded, guarded)
            if self.closing.is_set() and started and not whole:  # a stream that was let go
                await send({"type": "http.response.body", "body": b""})
        except Exception:  # what a route makes of a client that is gone
            if not refused:
                raise

    async def _next(self, receive: Receive) -> Message:
        """What comes next; that the client is gone, where the app stops first."""
        came, closed = asyncio.ensure_future(receive()), asyncio.ensure_future(self.closing.wait())
        try:
            await asyncio.wait((came, closed), return_when=asyncio.FIRST_COMPLETED)
            return came.result() if came.done() else {"type": "http.disconnect"}
        finally:
            came.cancel()
            closed.cancel()

    @property
    def _too_much(self) -> str:
        return f"<p>More than {self.most} bytes.</p>"


def _guarded(headers: Any) -> list[tuple[bytes, bytes]]:
    """A page that brings a policy of its own (a report) keeps it."""
    given = [(name.lower(), value) for name, value in headers]
    own = {name for name, _ in given}
    more = {**_ALWAYS, b"content-security-policy": _POLICY.encode()}
    return [*given, *((name, value) for name, value in more.items() if name not in own)]


def _is_foreign(headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether a page of another address sent it: cookies do not tell ports apart."""
    origin, host = header_of(headers, b"origin"), header_of(headers, b"host")
    return bool(origin) and origin.partition(b"//")[2] != host


async def _form(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > _LONGEST_FORM or not message.get("more_body"):
            return body[:_LONGEST_FORM]


async def _reply(send: Send, status: int, body: str, more: dict[bytes, bytes] | None = None) -> None:
    content = _PAGE.format(body=body).encode()
    headers = {b"content-type": b"text/html; charset=utf-8", b"content-length": str(len(content)).encode()}
    headers |= {b"content-security-policy": b"default-src 'none'; style-src 'unsafe-inline'; form-action 'self'"}
    pairs = [*{**headers, **_ALWAYS, b"cache-control": b"no-store"}.items(), *(more or {}).items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": content})


_PAGE: Final = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    '<meta name="color-scheme" content="light dark"><title>Sightline</title>'
    "<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:26em;margin:15vh auto;padding:0 20px}}"
    "input,button{{font:inherit;padding:6px 10px;width:100%;box-sizing:border-box;margin-top:8px}}</style>"
    "<h1>Sightline</h1>{body}</html>"
)
_FORM: Final = (
    f'{{word}}<form method="post" action="{html.escape(LOGIN)}"><label>Token (SIGHTLINE_TOKEN of the app)'
    '<input name="token" type="password" autofocus autocomplete="current-password"></label>'
    "<button>Open</button></form>"
)
