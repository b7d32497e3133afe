"""What stands before every route: the token, the bounds of a body, the clock, and the last net under errors.

Plain ASGI: a refusal costs no parsing.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import json
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Final

from sightline.services.batching import Refused
from sightline.services.bounds import Bounds
from sightline.services.metrics import Metrics

_log = logging.getLogger(__name__)
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

OPEN: Final = "/health"
"""The one route that needs no token: whoever watches a service holds none."""


class _Gone(Exception):
    """The client hung up."""


def error_body(status: int, message: str) -> bytes:
    """As OpenAI's interface words errors. ASCII: a message may hold half a character of what was sent."""
    kind = "invalid_request_error" if status < 500 else "service_error"
    return json.dumps({"error": {"message": message, "type": kind, "code": status}}).encode()


def error_headers(status: int) -> dict[str, str]:
    """``Retry-After`` where the same request may go well later."""
    more = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "1"}, 503: {"Retry-After": "1"}}
    return more.get(status, {})


class Door(ABC):
    """Before an ASGI application: requests of HTTP come in through ``_http``, and nothing else does."""

    app: App

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    @abstractmethod
    async def _http(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answers one request, or lets it through."""


@dataclass(kw_only=True)
class Guard(Door):
    """Lets requests through that hold the token and stay within the bounds."""

    app: App
    token: str = field(repr=False)
    """Demanded of every route but ``/health``; empty: of none, and the host must be named as this machine."""
    bounds: Bounds
    metrics: Metrics
    routes: Collection[str]
    """Paths that are told apart in the metrics."""
    held: int = 0
    """Bytes of bodies that are being received or worked on."""

    async def _http(self, scope: Message, receive: Receive, send: Send) -> None:
        started, status, held = time.monotonic(), 0, _Held()

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            self._let_in(scope)
            body = await self._body(scope, receive, held)
            await self._answered(scope, receive, noted, body)
        except Refused as refused:
            await _refuse(noted, refused)
        except _Gone:
            status = 499
        except Exception:  # the process boundary; what the routes expect they answer themselves
            _log.exception("A request failed")
            if not status:
                await _refuse(noted, Refused(500, "the service failed; its log says more"))
        finally:
            self.held -= held.bytes
            route = scope["path"] if scope["path"] in self.routes else "other"
            self.metrics.request(route, status, time.monotonic() - started)

    def _let_in(self, scope: Message) -> None:
        headers = scope["headers"]
        if not self.token:
            if not of_this_machine(headers):
                raise Refused(403, "the service is asked by another name than that of this machine, and has no token")
        elif scope["path"] != OPEN:
            given = header_of(headers, b"authorization")
            if not hmac.compare_digest(given, b"Bearer " + self.token.encode()):
                raise Refused(401, "the request has no bearer token, or a wrong one")

    async def _body(self, scope: Message, receive: Receive, held: _Held) -> bytes:
        told = header_of(scope["headers"], b"content-length")
        if told.isdigit() and int(told[:20]) > self.bounds.body:
            raise self._too_large()
        ends, pieces = time.monotonic() + self.bounds.upload, list[bytes]()
        while True:
            try:
                message = await asyncio.wait_for(receive(), max(0.0, ends - time.monotonic()))
            except asyncio.TimeoutError:
                raise Refused(408, f"the body is not whole after {self.bounds.upload:g} s") from None
            if message["type"] == "http.disconnect":
                raise _Gone
            piece = message.get("body", b"")
            held.bytes += len(piece)
            self.held += len(piece)
            pieces.append(piece)
            if held.bytes > self.bounds.body:
                raise self._too_large()
            if self.held > self.bounds.held:
                raise Refused(429, "the service holds as many bytes of requests as it may; ask again later")
            if not message.get("more_body"):
                return b"".join(pieces)

    def _too_large(self) -> Refused:
        return Refused(413, f"the body has more than {self.bounds.body} bytes; send fewer or smaller pictures")

    async def _answered(self, scope: Message, receive: Receive, send: Send, body: bytes) -> None:
        """Runs the routes until they have answered, or the client is gone: then the work on it ends."""
        sent = False

        async def replay() -> Message:
            nonlocal sent
            if sent:
                await asyncio.Event().wait()  # whether the client is gone is seen below
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        answering = asyncio.ensure_future(self.app(scope, replay, send))
        leaving = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                raise _Gone
            answering.result()
        finally:
            for one in (answering, leaving):
                one.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await one


@dataclass
class _Held:
    bytes: int = 0


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _refuse(send: Send, refused: Refused) -> None:
    content = error_body(refused.status, refused.message)
    headers = {"Content-Type": "application/json", "Content-Length": str(len(content)), "Connection": "close"}
    headers |= error_headers(refused.status)
    pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refused.status, "headers": pairs})
    await send({"type": "http.response.body", "body": content})


def header_of(headers: list[tuple[bytes, bytes]], name: bytes) -> bytes:
    """The first of a name, in lower case; empty where there is none."""
    return next((value for key, value in headers if key == name), b"")


def of_this_machine(headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether a request names this machine, and comes from no page of another one: a page in a browser may have a name
    that leads here, or send without reading the reply."""
    host, origin = (header_of(headers, name).decode("latin-1") for name in (b"host", b"origin"))
    return (not host or is_local(_name(host))) and (not origin or is_local(_name(origin.partition("//")[2])))


def is_local(host: str) -> bool:
    """Whether a name or an address is of this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _name(host: str) -> str:
    """A host without its port."""
    return host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]
