"""How answers are sampled. Imports no torch."""

from __future__ import annotations

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from sightline.recipes.direct import said_plainly

_MOST = 2**31 - 1


@said_plainly
@dataclass(
    frozen=True, kw_only=True, config=ConfigDict(extra="forbid", str_strip_whitespace=False, allow_inf_nan=False)
)
class SamplingSpec:
    """How answers are sampled."""

    n: int = Field(default=1, ge=1, le=_MOST)
    """Answers per prompt."""
    temperature: float = Field(default=1.0, ge=0, le=100)
    """0: greedy."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0, le=_MOST)
    """0: all tokens."""
    max_new_tokens: int = Field(default=256, ge=1, le=_MOST)
    batch_size: int = Field(default=8, ge=1, le=_MOST)
    """Prompts generated together; others take the places of those that are finished."""
