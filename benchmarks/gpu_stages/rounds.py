"""Steps with new lengths, each taken twice: the first time they are new, the second time they are not."""

from __future__ import annotations

import statistics
import time
from typing import Any

from benchmarks.gpu_jobs import Record
from benchmarks.gpu_time import Budget, Clock

MOST = 12
"""Measured pairs of steps."""


class Rounds:
    """Counts and times the steps of one contender; its figures are written after every step.

    Step ``2 k`` has the lengths of draw ``k`` for the first time, step ``2 k + 1`` again. The first draws warm up
    (compiling, tuning); they are recorded apart.
    """

    def __init__(self, clock: Clock, record: Record, seconds: float, *, warm: int, most: int = MOST) -> None:
        """
        Args:
            seconds: no round begins after them, but one is always measured.
            warm: draws that are not measured.
        """
        self._clock, self._record, self._budget = clock, record, Budget(seconds)
        self._warm, self._most = warm, most
        self._began, self._allocated = 0.0, 0
        self._seconds: list[float] = []
        self._hosts: list[float] = []
        self._allocations: list[int] = []

    @property
    def draw(self) -> int:
        """Number of the lengths of the next step."""
        return len(self._seconds) // 2

    @property
    def done(self) -> bool:
        measured = self.draw - self._warm
        if measured < 1 or len(self._seconds) % 2:
            return False
        return measured >= self._most or self._budget.left() < 0

    def begin(self) -> None:
        self._clock.wait()
        if len(self._seconds) == 2 * self._warm:
            self._clock.forget_peak()
        self._allocated = self._clock.allocations()
        self._began = time.perf_counter()

    def end(self) -> None:
        host = time.perf_counter() - self._began
        self._clock.wait()
        self._seconds.append(time.perf_counter() - self._began)
        self._hosts.append(host)
        self._allocations.append(self._clock.allocations() - self._allocated)
        self._record.put(**self.figures())

    def figures(self) -> dict[str, Any]:
        """``seconds`` is the median with new lengths, ``least`` the least of them; ``new_to_repeated`` the median of
        the ratios of the two steps of a draw; ``host`` how long the program took to hand a step to the device;
        ``allocations`` how often each step with new lengths asked the driver for memory."""
        first = 2 * self._warm
        new, repeated = self._seconds[first::2], self._seconds[first + 1 :: 2]
        found: dict[str, Any] = {"warm_up": self._seconds[:first], "steps": len(new) + len(repeated)}
        if not new:
            return found
        found |= {"seconds": statistics.median(new), "least": min(new), "new": new, "repeated": repeated}
        found["allocations"] = self._allocations[first::2]
        found |= {"host": statistics.median(self._hosts[first:]), "peak_mb": self._clock.peak_mb()}
        if repeated:
            ratios = [one / other for one, other in zip(new, repeated, strict=False)]
            found["new_to_repeated"] = statistics.median(ratios)
        return found
