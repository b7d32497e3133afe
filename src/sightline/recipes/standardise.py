"""Rewards measured by those before them, as a recipe describes it."""

from __future__ import annotations

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class StandardiseSpec:
    """Rewards measured by those before them: ``clip(scale * (reward - mean) / deviation)``, mean and deviation (n - 1)
    over the last ``window`` rewards, those of the round included; 0 where they are all equal. Vision-LLM-Alignment has
    scale 10. The window is kept in checkpoints."""

    window: int = Field(default=1000, ge=2, le=1_000_000)
    """Rewards of so many answers, of all processes."""
    scale: float = Field(default=1.0, gt=0, le=1e6)
    clip: float | None = Field(default=10.0, gt=0, le=1e9)
    """Greatest size of what comes out; None: any."""
