"""What a round of sampling reports, under TRL's names where the meaning is the same."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from sightline.negatives.generated import Pairing
from sightline.negatives.pairs import Outcome
from sightline.relations.scores import apart, rounding
from sightline.types import Group, Response, Stat


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """One prompt's group: as it was scored, and as it is trained."""

    scored: Group | None
    """With all responses and the edges between them; None: its reward failed."""
    trained: Group | None
    """None: no response left, no edge (a tie), no picture, or equal rewards that dynamic sampling leaves out."""
    pairs: tuple[Pairing, ...] = ()
    """Its comparisons and what became of their negative pictures, where such are made."""


def sampled_stats(sampled: Sequence[Sampled]) -> dict[str, Stat]:
    """Means over one rank's part of a round."""
    scored = [one.scored for one in sampled if one.scored is not None]
    responses = [response for group in scored for response in group.responses if not response.greedy]
    ended = [response for response in responses if response.finish_reason != "length"]
    stats = {
        "reward": _stat([response.reward for response in responses if response.reward is not None]),
        "completions/mean_length": _stat(_lengths(responses)),
        "completions/mean_terminated_length": _stat(_lengths(ended)),
        **_extremes("completions/{}_length", _lengths(responses)),
        **_extremes("completions/{}_terminated_length", _lengths(ended)),
        "completions/clipped_ratio": _stat([float(r.finish_reason == "length") for r in responses]),
        "frac_reward_zero_std": _stat([float(all_equal(group)) for group in scored]),
        "rollout/failed_rewards": _stat([float(_unrewarded(one.scored)) for one in sampled]),
        "rollout/failed_answers": _stat([float(response.reward is None) for response in responses]),
        "rollout/without_edge": _stat([float(one.trained is None) for one in sampled if one.scored is not None]),
    }
    pairs = [pair.outcome for one in sampled for pair in one.pairs]
    if pairs:
        stats |= {f"negatives/{name}": _stat([float(one == name) for one in pairs]) for name in get_args(Outcome)}
    for name in sorted({name for response in responses for name in response.rewards}):
        values = [response.rewards[name] for response in responses if name in response.rewards]
        stats[f"rewards/{name}/mean"] = _stat(values)
    return stats


def round_stats(sampled: Sequence[Sampled], attempts: int) -> dict[str, Stat]:
    """Deviations over all of a round, and how often prompts were sampled for it: for one rank to report."""
    responses = [r for one in sampled if one.scored is not None for r in one.scored.responses if not r.greedy]
    stats = _deviation("reward_std", [r.reward for r in responses if r.reward is not None])
    stats["rollout/attempts"] = _stat([float(attempts)])
    for name in sorted({name for response in responses for name in response.rewards}):
        stats |= _deviation(f"rewards/{name}/std", [r.rewards[name] for r in responses if name in r.rewards])
    return stats


def all_equal(group: Group) -> bool:
    """Whether all sampled answers that have a reward have the same, but for rounding."""
    sampled = [response for response in group.responses if not response.greedy]
    rewards = [response.reward for response in sampled if response.reward is not None]
    return not rewards or not apart(max(rewards), min(rewards), dust=rounding(sampled))


def _unrewarded(scored: Group | None) -> bool:
    """Whether no answer of a group has a reward."""
    return scored is None or all(response.reward is None for response in scored.responses)


def _lengths(responses: Sequence[Response]) -> list[float]:
    return [float(len(response.tokens)) for response in responses if response.tokens is not None]


def _deviation(name: str, values: Sequence[float]) -> dict[str, Stat]:
    return {name: _stat([statistics.stdev(values)])} if len(values) > 1 else {}


def _extremes(name: str, values: Sequence[float]) -> dict[str, Stat]:
    kinds: tuple[Literal["max", "min"], ...] = ("max", "min")
    bounds = {"max": max(values, default=-math.inf), "min": min(values, default=math.inf)}
    return {
        name.format(kind): Stat(sum=torch.tensor(bounds[kind], dtype=torch.float64), count=len(values), kind=kind)
        for kind in kinds
    }


def _stat(values: Sequence[float]) -> Stat:
    return Stat(sum=torch.tensor(float(sum(values)), dtype=torch.float64), count=len(values))
