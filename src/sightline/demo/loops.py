"""One loop of a league: its recipe on the data of a seed, and what it took."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from sightline.demo.sizes import LoopSize, Overrides
from sightline.errors import CheckpointError
from sightline.loops.folder import RECIPE
from sightline.loops.run import run_loop
from sightline.loops.state import State
from sightline.recipes.load_loop import load_loop
from sightline.recipes.loop import LoopRecipe


@dataclass(frozen=True, kw_only=True)
class Model:
    """What a round of a loop made."""

    folder: Path
    spent: Mapping[str, float]
    """``seconds`` and ``cpu_seconds`` of all stages up to it."""


def loop_of(name: str, overrides: Overrides, start_model: Path, folder: Path, seed: int, size: LoopSize) -> LoopRecipe:
    """The recipe of one loop on the prompts of one seed's folder: whatever its rounds, all of them together ask as many
    prompts and make as many steps. With one round that is offline training at the same cost.

    Raises:
        RecipeError: what ``methods_loops.yaml`` says is no recipe.
    """
    rounds = overrides.get("rounds", size.rounds)
    values = dict(overrides) | {
        "name": name,
        "seed": seed,
        "rounds": rounds,
        "model.path": str(start_model),
        "output_dir": str(folder / "runs" / name),
        "prompts.path": str(folder / "data/asked.jsonl"),
        "prompts_per_round": size.prompts // rounds,
        "train.max_steps": size.steps * size.rounds // rounds,
        "train.batch_size": size.groups,
        "merge.keep": rounds,
    }
    if "method" in overrides:  # the others are those of loop.yaml, whose answers are trees
        values["method.sampling.n"] = size.samples
    recipe = Path(str(files("sightline.demo") / "loop.yaml"))
    return load_loop(recipe, [*(f"{key}={json.dumps(value)}" for key, value in values.items()), *size.overrides])


def run_method(loop: LoopRecipe) -> list[Model]:
    """Runs what is left of a loop, and gives the model of every round.

    Raises:
        CheckpointError: its folder holds a loop with other settings.
    """
    folder = Path(loop.output_dir)
    if (folder / RECIPE).exists() and load_loop(folder / RECIPE) != loop:
        raise CheckpointError(f"{folder} holds a loop with other settings. Choose another --out, or remove it.")
    run_loop(loop, quiet=True)
    stages = State.read(folder).entries.items()
    spent = {"seconds": 0.0, "cpu_seconds": 0.0}
    made: list[Model] = []
    for number in range(1, loop.rounds + 1):
        entries = [entry for name, entry in stages if name.startswith(f"round-{number}/")]
        spent = {name: value + sum(vars(entry)[name] for entry in entries) for name, value in spent.items()}
        made.append(Model(folder=folder / f"round-{number}/model", spent=spent))
    return made
