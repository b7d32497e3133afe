"""The meter of whether preferences depend on pictures, as a recipe describes it."""

from __future__ import annotations

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

_MOST = 2**31 - 1


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class LookingSpec:
    """The meter of preference runs that asks whether the preference depends on the picture: how much of what training
    adds to the margin between two answers is gone under a white and under another picture. Changes no weight."""

    every: int = Field(default=50, ge=0, le=_MOST)
    """Optimizer steps between readings; there is one at the end as well. 0: no meter."""
    groups: int = Field(default=32, ge=2, le=_MOST)
    """Pairs of answers that are read, the same at every reading; held-out ones where there are any."""
    patience: int = Field(default=2, ge=1, le=_MOST)
    """Readings in a row that see no dependence before there is a warning."""
