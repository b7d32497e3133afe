"""A whole reward as one term of a sum."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sightline.rewards.base import Reward, reward_groups
from sightline.rewards.terms import Failure, Value, within
from sightline.types import Group


@dataclass(frozen=True, kw_only=True)
class Scored:
    """The number that another reward gives; an answer that it leaves without one is a failure."""

    reward: Reward
    looks: Callable[[Group], object]
    """Raises ``DataError`` where a prompt of a group without answers lacks what the reward reads."""
    remote: bool = False

    def check(self, groups: Sequence[Group]) -> None:
        for group in groups:
            within(group, self.looks, group)

    def values(self, groups: Sequence[Group]) -> list[list[Value]]:
        missing = Failure(reason="it was left without a reward")
        scored = reward_groups(self.reward, groups)
        return [[missing if r.reward is None else r.reward for r in group.responses] for group in scored]

    def give_up(self) -> None:
        """It never waits."""
