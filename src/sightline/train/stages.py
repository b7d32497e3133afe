"""What is under way between sampling and training, and the threads in which it is scored and painted meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from sightline.data.schema import group_from_json, group_to_json, relative_to
from sightline.negatives.generated import Pairing
from sightline.recipes.negatives import StagesSpec
from sightline.train.rollout_stats import Sampled
from sightline.types import Group

Answered = Sequence[Group | None]
"""Prompts with their answers; None: there is no answer."""


class Line:
    """Two stages behind the sampling: each has threads of its own, takes chunks in their order, and hands them on.

    What becomes of a chunk depends on the chunk alone, so that the order in which chunks are done changes nothing.
    """

    def __init__(
        self,
        spec: StagesSpec,
        *,
        judge: Callable[[Answered], list[Sampled]],
        paint: Callable[[Sequence[Sampled]], list[Sampled]],
    ) -> None:
        """
        Args:
            spec: threads, and the bound of what is under way.
            judge: scores and relates a chunk.
            paint: makes its pictures.
        """
        self._judge, self._paint = judge, paint
        self._judging = ThreadPoolExecutor(spec.scorers, thread_name_prefix="judge")
        self._painting = ThreadPoolExecutor(spec.painters, thread_name_prefix="paint")
        self._room = threading.BoundedSemaphore(spec.queue)

    def submit(self, answered: Answered) -> Future[list[Sampled]]:
        """Sends a chunk on its way; waits where too many are on it."""
        self._room.acquire()
        judged = self._judging.submit(self._judge, answered)
        # the stage takes its chunks in their order, and waits for each: pictures are made as they would be in turn
        painted = self._painting.submit(lambda: self._paint(judged.result()))
        painted.add_done_callback(lambda _: self._room.release())
        return painted

    def close(self) -> None:
        """Drops what has not begun; what has is not waited for."""
        for pool in (self._painting, self._judging):
            pool.shutdown(wait=False, cancel_futures=True)


@dataclass(kw_only=True)
class Launched:
    """Prompts whose answers are sampled, and which are on their way to be trained."""

    number: int
    """The round that they are for."""
    asked: int
    """How many, on all ranks."""
    since: int
    """The round in which they were sampled."""
    done: list[Sampled] = field(default_factory=list)
    """This rank's, where stages take turns."""
    waiting: list[Future[list[Sampled]]] = field(default_factory=list)
    """This rank's chunks, where stages overlap."""
    dealt: list[Sampled] | None = None
    """Those of all ranks in the order of the prompts; None: not settled yet."""

    def own(self) -> list[Sampled]:
        """This rank's, once they are done.

        Raises:
            Exception: what a stage raised.
        """
        return [*self.done, *(one for future in self.waiting for one in future.result())]


def launched_to_json(launched: Launched, folder: Path, below: Path | None = None) -> dict[str, Any]:
    """A settled launch, for a checkpoint: what was paid for is not asked again. Pictures below ``folder``, that of the
    run, or ``below``, are named relative to ``folder``."""
    assert launched.dealt is not None, "settled before"
    written = partial(group_to_json, folder=folder, below=below)
    rows = [
        {
            "scored": None if one.scored is None else written(one.scored),
            "trained": None if one.trained is None else written(one.trained),
            "pairs": [{"group": written(pair.group), "outcome": pair.outcome} for pair in one.pairs],
        }
        for one in launched.dealt
    ]
    return {"number": launched.number, "asked": launched.asked, "since": launched.since, "dealt": rows}


def launched_from_json(row: Mapping[str, Any], folder: Path) -> Launched:
    """See :func:`launched_to_json`."""
    resolve = relative_to(folder)
    dealt = [
        Sampled(
            scored=None if one["scored"] is None else group_from_json(one["scored"], resolve),
            trained=None if one["trained"] is None else group_from_json(one["trained"], resolve),
            pairs=tuple(
                Pairing(group=group_from_json(p["group"], resolve), outcome=p["outcome"]) for p in one["pairs"]
            ),
        )
        for one in row["dealt"]
    ]
    return Launched(number=row["number"], asked=row["asked"], since=row["since"], dealt=dealt)
