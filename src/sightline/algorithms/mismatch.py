"""Answers come from a sampler whose probabilities differ from the trainer's: weights that correct the gradient."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from sightline.algorithms.pairs import check_range
from sightline.errors import RecipeError
from sightline.ops.mismatch import MismatchAction, MismatchLevel, mismatch_ratio, mismatch_weight
from sightline.ops.reductions import segment_mean
from sightline.types import Batch, Stat


@dataclass(frozen=True, kw_only=True)
class Mismatch:
    """Weights of tokens from the gap between ``old_logprobs`` (the trainer's) and ``rollout_logprobs`` (the sampler's).

    They multiply the policy gradient, not the KL term, and have no gradient of their own.

    >>> Mismatch(level="token", action="mask", low=0.5, high=5.0) == MISMATCHES["icepop"]
    True
    """

    level: MismatchLevel = "token"
    """Ratio of the ``token``, of the whole ``sequence`` (the product), or its ``geometric`` mean over the tokens."""
    action: MismatchAction = "truncate"
    """``truncate``: the ratio, cut at the bounds; ``mask``: the ratio, 0 outside; ``reject``: 1, 0 outside."""
    low: float = 0.0
    """Least ratio inside, >= 0."""
    high: float = 2.0
    """Greatest ratio inside, above ``low``."""

    __pydantic_config__ = {"extra": "forbid"}

    def __post_init__(self) -> None:
        check_range("mismatch.low", self.low, least=0)
        check_range("mismatch.high", self.high, above=self.low)

    def weight(self, batch: Batch) -> Tensor:
        """[N] for a batch with both log-probabilities."""
        return mismatch_weight(self._ratio(batch), self.action, self.low, self.high)

    def _ratio(self, batch: Batch) -> Tensor:
        assert batch.old_logprobs is not None and batch.rollout_logprobs is not None
        gap = batch.old_logprobs - batch.rollout_logprobs
        return mismatch_ratio(gap, batch.response, batch.num_responses, self.level)

    def stats(self, batch: Batch) -> dict[str, Stat]:
        """The ratio under TRL's names, and the share of tokens whose ratio is outside the bounds."""
        ratio_N = self._ratio(batch)
        outside_N = ((ratio_N < self.low) | (ratio_N > self.high)).to(ratio_N.dtype)
        once = ratio_N
        if self.level != "token":  # one ratio per response that has tokens
            once = segment_mean(ratio_N, batch.response, batch.num_responses)[batch.answered()]
        return {
            "sampling/importance_sampling_ratio/mean": Stat(sum=once.sum(), count=once.shape[0]),
            **extreme("sampling/importance_sampling_ratio/min", once, "min"),
            **extreme("sampling/importance_sampling_ratio/max", once, "max"),
            "sampling/outside": Stat(sum=outside_N.sum(), count=outside_N.shape[0]),
        }


MISMATCHES: Mapping[str, Mismatch] = {
    "tis": Mismatch(level="token", action="truncate", high=2.0),
    "mis": Mismatch(level="token", action="mask", high=2.0),
    "icepop": Mismatch(level="token", action="mask", low=0.5, high=5.0),
    "sequence_tis": Mismatch(level="sequence", action="truncate", high=3.0),
    "sequence_mis": Mismatch(level="sequence", action="mask", high=3.0),
    "sequence_rejection": Mismatch(level="geometric", action="reject", low=0.99, high=1.01),
}
"""By name: truncated and masked importance sampling (Yao et al. 2025), IcePop (Ling team 2025, arXiv 2510.18855), the
same for whole answers (``sequence_mis`` is what TRL does by default), and rejection of answers whose tokens differ by
more than 1 % on average."""


def mismatch_of(value: str | Mismatch | None) -> Mismatch | None:
    """What an option stands for.

    Raises:
        RecipeError: no preset of that name.
    """
    if not isinstance(value, str):
        return value
    if value not in MISMATCHES:
        listed = ", ".join(MISMATCHES)
        raise RecipeError(
            f"algorithm.mismatch is {value!r}; choose one of {listed}, or give level, action, low and high."
        )
    return MISMATCHES[value]


def gap_stats(old: Tensor, rollout: Tensor) -> dict[str, Stat]:
    """How far the sampler's log-probabilities [N] are from the trainer's, under TRL's names."""
    gap = (old - rollout).abs()
    return {
        "sampling/sampling_logp_difference/mean": Stat(sum=gap.sum(), count=gap.shape[0]),
        **extreme("sampling/sampling_logp_difference/max", gap, "max"),
    }


def extreme(name: str, values: Tensor, kind: str) -> dict[str, Stat]:
    """The least or the greatest of some values, which may be none."""
    if kind == "max":
        return {
            name: Stat(sum=values.max() if len(values) else values.new_tensor(-math.inf), count=len(values), kind="max")
        }
    return {name: Stat(sum=values.min() if len(values) else values.new_tensor(math.inf), count=len(values), kind="min")}
