"""The method ``self_rewarding`` of a loop. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from sightline.recipes.preferences import SelectionSpec
from sightline.recipes.rewards import RewardSpec
from sightline.recipes.schema import SamplingSpec

_STRICT = ConfigDict(extra="forbid", str_strip_whitespace=False, allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class SelfRewardingSpec:
    """The model answers, its answers are scored, and it learns the better over the worse: iterative DPO, and
    self-rewarding where the model is its own judge (Yuan et al. 2024, arXiv 2401.10020)."""

    name: Literal["self_rewarding"]
    sampling: SamplingSpec = SamplingSpec(n=8)
    reward: RewardSpec
    """As ``online.reward``: a name, or named terms. A term ``judge`` with ``judge: self``, and a term ``iris`` without
    a ``path``, ask the model that answered, as it is in each round."""
    failed_rewards: Literal["stop", "drop"] = "stop"
    """What becomes of an answer whose reward fails for good. ``stop``: the loop ends with an error, and goes on there;
    ``drop``: it has no reward, and is in no pair."""
    relation: Literal["best_worst", "ranked", "length_balanced", "ovip", "best"] = "best_worst"
    """As ``online.relation``; ``best`` is for algorithms that learn from single answers (RAFT with sft)."""
    min_gap: float = Field(default=0.0, ge=0, le=1e9)
    """Least difference of reward of a pair; of ``best``, between best and worst. Not read by ``ovip``."""
    selection: SelectionSpec | None = None
    """Of ``relation: ovip``; None: its published values."""

    def __post_init__(self) -> None:
        """Refuses what would be read by nothing, and answers that cannot be compared."""
        if self.sampling.n == 1:
            raise ValueError("found sampling.n: 1, and answers are compared. Sample 2 or more")
        if self.sampling.temperature == 0:
            raise ValueError("found sampling.temperature: 0: all answers to a prompt are the same. Set it above 0")
        if self.relation == "ovip" and self.min_gap:
            raise ValueError("found min_gap, but relation: ovip has gaps of its own, under selection. Remove min_gap")
        if self.relation != "ovip" and self.selection is not None:
            raise ValueError(f"selection is read with relation: ovip alone, found {self.relation}. Remove selection")
