"""One loop of a league: its recipe on the data of a seed, and what it took."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from sightline.demo.sizes import LoopSize, Overrides
from sightline.errors import CheckpointError
from sightline.loops.run import RECIPE, run_loop
from sightline.loops.state import State
from sightline.recipes.load_loop import load_loop
from sightline.recipes.loop import LoopRecipe


@dataclass(frozen=True, kw_only=True)
class Ran:
    """A loop that has ended."""

    model: Path
    """Of its last round."""
    spent: Mapping[str, float]
    """``seconds`` and ``cpu_seconds`` of all stages of all rounds."""


def loop_of(name: str, overrides: Overrides, start_model: Path, folder: Path, seed: int, size: LoopSize) -> LoopRecipe:
    """The recipe of one loop on the prompts of one seed's folder.

    Raises:
        RecipeError: what ``methods_loops.yaml`` says is no recipe.
    """
    values = dict(overrides) | {
        "name": name,
        "seed": seed,
        "rounds": size.rounds,
        "model.path": str(start_model),
        "output_dir": str(folder / "runs" / name),
        "prompts.path": str(folder / "data/prompts.jsonl"),
        "prompts_per_round": size.prompts // size.rounds,
        "train.max_steps": size.steps,
        "train.batch_size": size.groups,
    }
    if overrides.get("method", {}).get("name") == "self_rewarding":
        values["method.sampling.n"] = size.samples
    recipe = Path(str(files("sightline.demo") / "loop.yaml"))
    return load_loop(recipe, [*(f"{key}={json.dumps(value)}" for key, value in values.items()), *size.overrides])


def run_method(loop: LoopRecipe) -> Ran:
    """Runs what is left of a loop.

    Raises:
        CheckpointError: its folder holds a loop with other settings.
    """
    folder = Path(loop.output_dir)
    if (folder / RECIPE).exists() and load_loop(folder / RECIPE) != loop:
        raise CheckpointError(f"{folder} holds a loop with other settings. Choose another --out, or remove it.")
    model = run_loop(loop, quiet=True).model
    stages = State.read(folder).entries.values()
    return Ran(
        model=model,
        spent={
            "seconds": sum(entry.seconds for entry in stages),
            "cpu_seconds": sum(entry.cpu_seconds for entry in stages),
        },
    )
