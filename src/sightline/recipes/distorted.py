"""Answers that are sampled under a distorted picture. Imports no torch."""

from __future__ import annotations

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class DistortedSpec:
    """NoisyRollout (arXiv 2504.13055): some of the answers to a prompt are sampled under its picture with Gaussian
    noise on it, and scored, compared and trained with the others under the picture as it is. The noise falls over the
    run: its step is ``step (1 - 1 / (1 + exp(-slope (τ - midpoint))))``, rounded, τ the share of rounds done."""

    answers: int = Field(ge=1, le=2**31 - 1)
    """Of the ``sampling.n`` answers to a prompt, below n; the paper takes half."""
    step: int = Field(default=500, ge=1, le=999)
    """Where the noise starts: step of a diffusion of 1000 steps, 999 the noisiest. At step 0 nothing is distorted."""
    midpoint: float = Field(default=2 / 3, ge=0, le=1)
    """Share of the rounds after which the step is half of ``step``."""
    slope: float = Field(default=30.0, ge=0, le=1e4)
    """How steeply it falls there; 0: half of ``step`` all the time."""
