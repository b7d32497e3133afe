"""A recipe and a stopped run, for people."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from sightline.algorithms.registry import build_algorithm, build_mixed
from sightline.recipes.describe import describe_recipe, field_docs
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
        explain: put what each key means above it.

    Raises:
        RecipeError: fields of the algorithm that it does not have, or that do not agree with the recipe.
    """
    algorithm = build_algorithm(recipe.algorithm)
    fields = asdict(algorithm)  # type: ignore[call-overload]
    complete = {"name": recipe.algorithm["name"], **fields}
    if isinstance(recipe, LoopRecipe):
        loop = replace(recipe, algorithm=complete)
        return describe_recipe(loop, field_docs(type(algorithm))) if explain else dump_loop(loop)
    whole = with_reference(recipe, algorithm, build_mixed(mixed_options(recipe)))
    whole = replace(whole, algorithm=complete)
    return describe_recipe(whole, field_docs(type(algorithm))) if explain else dump_recipe(whole)


def how_it_goes_on(recipe: Recipe, again: str) -> str:
    """What is there for a run that was stopped; ``again`` names what is done again: ``The same command``."""
    step = newest_step(Path(recipe.output_dir))
    if step is not None:
        return f"Stopped. {again} goes on from step {step}, the last checkpoint in {recipe.output_dir}."
    every = recipe.train.save_every
    when = f"the first comes after step {every}" if every else "train.save_every is off"
    return f"Stopped. {again} starts from the beginning: there is no checkpoint yet ({when})."
