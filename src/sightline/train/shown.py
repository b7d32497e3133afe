"""A recipe and a stopped run, for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from sightline.algorithms.links import LINKS
from sightline.algorithms.registry import BUILT_IN, build_algorithm, build_mixed
from sightline.recipes.choices import choices, hints, notes
from sightline.recipes.describe import describe_recipe
from sightline.recipes.load import dump_recipe, with_reference
from sightline.recipes.load_loop import dump_loop
from sightline.recipes.loop import LoopRecipe
from sightline.recipes.mix import mixed_options
from sightline.recipes.schema import Recipe
from sightline.train.checkpoint import newest_step


def shown(recipe: Recipe | LoopRecipe, *, explain: bool) -> str:
    """A recipe as YAML as it will run, every default filled in.

    Args:
        recipe: of a training or of a loop.
        explain: put above each key what it means, and its choices.

    Raises:
        RecipeError: fields of the algorithm that it does not have, or that do not agree with the recipe.
    """
    algorithm = build_algorithm(recipe.algorithm)
    fields = asdict(algorithm)  # type: ignore[call-overload]
    complete = {"name": recipe.algorithm["name"], **fields}
    if isinstance(recipe, LoopRecipe):
        loop = replace(recipe, algorithm=complete)
        return describe_recipe(loop, _algorithm_notes(type(algorithm))) if explain else dump_loop(loop)
    whole = with_reference(recipe, algorithm, build_mixed(mixed_options(recipe)))
    whole = replace(whole, algorithm=complete)
    return describe_recipe(whole, _algorithm_notes(type(algorithm))) if explain else dump_recipe(whole)


def _algorithm_notes(kind: type) -> dict[str, str]:
    """What the fields of an algorithm mean, with the choices that only the algorithms know."""
    known: dict[str, Sequence[str]] = {"name": [*BUILT_IN]}
    if "link" in hints(kind) and not choices(hints(kind)["link"]):
        known["link"] = [*LINKS]
    return notes(kind, known)


def how_it_goes_on(recipe: Recipe, again: str) -> str:
    """What is there for a run that was stopped; ``again`` names what is done again: ``The same command``."""
    step = newest_step(Path(recipe.output_dir))
    if step is not None:
        return f"Stopped. {again} goes on from step {step}, the last checkpoint in {recipe.output_dir}."
    every = recipe.train.save_every
    when = f"the first comes after step {every}" if every else "train.save_every is off"
    return f"Stopped. {again} starts from the beginning: there is no checkpoint yet ({when})."
