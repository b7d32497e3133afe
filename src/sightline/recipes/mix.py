"""What is mixed in beside the algorithm of a run, as a recipe of its own, and what the two must agree on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from sightline.errors import RecipeError
from sightline.recipes.mixture import mixture_conflicts
from sightline.recipes.schema import Recipe
from sightline.recipes.source import KeyPath
from sightline.recipes.unread import unread_options
from sightline.recipes.visual import visual_conflicts
from sightline.types import Algorithm

Conflict = tuple[KeyPath, str]
"""The place, and the message."""

OF_POLICY = frozenset({"logprobs", "entropy", "collision"})
"""Heads that every policy has."""


def mixed_recipe(recipe: Recipe) -> Recipe | None:
    """The recipe that would learn alone what is mixed in, with the same model; what it writes lies in ``mix`` of the
    run directory."""
    if recipe.mix is None:
        return None
    return replace(
        recipe,
        name=f"{recipe.name}: mix",
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


def mix_conflicts(recipe: Recipe, of_data: Callable[[Recipe], list[Conflict]]) -> Iterator[Conflict]:
    """Fields of ``mix`` that are valid each by itself.

    Args:
        recipe: to check.
        of_data: conflicts of the rows of a recipe.
    """
    alone = mixed_recipe(recipe)
    if alone is None or alone.data is None:
        return
    here: KeyPath = ("mix", "data")
    if not alone.data.train:
        yield here, "found no rows, expected some under mix.data.train. Name them, or remove mix."
        return
    for name in ("eval", "validation"):
        if vars(alone.data)[name]:
            yield (
                (*here, name),
                f"found {name}, and nothing of mix is evaluated. Hold out rows of data, or remove it.",
            )
    found = [*of_data(alone), *visual_conflicts(alone), *mixture_conflicts(alone), *unread_options(alone)]
    yield from ((("mix", *where), text) for where, text in found)


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
    if mixed.heads - OF_POLICY:
        raise RecipeError(
            f"{recipe.name}: found mix.algorithm.name: {other}, which needs a head that the policy lacks. Mix in what "
            "learns from answers alone: sft, dpo, kto."
        )
    if recipe.reference == "cache" and "ref_logprobs" in mixed.needs:
        raise RecipeError(
            f"{recipe.name}: found reference: cache, whose numbers are those of data.train alone, and mix.algorithm "
            f"{other} compares with a reference. Set reference to adapter (with LoRA) or copy."
        )
