"""What is mixed in beside the algorithm of a run, as a recipe of its own, and what the two must agree on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from sightline.errors import RecipeError
from sightline.recipes.schema import Recipe
from sightline.types import Algorithm

OF_POLICY = frozenset({"logprobs", "entropy", "collision"})
"""Heads that every policy has."""


def mixed_recipe(recipe: Recipe) -> Recipe | None:
    """The recipe that would learn alone what is mixed in, with the same model; what it writes lies in ``mix`` of the
    run directory."""
    if recipe.mix is None:
        return None
    return replace(
        recipe,
        output_dir=str(Path(recipe.output_dir) / "mix"),
        algorithm=recipe.mix.algorithm,
        reference="auto",
        data=recipe.mix.data,
        online=None,
        critic=None,
        mix=None,
        evaluation=None,
        train=replace(recipe.train, batch_size=recipe.mix.batch_size),
    )


def mixed_options(recipe: Recipe) -> dict[str, Any] | None:
    """The algorithm that is mixed in, as the recipe has it."""
    return None if recipe.mix is None else recipe.mix.algorithm


def mix_conflicts(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Fields of ``mix`` that nothing would read, and why."""
    if recipe.mix is not None and not recipe.mix.data.train:
        yield "data", "found no rows, expected some under mix.data.train. Name them, or remove mix."
    if recipe.mix is not None and recipe.mix.data.eval:
        yield "data", "found eval, and nothing of mix is evaluated. Put held-out rows under data.eval, or remove them."


def check_mix(recipe: Recipe, algorithm: Algorithm, mixed: Algorithm) -> None:
    """
    Args:
        recipe: with ``mix``.
        algorithm: of the recipe.
        mixed: what is mixed in.

    Raises:
        RecipeError: one of the two trains no policy, or what is mixed in learns from no rows.
    """
    assert recipe.mix is not None
    name, other = recipe.algorithm["name"], recipe.mix.algorithm["name"]
    if "logprobs" not in algorithm.heads:
        raise RecipeError(f"{recipe.name}: found mix, which trains a policy, and {name} trains none. Remove mix.")
    if mixed.rounds or mixed.heads - OF_POLICY:
        why = "learns from answers that are sampled" if mixed.rounds else "needs a head that the policy lacks"
        raise RecipeError(
            f"{recipe.name}: found mix.algorithm.name: {other}, which {why}. Mix in what learns from rows: sft, dpo, kto."
        )
    if recipe.reference == "cache" and "ref_logprobs" in mixed.needs:
        raise RecipeError(
            f"{recipe.name}: found reference: cache, whose numbers are those of data.train alone, and mix.algorithm "
            f"{other} compares with a reference. Set reference to adapter (with LoRA) or copy."
        )
