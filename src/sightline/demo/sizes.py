"""How much of everything a comparison of methods takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Overrides = Mapping[str, Any]
"""Dotted key of a recipe to its value."""


@dataclass(frozen=True, kw_only=True)
class LeagueSize:
    """How much of everything, the same for every method."""

    steps: int = 150
    """Optimizer steps."""
    groups: int = 24
    """Groups of each step."""
    prompts: int = 1_200
    """Drawings that answers are sampled about: one caption of each, and presence questions."""
    presence: int = 3
    """Presence questions about each."""
    samples: int = 6
    """Answers to each prompt."""
    held_out: int = 300
    """Drawings to evaluate on."""
    questions: int = 2
    """Presence questions about each of these."""
    sft_steps: int | None = None
    """Steps of the SFT that makes the base; None: as long as that of the demo."""
    overrides: tuple[str, ...] = ()
    """Dotted, laid over the recipe of every method: ``("algorithm.beta=1.0",)``."""


@dataclass(frozen=True, kw_only=True)
class OnlineSize(LeagueSize):
    """How much of everything where methods sample their own answers, ``samples`` to each prompt.

    All sample ``steps * groups * samples`` answers; a method with ``online.inner_epochs`` takes so many times the
    ``steps``.
    """

    steps: int = 80
    groups: int = 32
    prompts: int = 900
    presence: int = 2


@dataclass(frozen=True, kw_only=True)
class LoopSize(LeagueSize):
    """How much of everything where whole loops are compared.

    Each round asks its share of the prompts, captions alone, and makes ``steps`` optimizer steps of ``groups`` pairs.
    ``samples`` are the answers to each prompt of methods that sample some.
    """

    rounds: int = 3
    steps: int = 10
    groups: int = 32
    prompts: int = 960
    presence: int = 0


def folder_of(size: LeagueSize) -> Path:
    """Where a comparison without a folder of its own goes: one for each kind."""
    kinds = {LoopSize: "runs/compare_loops", OnlineSize: "runs/compare_online"}
    return Path(next((name for kind, name in kinds.items() if isinstance(size, kind)), "runs/compare"))
