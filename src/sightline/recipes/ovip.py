"""The method ``ovip`` of a loop. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from sightline.recipes.negatives import GeneratedSpec, StagesSpec
from sightline.recipes.preferences import BufferSpec, SelectionSpec
from sightline.recipes.rewards import RewardSpec
from sightline.recipes.schema import DataSpec, OnlineSpec, SamplingSpec, VisualSpec

_STRICT = ConfigDict(extra="forbid", str_strip_whitespace=False, allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class OvipSpec:
    """A round is one online training by OViP (arXiv 2505.15963): the policy answers, is judged, and learns its pairs
    under pictures that show their hallucination. Defaults are the published values."""

    name: Literal["ovip"]
    reward: RewardSpec
    """As ``online.reward``. The rule for pairs is for scores from 0 to 10."""
    failed_rewards: Literal["drop", "stop"] = "drop"
    """As ``online.failed_rewards``."""
    sampling: SamplingSpec = SamplingSpec(n=16, temperature=1.2, top_p=0.8, max_new_tokens=256)
    selection: SelectionSpec = SelectionSpec()
    """Which answers to a prompt are compared, by their scores."""
    visual: VisualSpec = VisualSpec(relation="ovip")
    """Comparisons of pictures; without ``negatives`` its ``negative`` says which pictures they are."""
    negatives: GeneratedSpec | None = None
    """As ``online.negatives``."""
    buffer: BufferSpec | None = BufferSpec(unit="pair")
    """As ``online.buffer``; null: a round of sampling trains what it found."""
    stages: StagesSpec | None = None
    """As ``online.stages``."""
    max_staleness: int = Field(default=0, ge=0, le=1000)
    """As ``online.max_staleness``."""


def online_of(spec: OvipSpec, prompts: str) -> OnlineSpec:
    """The section of the training of a round, on a Group file of prompts."""
    given = {name: vars(spec)[name] for name in OvipSpec.__dataclass_fields__ if name != "name"}
    return OnlineSpec(prompts=DataSpec(path=prompts, format="groups"), relation="ovip", **given)
