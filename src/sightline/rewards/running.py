"""Rewards measured by those before them."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from sightline.recipes.standardise import StandardiseSpec
from sightline.types import Group


class RunningScores:
    """The last rewards, and where another stands among them.

    >>> scores = RunningScores(StandardiseSpec(window=3, scale=10, clip=9))
    >>> scores.add([5.0, 1.0, 2.0, 3.0])
    >>> scores.state(), [scores(value) for value in (2.0, 2.5, 4.0)]
    ([1.0, 2.0, 3.0], [0.0, 5.0, 9.0])
    """

    def __init__(self, spec: StandardiseSpec) -> None:
        self._spec = spec
        self._last: deque[float] = deque(maxlen=spec.window)
        self._mean = self._deviation = 0.0

    def add(self, values: Iterable[float]) -> None:
        """Takes rewards in, in their order; the oldest leave."""
        self._last.extend(values)
        self._mean = statistics.fmean(self._last) if self._last else 0.0
        self._deviation = statistics.stdev(self._last) if len(self._last) > 1 else 0.0

    def __call__(self, value: float) -> float:
        """The reward as it is trained."""
        if not self._deviation:
            return 0.0
        found = self._spec.scale * (value - self._mean) / self._deviation
        bound = self._spec.clip
        return found if bound is None else min(max(found, -bound), bound)

    def state(self) -> list[float]:
        """For a checkpoint."""
        return list(self._last)

    def restore(self, state: Sequence[float]) -> None:
        self._last.clear()
        self.add(state)


def with_rewards(group: Group, measure: Callable[[float], float]) -> Group:
    """The group with every reward as ``measure`` has it; named parts stay as they are."""
    responses = [
        one if one.reward is None else replace(one, reward=measure(one.reward)) for one in group.responses
    ]
    return replace(group, responses=tuple(responses))
