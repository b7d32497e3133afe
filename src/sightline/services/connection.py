"""One connection: its client may neither dawdle with a request's head nor with reading a reply.

The web server has no clock of its own for either, and everybody who can connect could hold all connections.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from sightline.services.bounds import Bounds


class Connection(H11Protocol):
    """Is shut where the head of a request is not whole after ``bounds.upload`` seconds, or where nothing of a reply can
    be sent for ``bounds.seconds``. Until the head is there nobody has shown a token."""

    def __init__(self, *args: Any, bounds: Bounds, **options: Any) -> None:
        super().__init__(*args, **options)
        self._bounds = bounds
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start("head", self._bounds.upload)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop("head")
        elif "head" not in self._timers:
            self._start("head", self._bounds.upload)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._start("reply", self._bounds.seconds)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop("reply")

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for name in tuple(self._timers):
            self._stop(name)

    def _start(self, name: str, seconds: float) -> None:
        self._timers[name] = self.loop.call_later(seconds, self.transport.abort)

    def _stop(self, name: str) -> None:
        if name in self._timers:
            self._timers.pop(name).cancel()
