"""The critic of PPO, as a recipe describes it, and what it must agree on with the rest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class CriticSpec:
    """What tells how much an answer that is begun is worth, trained beside the policy (PPO)."""

    hidden: Literal["auto", "own", "policy"] = "auto"
    """``own``: an adapter of its own on the policy's base model, for policies that are trained as adapters; ``policy``:
    the policy's hidden states, which the critic's loss then moves too. auto: ``own`` with LoRA or ``model.adapter``."""
    start: str | None = None
    """Run directory or folder of a reward model, or of another run's critic (``RUN/model/value``), whose adapter the
    critic's own starts from; None: it starts as the policy's does."""
    head: Literal["zeros", "start"] = "zeros"
    """``zeros``: every value is 0 at first; ``start``: the head of ``start``."""
    learning_rate: float | None = Field(default=None, gt=0, lt=10)
    """Of the critic; None: ``train.learning_rate``."""


def critic_conflicts(critic: CriticSpec, *, adapter: bool) -> Iterator[tuple[str, str]]:
    """Fields that go with no other of their recipe, and why.

    Args:
        critic: of the recipe.
        adapter: whether the policy is trained as an adapter.
    """
    if critic.hidden == "own" and not adapter:
        yield (
            "hidden",
            "found own, and no adapter is trained that a second could stand beside. Set a part to lora, or hidden to "
            "policy.",
        )
    apart = critic.hidden == "own" or (critic.hidden == "auto" and adapter)
    if critic.start is not None and critic.head == "zeros" and not apart:
        yield (
            "start",
            "found a folder, and a critic on the policy's hidden states takes its head alone. Set head to start.",
        )
    if critic.head == "start" and critic.start is None:
        yield "head", "found start, and critic.start names none. Name a reward model there, or set head to zeros."
