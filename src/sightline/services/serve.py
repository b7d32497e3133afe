"""A service in this process, until it is told to stop; what was asked before that is answered."""

from __future__ import annotations

import functools
import math
import socket
from collections.abc import Callable

import uvicorn

from sightline.errors import RecipeError
from sightline.services.bounds import Bounds
from sightline.services.build import build_service
from sightline.services.connection import Connection
from sightline.services.spec import ServeSpec

_GRACE = 5
"""Seconds beyond the longest request that a stop waits for answers."""


def serve(spec: ServeSpec, *, on_start: Callable[[str], None]) -> None:
    """Serves until SIGINT or SIGTERM: then nothing new is taken, requests under way are answered, and it ends.

    Args:
        spec: What is served.
        on_start: Told the address once the model is there and connections are taken.

    Raises:
        RecipeError: The address cannot be bound, or what is served is not there.
    """
    with bound_socket(spec.host, spec.port) as bound:  # first: a port that is taken is said at once
        app = build_service(spec)
        bound.listen(2048)
        on_start(address_of(bound))
        server_of(spec, app).run(sockets=[bound])


def server_of(spec: ServeSpec, app: object) -> uvicorn.Server:
    """The web server, with the limits of the service."""
    bounds = spec.bounds
    return web_server(app, bounds, grace=math.ceil(bounds.seconds) + _GRACE, connections=bounds.connections)


class _Server(uvicorn.Server):
    """One that tells when it stops, before it waits for what is under way."""

    on_stop: Callable[[], None] | None = None

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self.on_stop is not None:
            self.on_stop()
        await super().shutdown(sockets)


def web_server(
    app: object,
    bounds: Bounds,
    *,
    grace: int,
    connections: int | None = None,
    on_stop: Callable[[], None] | None = None,
) -> uvicorn.Server:
    """HTTP alone, of whose connections each keeps to the bounds.

    Args:
        app: an ASGI application.
        bounds: seconds and bytes of a request.
        grace: seconds that a stop waits for answers.
        connections: at most so many at once; None: as many as come.
        on_stop: Called when a stop begins.
    """
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        http=functools.partial(Connection, bounds=bounds),  # type: ignore[arg-type]  # called as a class is
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=connections,
        timeout_graceful_shutdown=grace,
    )
    server = _Server(config)
    server.on_stop = on_stop
    return server


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket bound to an address.

    Raises:
        RecipeError: It cannot be bound.
    """
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(place)
    except (OSError, OverflowError) as error:
        raise RecipeError(
            f"{host}:{port} cannot be bound ({error}). Stop what serves there, or take another --port"
        ) from error
    return bound


def address_of(bound: socket.socket) -> str:
    """For browsers and clients."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
