"""One POST with one deadline: for the connection, the headers, the status and the body together.

The time-outs of a socket hold for each read by itself, so that a server that sends a byte now and then is never done.
Here the connection is shut at the deadline, whatever it is at. Redirects are not followed: the key would go with them.
"""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import math
import os
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sightline.addresses import Again, shown_url
from sightline.errors import DataError

LARGEST: Final = 16 << 20
"""Most bytes of a reply."""
TOKEN_NAME: Final = "SIGHTLINE_TOKEN"
"""Environment name for the token of Sightline's services: what they demand, and what their clients send."""
_LARGEST_REFUSAL: Final = 1 << 16
"""Bytes of a refusal that are read: the reason stands in front."""
_SHOWN: Final = 300
"""Characters of a body that a message shows."""
_REFUSED: Final = (401, 402, 403, 404, 405)
"""Of Sightline's services: wrong address, or no right to ask. Every request would fail."""
_AGAIN: Final = (408, 409, 425, 429)
"""Of Sightline's services, and all from 500 on."""


@dataclass(frozen=True, kw_only=True)
class HttpReply:
    """What a server answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    """Of a refusal the beginning."""


class TooLarge(Exception):
    """The reply has more than :data:`LARGEST` bytes."""


def post(url: str, body: bytes, headers: Mapping[str, str], *, seconds: float) -> HttpReply:
    """Sends ``body`` and reads what comes, through the proxies of the environment.

    Raises:
        TimeoutError: The reply is not whole after ``seconds``.
        TooLarge: See :class:`TooLarge`.
        OSError: There is no connection.
        http.client.HTTPException: What came is no HTTP, or ends in the middle.
    """
    watch = _Watch(seconds)
    opener = urllib.request.build_opener(_Plain(watch), _Encrypted(watch), _NoRedirects)
    request = urllib.request.Request(url, data=body, headers=dict(headers))
    with watch.running():
        try:
            with opener.open(request, timeout=seconds) as answer:
                return HttpReply(status=answer.status, headers=dict(answer.headers), body=_whole(answer))
        except urllib.error.HTTPError as error:
            with error:
                return HttpReply(status=error.code, headers=dict(error.headers), body=_beginning(error))


def _whole(answer: Any) -> bytes:
    content = bytearray()
    while piece := answer.read1(1 << 16):
        content += piece
        if len(content) > LARGEST:
            raise TooLarge(f"the reply has more than {LARGEST} bytes")
    if answer.length:
        raise http.client.IncompleteRead(bytes(content), answer.length)
    return bytes(content)


def _beginning(error: urllib.error.HTTPError) -> bytes:
    with contextlib.suppress(OSError, http.client.HTTPException):  # the connection may end before the reason does
        return error.read(_LARGEST_REFUSAL)
    return b""


def service_token() -> str:
    """The token that the environment holds; empty where it holds none.

    Raises:
        DataError: It cannot be sent in a header; does not show it.
    """
    token = os.environ.get(TOKEN_NAME, "").strip()
    if not all("!" <= sign <= "~" for sign in token):
        raise DataError(
            f"{TOKEN_NAME} has a line end, a blank or a letter beyond ASCII in it",
            remedy="Correct it (it is not shown here)",
        )
    return token


def ask_service(url: str, body: bytes, token: str, *, seconds: float, name: str, remedy: str) -> HttpReply:
    """A JSON request to one of Sightline's services.

    Args:
        url: Where.
        body: JSON.
        token: Sent with it; empty: none is.
        seconds: Until the reply is whole.
        name: Of the service, for errors.
        remedy: What to correct where every request would fail.

    Returns:
        A reply that is whole, or a refusal of this request alone (status from 400 on).

    Raises:
        Again: It is away, or asks to be asked later.
        DataError: It refuses address or token, or sends the request elsewhere.
    """
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
    try:
        reply = post(url, body, headers, seconds=seconds)
    except (http.client.HTTPException, OSError, TooLarge) as error:
        raise Again(hidden(f"{type(error).__name__}: {error}", token)) from error
    said = f"HTTP {reply.status}: {shown_body(reply, token)}"
    if 300 <= reply.status < 400 or reply.status in _REFUSED:
        raise DataError(f"the {name} service answered {said}", source=shown_url(url), remedy=remedy)
    if reply.status >= 500 or reply.status in _AGAIN:
        raise Again(said, retry_after(reply.headers))
    return reply


def shown_body(reply: HttpReply, secret: str) -> str:
    """The beginning of a body, for a message. The secret goes before it is cut: a part of it would not be known."""
    return hidden(reply.body[:_LARGEST_REFUSAL].decode("utf-8", "replace"), secret)[:_SHOWN]


def hidden(text: str, secret: str) -> str:
    """A text without the secret: a server may say what it was sent."""
    return text.replace(secret, "***") if secret else text


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to be left alone, from a header that holds seconds or a date; None: it does not."""
    value = next((value for name, value in headers.items() if name.lower() == "retry-after"), None)
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        pass
    else:
        return max(0.0, seconds) if math.isfinite(seconds) else None
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


class _Watch:
    """Shuts the connections of one request at its deadline."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.deadline = seconds, time.monotonic() + seconds
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._late = False
        self._told = f"timed out within the reply: it is not whole after {seconds:g} s"

    def connect(self, address: tuple[str, int], *_: Any) -> socket.socket:
        """A connection to the first of the host's addresses that takes one, within what is left of the time."""
        failure: OSError | None = None
        for family, kind, protocol, _name, place in socket.getaddrinfo(*address, type=socket.SOCK_STREAM):
            left = self.deadline - time.monotonic()
            if left <= 0:
                break
            connection = socket.socket(family, kind, protocol)
            try:
                connection.settimeout(left)
                connection.connect(place)
            except OSError as error:
                connection.close()
                failure = error
                continue
            self._guard(connection)
            return connection
        raise failure or TimeoutError("timed out")

    def _guard(self, connection: socket.socket) -> None:
        """Holds a second handle of the connection: the first is given away where it becomes an encrypted one."""
        with self._lock:
            self._sockets.append(connection.dup())

    def _shut(self) -> None:
        with self._lock:
            self._late = True
            for one in self._sockets:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """While it runs the deadline holds; what a shut connection ends in becomes ``TimeoutError``."""
        timer = threading.Timer(self.seconds, self._shut)
        timer.daemon = True
        timer.start()
        try:
            yield
        except (OSError, http.client.HTTPException, ValueError) as error:
            if self._late:
                raise TimeoutError(self._told) from error
            raise
        finally:
            timer.cancel()
            with self._lock:
                for one in self._sockets:
                    one.close()
                self._sockets.clear()
        if self._late:  # a body without a length ends where the connection is shut
            raise TimeoutError(self._told)


class _Plain(urllib.request.HTTPHandler):
    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self.watch = watch

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        def connection(host: str, **options: Any) -> http.client.HTTPConnection:
            return _watched(http.client.HTTPConnection(host, **options), self.watch)

        return self.do_open(connection, req)


class _Encrypted(urllib.request.HTTPSHandler):
    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self.watch = watch

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        def connection(host: str, **options: Any) -> http.client.HTTPConnection:
            return _watched(http.client.HTTPSConnection(host, **options), self.watch)

        return self.do_open(connection, req)


def _watched(connection: http.client.HTTPConnection, watch: _Watch) -> http.client.HTTPConnection:
    # how http.client lets its own tests connect elsewhere; set before the first byte, so tunnels and TLS are watched
    connection._create_connection = watch.connect  # type: ignore[attr-defined]
    return connection


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None
