"""VPPO: advantages go to answers and tokens that depend on the picture (Huang et al. 2025, arXiv 2510.09285)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sightline.algorithms.masked import Apart
from sightline.algorithms.pairs import check_range, mean
from sightline.errors import RecipeError
from sightline.ops.perception import dependence, share_of, top_share
from sightline.ops.reductions import segment_mean
from sightline.types import Batch, Stat, World

_FLAT = 1e-6
"""Answers of a round whose dependence differs by no more are all weighed alike."""


@dataclass(frozen=True, kw_only=True)
class Vppo:
    """Two uses of one measure: how much a token depends on the picture, ``KL(π(·|I) ‖ π(·|masked I))`` under the policy
    before the round, estimated by k3 at the token that was sampled.

    Of each answer only the ``share`` of tokens that depend most keep their advantage; the others have none, and count
    in the normaliser as before. The advantage of an answer is weighed by its mean dependence: from ``least`` for the
    answer of the round that depends least, in a straight line, so that the mean of the weights is 1.
    """

    kind: Literal["vppo"] = "vppo"
    share: float = 0.4
    """Of an answer's tokens that keep their advantage, rounded up, in (0, 1]; 1: all."""
    least: float = 0.9
    """Least weight of an answer, in [0, 1]; 1: no weights."""
    entropy: float = 0.06
    """Weight of the entropy, estimated by the negative log-probability of each token, which is minimised, >= 0."""
    most: float = 10.0
    """Largest dependence of a token, > 0."""

    __pydantic_config__ = {"extra": "forbid"}

    def __post_init__(self) -> None:
        for name in ("share", "least"):
            if vars(self)[name] > 1:
                raise RecipeError(f"algorithm.perception.{name} is {vars(self)[name]}; it must be at most 1.")
        check_range("perception.share", self.share, above=0)
        check_range("perception.least", self.least, least=0)
        check_range("perception.entropy", self.entropy, least=0)
        check_range("perception.most", self.most, above=0)

    def dependences(self, whole: Batch, apart: Apart) -> Tensor:
        """[n] of the answers' tokens."""
        assert whole.old_logprobs is not None
        return dependence(whole.old_logprobs[apart.own], whole.old_logprobs[apart.masked], self.most)

    def shaped(self, batches: Sequence[Batch], counted: Sequence[bool], world: World) -> list[Batch]:
        """The answers of a round with their advantages weighed and filtered.

        Args:
            batches: with ``advantages`` and ``dependence``, answers under their own picture alone.
            counted: False for one that runs for company only.
            world: sums over ranks.
        """
        scores = [_of_answers(batch) for batch in batches]
        weights = self._weights(scores, [batch.answered() for batch in batches], counted, world)
        return [self._shaped(batch, weight_R) for batch, weight_R in zip(batches, weights, strict=True)]

    def _shaped(self, batch: Batch, weight_R: Tensor) -> Batch:
        assert batch.advantages is not None
        kept_N = self.kept(batch)
        shaped_N = batch.advantages.double() * weight_R[batch.response] * kept_N
        return batch.with_columns(advantages=shaped_N.to(batch.advantages.dtype))

    def kept(self, batch: Batch) -> Tensor:
        """[N] bool: tokens that keep their advantage."""
        assert batch.dependence is not None
        return top_share(batch.dependence, batch.response, batch.num_responses, self.share)

    def _weights(
        self, scores: Sequence[Tensor], answered: Sequence[Tensor], counted: Sequence[bool], world: World
    ) -> list[Tensor]:
        """[R] of each batch, float64."""
        here = torch.cat([s[a] if c else s[:0] for s, a, c in zip(scores, answered, counted, strict=True)])
        low, high = (_extreme(here, world, sign) for sign in (-1, 1))
        if not high - low > _FLAT:
            return [torch.ones_like(score_R) for score_R in scores]
        place = [((score_R - low) / (high - low)).clamp(0, 1) for score_R in scores]
        total = world.sum(torch.stack([((here - low) / (high - low)).sum(), here.new_tensor(float(len(here)))]))
        slope = (1 - self.least) / (total[0] / total[1])  # the largest weight less the least
        return [self.least + slope * one for one in place]

    def stats(self, batch: Batch) -> dict[str, Stat]:
        """Under the names of the authors' program."""
        if batch.dependence is None:
            return {}
        kept_N, laid_out = self.kept(batch), batch.structure
        selected = int(share_of(laid_out.response, batch.num_responses, self.share).sum())
        dependence_N = batch.dependence.double()
        return {
            "sensitivity_score_mean": mean(_of_answers(batch)[batch.answered()]),
            "perception_token_fraction": mean(kept_N.double()),
            "low_var_kl_mean_selected": Stat(sum=(dependence_N * kept_N).sum(), count=selected),
            "low_var_kl_mean_rejected": Stat(sum=(dependence_N * ~kept_N).sum(), count=len(kept_N) - selected),
        }


def _of_answers(batch: Batch) -> Tensor:
    """[R] float64: mean dependence over the tokens of each answer."""
    assert batch.dependence is not None
    return segment_mean(batch.dependence.double(), batch.response, batch.num_responses)


def _extreme(values: Tensor, world: World, sign: int) -> Tensor:
    """Largest value of all ranks, or the smallest for a ``sign`` of -1; -inf times the sign where there is none."""
    bound = (sign * values).max() if len(values) else values.new_tensor(-1e300)
    slots = values.new_zeros(world.size)
    slots[world.rank] = bound
    return sign * world.sum(slots).max()
