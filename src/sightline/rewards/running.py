"""Rewards measured by those before them."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace

from sightline.recipes.standardise import StandardiseSpec
from sightline.types import Group, Response


class RunningScores:
    """The last rewards, and where another stands among them.

    >>> scores = RunningScores(StandardiseSpec(window=3, scale=10, clip=9))
    >>> scores.add([5.0, 1.0, 2.0, 3.0])
    >>> scores.state(), [scores(value) for value in (2.0, 2.5, 4.0)]
    ([1.0, 2.0, 3.0], [0.0, 5.0, 9.0])
    """

    def __init__(self, spec: StandardiseSpec | None) -> None:
        """``spec`` None: rewards are trained as they are."""
        self._spec = spec
        self._last: deque[float] = deque(maxlen=0 if spec is None else spec.window)
        self._mean = self._deviation = 0.0

    def add(self, values: Iterable[float]) -> None:
        """Takes rewards in, in their order; the oldest leave."""
        self._last.extend(values)
        self._mean = statistics.fmean(self._last) if self._last else 0.0
        self._deviation = statistics.stdev(self._last) if len(self._last) > 1 else 0.0

    def __call__(self, value: float) -> float:
        """The reward as it is trained."""
        if self._spec is None:
            return value
        if not self._deviation:
            return 0.0
        found = self._spec.scale * (value - self._mean) / self._deviation
        bound = self._spec.clip
        return found if bound is None else min(max(found, -bound), bound)

    def measured(self, kept: Sequence[Group], scored: Iterable[Group | None]) -> list[Group]:
        """The groups that are trained, their rewards measured; named parts of rewards stay as they are.

        Args:
            kept: groups to train.
            scored: all groups of the round in their order, whose rewards are taken in; None: one has none.
        """
        if self._spec is None:
            return list(kept)
        answers = [one for group in scored if group is not None for one in group.responses]
        self.add(one.reward for one in answers if one.reward is not None)
        return [replace(group, responses=tuple(map(self._measured, group.responses))) for group in kept]

    def _measured(self, response: Response) -> Response:
        return response if response.reward is None else replace(response, reward=self(response.reward))

    def state(self) -> list[float]:
        """For a checkpoint."""
        return list(self._last)

    def restore(self, state: Sequence[float]) -> None:
        self._last.clear()
        self.add(state)
