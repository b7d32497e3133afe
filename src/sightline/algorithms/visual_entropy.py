"""The entropy reward of VES-RFT: an answer is worth more, the surer the picture makes the policy of it (CVPR 2026)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from sightline.algorithms.masked import Apart
from sightline.algorithms.pairs import check_range, mean
from sightline.ops.reductions import segment_mean
from sightline.types import Batch, Stat

PART = "visual_entropy"
"""Name of this part of the reward."""


@dataclass(frozen=True, kw_only=True)
class VisualEntropy:
    """``R + weight (H(π(·|no picture)) - H(π(·|I)))``: entropies of the next-token distribution in nats, mean over the
    tokens of the answer, under the policy before the round. Without gradient.

    It joins the reward after sampling, as KL in the reward does: ``samples.jsonl`` and dynamic sampling know the reward
    without it.
    """

    kind: Literal["visual_entropy"] = "visual_entropy"
    weight: float = 0.1
    """Of this part in the reward, > 0."""

    __pydantic_config__ = {"extra": "forbid"}

    def __post_init__(self) -> None:
        check_range("perception.weight", self.weight, above=0)

    def gains(self, whole: Batch, apart: Apart) -> Tensor:
        """[n]: how much entropy the picture takes from the distribution that each of the answers' tokens is from."""
        assert whole.old_entropy is not None
        return whole.old_entropy[apart.masked] - whole.old_entropy[apart.own]

    def rewarded(self, batch: Batch) -> Batch:
        """The answers with this part in their rewards.

        Args:
            batch: with ``rewards`` and ``dependence``, answers under their own picture alone.
        """
        assert batch.rewards is not None and batch.dependence is not None
        gain_R = segment_mean(batch.dependence, batch.response, batch.num_responses)
        rewarded = batch.with_columns(rewards=batch.rewards + self.weight * gain_R)
        if batch.reward_parts is None:
            return rewarded
        parts = batch.reward_parts.new_zeros(batch.num_responses, len(batch.reward_names) + 1)
        parts[:, :-1], parts[:, -1] = batch.reward_parts, gain_R
        return replace(rewarded, reward_parts=parts, reward_names=(*batch.reward_names, PART))

    def stats(self, batch: Batch) -> dict[str, Stat]:
        """As parts of a reward are told."""
        if batch.dependence is None:
            return {}
        gain_R = segment_mean(batch.dependence, batch.response, batch.num_responses)
        return {f"rewards/{PART}/mean": mean(gain_R[batch.answered()])}
