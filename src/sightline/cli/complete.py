"""What the shell offers behind the first letters of a word. Nothing here may fail, or load torch."""

from __future__ import annotations

import typer

from sightline.errors import SightlineError
from sightline.recipes.choices import dotted_keys
from sightline.recipes.load_loop import is_loop
from sightline.recipes.loop import LoopRecipe
from sightline.recipes.schema import Recipe


def override(ctx: typer.Context, incomplete: str) -> list[str]:
    """Dotted keys of the recipe that stands in front, with their ``=``; of a training where none does."""
    try:
        kind = LoopRecipe if is_loop(ctx.params["recipe"]) else Recipe
    except (KeyError, TypeError, SightlineError):  # none yet, or none that can be read: what is wrong is said by a run
        kind = Recipe
    return [f"{key}=" for key in dotted_keys(kind) if key.startswith(incomplete)]


def benchmark(incomplete: str) -> list[str]:
    """Names of benchmarks."""
    from sightline.evaluation.benches import MODULES

    return [name for name in MODULES if name.startswith(incomplete)]
