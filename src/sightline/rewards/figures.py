"""What is logged of rewards."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import torch

from sightline.types import Group, Stat


def spreads(groups: Sequence[Group]) -> dict[str, Stat]:
    """``rewards/NAME/std`` of each named part and ``reward_std``: sample standard deviations over all answers.

    Args:
        groups: Those of all processes, so that each logs the same number.
    """
    answers = [response for group in groups for response in group.responses]
    named: dict[str, list[float]] = {"reward_std": [r.reward for r in answers if r.reward is not None]}
    for response in answers:
        for name, value in response.rewards.items():
            named.setdefault(f"rewards/{name}/std", []).append(value)
    return {
        name: Stat(sum=torch.tensor(statistics.stdev(values), dtype=torch.float64), count=1)
        for name, values in named.items()
        if len(values) > 1
    }
