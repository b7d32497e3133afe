"""Weights of tokens by where compared answers differ, as a recipe describes them."""

from __future__ import annotations

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class SegmentSpec:
    """Weights of tokens from what differs between the two answers of a comparison (DDPO of RLHF-V)."""

    corrected: float = Field(default=5.0, ge=0, le=1e6)
    """Of tokens that only one of the two has."""
    shared: float = Field(default=1.0, ge=0, le=1e6)
    """Of tokens that both have; 0: only differences are trained."""
