"""Requests that come one by one, worked on together: a queue with a limit, and one thread that does the work."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from sightline.errors import SightlineError
from sightline.services.bounds import Bounds
from sightline.services.metrics import Metrics

_log = logging.getLogger(__name__)
Item = TypeVar("Item")
Made = TypeVar("Made")


class Refused(Exception):
    """A request that is not answered as it asks, and the status that says so."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


@dataclass(kw_only=True, eq=False)
class _Waiting(Generic[Item, Made]):
    item: Item
    made: asyncio.Future[Made]


@dataclass(kw_only=True)
class Batcher(Generic[Item, Made]):
    """Gives what waits to ``run``, up to ``bounds.batch`` items at a time, in the order in which they came.

    An item whose client has gone, or whose time is over, before its turn is not worked on.
    """

    run: Callable[[Sequence[Item]], Sequence[Made | Refused]]
    """Works on items together, in a thread of its own; what it makes of one does not depend on the others. It is
    called with each by itself where it raises for several."""
    bounds: Bounds
    metrics: Metrics
    busy_since: float | None = None
    """When the work in progress began, on the monotonic clock; None: there is none."""
    _queue: collections.deque[_Waiting[Item, Made]] = field(default_factory=collections.deque)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Items in the queue."""
        return len(self._queue)

    @property
    def busy_seconds(self) -> float:
        """How long the work in progress has taken so far."""
        since = self.busy_since
        return 0.0 if since is None else time.monotonic() - since

    @contextlib.asynccontextmanager
    async def running(self):  # type: ignore[no-untyped-def]
        """While it runs, what is submitted is worked on."""
        self._wake = asyncio.Event()  # of the loop that runs now
        thread = ThreadPoolExecutor(1, thread_name_prefix="batch")
        self._task = asyncio.create_task(self._serve(thread))
        try:
            yield
        finally:
            self._task.cancel()
            for one in self._queue:
                one.made.cancel()
            thread.shutdown(wait=False, cancel_futures=True)

    async def submit(self, item: Item) -> Made:
        """What ``run`` makes of an item.

        Raises:
            Refused: 429 where the queue is full, 504 where it takes too long, or what ``run`` says of the item.
        """
        if len(self._queue) >= self.bounds.queue:
            raise Refused(429, f"{self.bounds.queue} requests wait already; ask again later, or another server")
        waiting: _Waiting[Item, Made] = _Waiting(item=item, made=asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._wake.set()
        try:
            return await asyncio.wait_for(waiting.made, self.bounds.seconds)
        except asyncio.TimeoutError:
            raise Refused(504, f"no answer within {self.bounds.seconds:g} s") from None
        finally:
            with contextlib.suppress(ValueError):
                self._queue.remove(waiting)

    async def _serve(self, thread: ThreadPoolExecutor) -> None:
        while True:
            await self._wake.wait()
            if len(self._queue) < self.bounds.batch:
                await asyncio.sleep(self.bounds.company)
            batch = [self._queue.popleft() for _ in range(min(self.bounds.batch, len(self._queue)))]
            if not self._queue:
                self._wake.clear()
            if batch := [one for one in batch if not one.made.done()]:
                await self._work(thread, batch)

    async def _work(self, thread: ThreadPoolExecutor, batch: Sequence[_Waiting[Item, Made]]) -> None:
        self.busy_since = started = time.monotonic()
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(thread, self._made, [one.item for one in batch])
        self.busy_since = None
        self.metrics.batch(len(batch), time.monotonic() - started)
        for one, made in zip(batch, found, strict=True):
            if one.made.done():
                continue
            if isinstance(made, Exception):
                one.made.set_exception(made)
            else:
                one.made.set_result(made)

    def _made(self, items: Sequence[Item]) -> Sequence[Made | Exception]:
        """In the thread. An error of one item is its own."""
        try:
            made = self.run(items)
            assert len(made) == len(items), f"{len(made)} results for {len(items)} items"
            return made
        except Exception as error:  # the process boundary: nothing that a request holds may end the service
            if len(items) > 1:
                return [one for item in items for one in self._made([item])]
            if isinstance(error, SightlineError):
                return [Refused(422, str(error))]
            _log.exception("The work on a request failed")
            return [Refused(500, f"the work failed ({type(error).__name__}); the log of the service says more")]
