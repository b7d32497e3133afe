"""Where the time of an online step goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal, get_args

import torch

from sightline.types import Stat

Part = Literal["sync", "sampling", "reward", "pictures", "waiting", "old_logprobs", "reference", "update"]
PARTS: Final[tuple[Part, ...]] = get_args(Part)
"""The policy is brought to the engine, answers are sampled, scored, given their negative pictures; what goes on
meanwhile, here and on other processes, is waited for; the policy reads them before the round (its critic
too), and the reference; forward, backward and optimizer. What is left of a step is ``rest``."""


class Clock:
    """Seconds that a step spends in each of its parts. What is entered within another part is not of that one.

    >>> clock = Clock(torch.device("cpu"))
    >>> with clock("update"), clock("reference"):
    ...     pass
    >>> list(clock.stats(1.0))[-2:]
    ['time/update', 'time/rest']
    """

    def __init__(self, device: torch.device, *, on: bool = True) -> None:
        """
        Args:
            device: A GPU runs behind the program, and is waited for where a part begins and ends.
            on: False: nothing is measured, and nobody waits.
        """
        self._device, self._on = device, on
        self._seconds: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        self._inside: list[Part] = []
        self._since = 0.0

    @contextmanager
    def __call__(self, part: Part) -> Iterator[None]:
        """Around what belongs to a part."""
        if not self._on:
            yield
            return
        self._charge()
        self._inside.append(part)
        try:
            yield
        finally:
            self._charge()
            self._inside.pop()

    def restart(self) -> None:
        """A step begins."""
        self._seconds = dict.fromkeys(self._seconds, 0.0)

    def stats(self, seconds: float) -> dict[str, Stat]:
        """Seconds of each part of a step that took so many, for the mean over steps and ranks."""
        if not self._on:
            return {}
        told = {**self._seconds, "rest": seconds - sum(self._seconds.values())}
        return {
            f"time/{name}": Stat(sum=torch.tensor(value, dtype=torch.float64), count=1) for name, value in told.items()
        }

    def _charge(self) -> None:
        """What passed since the last call belongs to the part that is inside."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        if self._inside:
            self._seconds[self._inside[-1]] += now - self._since
        self._since = now
