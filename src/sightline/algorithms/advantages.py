"""Advantages of sampled answers: what is taken off a reward, and what the rest is divided by.

Statistics of a group need no other group; those of a batch are summed over every micro-batch and rank, so that they do
not depend on how groups fell on these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sightline.errors import DataError
from sightline.ops.advantages import group_mean, group_std, leave_one_out, length_weighted_mean, to_go
from sightline.ops.reductions import segment_count, segment_sum
from sightline.types import Batch, World

Baseline = Literal["group", "leave_one_out", "length", "greedy", "none"]
Scale = Literal["none", "group", "mean", "batch", "whiten", "whiten_tokens"]


@dataclass(frozen=True, kw_only=True)
class Advantage:
    """How rewards become advantages. Options and defaults are documented where they are set:
    ``algorithms.policy_gradient.PolicyGradient``."""

    baseline: Baseline
    scale: Scale
    unbiased: bool
    epsilon: float
    per_part: bool
    part_weights: Mapping[str, float]

    @property
    def by_token(self) -> bool:
        """Whether a penalty is charged to each token and those before it, not to the answer as a whole."""
        return self.baseline in ("greedy", "none") and self.scale in ("none", "whiten_tokens")

    def __call__(
        self, batches: Sequence[Batch], counted: Sequence[bool], penalties: Sequence[Tensor | None], world: World
    ) -> list[Tensor]:
        """[N] advantages of each batch.

        Args:
            batches: micro-batches of this rank, with rewards.
            counted: False for one that runs for company only.
            penalties: [N] of each batch, taken off the rewards (KL times its coefficient); None: nothing. Baselines
                of the group compare whole answers, so they get the sum over the answer; without one, a token is
                charged with what follows it.
            world: sums over ranks.

        Raises:
            DataError: rewards that the scale has no meaning for, or answers of a group with other parts of a reward.
        """
        pairs = list(zip(batches, penalties, strict=True))
        made_R = [self._of_answers(batch, penalty) for batch, penalty in pairs]
        if self.scale in ("batch", "whiten"):
            seen = [batch.rewards.double() for batch in batches if batch.rewards is not None]
            mean, std = moments(made_R if self.scale == "whiten" else seen, counted, world, unbiased=self.unbiased)
            shift = mean if self.scale == "whiten" else 0.0
            made_R = [(values - shift) / (std + self.epsilon) for values in made_R]
        made_N = [self._at_tokens(batch, one, penalty) for (batch, penalty), one in zip(pairs, made_R, strict=True)]
        if self.scale == "whiten_tokens":
            mean, std = moments(made_N, counted, world, unbiased=False)
            made_N = [(values - mean) / (std + self.epsilon) for values in made_N]
        return [values.to(torch.float32) for values in made_N]

    def _of_answers(self, batch: Batch, penalty: Tensor | None) -> Tensor:
        """[R] float64."""
        assert batch.rewards is not None
        if self.per_part:
            return self._by_part(batch)
        reward_R, group, size = batch.rewards.double(), batch.group, batch.num_groups
        if penalty is not None and not self.by_token:
            reward_R = reward_R - segment_sum(penalty.double(), batch.response, batch.num_responses)
        advantage_R = reward_R - self._baseline(batch, reward_R)
        if self.scale == "group":
            return advantage_R / (group_std(reward_R, group, size, unbiased=self.unbiased) + self.epsilon)
        if self.scale == "mean":
            return self._relative(advantage_R, group_mean(reward_R, group, size), batch)
        return advantage_R

    def _at_tokens(self, batch: Batch, advantage_R: Tensor, penalty: Tensor | None) -> Tensor:
        """[N] float64."""
        advantage_N = advantage_R[batch.response]
        if self.baseline == "greedy":
            assert batch.values is not None
            advantage_N = advantage_N - batch.values
        if penalty is not None and self.by_token:
            advantage_N = advantage_N - to_go(penalty.double(), batch.response, batch.num_responses)
        return advantage_N

    def _baseline(self, batch: Batch, reward_R: Tensor) -> Tensor:
        """[R]; 0 where the baseline stands at the tokens."""
        group, size = batch.group, batch.num_groups
        if self.baseline == "group":
            return group_mean(reward_R, group, size)
        if self.baseline == "leave_one_out":
            return leave_one_out(reward_R, group, size)
        if self.baseline == "length":
            lengths = segment_count(batch.response, batch.num_responses).to(reward_R.dtype)
            return length_weighted_mean(reward_R, lengths, group, size)
        return torch.zeros_like(reward_R)

    def _relative(self, advantage_R: Tensor, mean_R: Tensor, batch: Batch) -> Tensor:
        assert batch.rewards is not None
        if bool((batch.rewards < 0).any()):
            raise DataError(
                f"an answer has the reward {float(batch.rewards.min()):g}, and scale: mean divides by the mean",
                remedy="Give rewards of 0 or more (1 for a right answer, 0 for a wrong one), or choose another scale",
            )
        return torch.where(mean_R > 0, advantage_R / (mean_R + self.epsilon), 0.0)

    def _by_part(self, batch: Batch) -> Tensor:
        """[R] weighted sum of the parts of the reward, each standardised in its group by itself (GDPO)."""
        if batch.reward_parts is None:
            raise DataError("the reward names no parts, and algorithm.per_part standardises each", remedy=_PARTS)
        unknown = sorted(set(self.part_weights) - set(batch.reward_names))
        # a term of the reward that judges other prompts is no part here, but then every part has its weight
        if unknown and set(batch.reward_names) - set(self.part_weights):
            raise DataError(
                f"algorithm.part_weights names {unknown[0]!r}, and the reward has {', '.join(batch.reward_names)}",
                remedy="Correct the name",
            )
        total_R = batch.reward_parts.new_zeros(batch.num_responses, dtype=torch.float64)
        for place, name in enumerate(batch.reward_names):
            part_R, group, size = batch.reward_parts[:, place].double(), batch.group, batch.num_groups
            missing_R = part_R.isnan()
            _check_whole(name, missing_R, group, size)
            part_R = part_R.where(~missing_R, 0.0)
            centred_R = part_R - group_mean(part_R, group, size)
            scaled_R = centred_R / (group_std(part_R, group, size, unbiased=self.unbiased) + self.epsilon)
            total_R = total_R + self.part_weights.get(name, 1.0) * scaled_R
        return total_R


_PARTS = "Use a reward with parts (Response.rewards), or set algorithm.per_part to false"


def moments(
    values: Sequence[Tensor], counted: Sequence[bool], world: World, *, unbiased: bool
) -> tuple[Tensor, Tensor]:
    """Mean and deviation of all values of the step, over micro-batches and ranks."""
    here = torch.cat([one if counts else one[:0] for one, counts in zip(values, counted, strict=True)])
    count, total = world.sum(torch.stack([here.new_tensor(float(len(here))), here.sum()]))
    mean = total / count.clamp(min=1)
    squares = world.sum((here - mean).square().sum())
    return mean, (squares / (count - float(unbiased)).clamp(min=1)).sqrt()


def _check_whole(name: str, missing_R: Tensor, group: Tensor, size: int) -> None:
    share = group_mean(missing_R.double(), group, size)
    if bool(((share > 0) & (share < 1)).any()):
        raise DataError(
            f"of the answers to one prompt some have the part {name!r} of the reward and others lack it",
            remedy="Give every answer of a group the same parts (0 where a part does not apply); " + _PARTS,
        )
