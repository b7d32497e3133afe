"""Compares methods in the built-in world: one model to start from, one set of answers or of prompts, one budget."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from sightline.algorithms.registry import build_algorithm, build_mixed
from sightline.data.schema import read_groups, write_groups
from sightline.demo.demo import FULL, answers, draw
from sightline.demo.demo import recipe_of as demo_recipe
from sightline.demo.loops import loop_of, run_method
from sightline.demo.sizes import LeagueSize, LoopSize, OnlineSize, Overrides
from sightline.demo.standings import BASE, Outcome, outcome_of, standings
from sightline.errors import CheckpointError, RecipeError, SightlineError
from sightline.evaluation.benches.scenes import held_out_prompts
from sightline.files import read_settings, replace_file
from sightline.models.assemble import TinyLlava
from sightline.models.load import hide_loading_bars, load_policy
from sightline.progress import Progress
from sightline.recipes.load import check_algorithm, load_recipe, nearest
from sightline.recipes.loop import LoopRecipe
from sightline.recipes.mix import mixed_options
from sightline.recipes.schema import ModelSpec, Recipe, SamplingSpec
from sightline.recipes.source import read_source
from sightline.relations.scores import best_worst, only_compared, ranked
from sightline.report.league import League, write_league
from sightline.rollouts.hf import HFEngine
from sightline.scenes.world import Scenes
from sightline.train.loop import train
from sightline.train.run_folder import changed_fields
from sightline.train.runtime import Runtime
from sightline.types import Group

MIN_GAP = 0.4
"""Least difference of reward between the answers of a comparison: that of the demo."""


def all_methods(*, online: bool = False, loops: bool = False) -> dict[str, Overrides]:
    """Name of each method, and what it changes in ``offline.yaml``; from ``methods.yaml`` beside this file.

    Args:
        online: those of ``methods_online.yaml``, which change ``online.yaml``.
        loops: those of ``methods_loops.yaml``, which change ``loop.yaml``.
    """
    name = "methods_loops.yaml" if loops else "methods_online.yaml" if online else "methods.yaml"
    source = files("sightline.demo") / name
    values: dict[str, Overrides] = read_source(Path(str(source))).values
    return values


def chosen_methods(names: Sequence[str], *, online: bool = False, loops: bool = False) -> dict[str, Overrides]:
    """The methods of these names; all if there is none.

    Raises:
        RecipeError: a name that is no method.
    """
    known = all_methods(online=online, loops=loops)
    for name in names:
        if name not in known:
            raise RecipeError(f"found method {name!r}. {nearest(name, list(known))}")
    return {name: known[name] for name in names or known}


@dataclass(frozen=True, kw_only=True)
class _Seed:
    """One seed of a league: its world, its folder and the model that its methods start from."""

    seed: int
    folder: Path
    model: Path
    exam: Sequence[Group]


def run_league(
    *,
    seeds: Sequence[int] = (0, 1, 2),
    methods: Sequence[str] = (),
    out: Path = Path("runs/compare"),
    bases: Sequence[Path] = (),
    size: LeagueSize | None = None,
) -> League:
    """Runs every method from every seed's base, and writes the league table.

    What is finished is not done again; a method that fails is reported and costs the others nothing. Several calls
    with different seeds or methods may share a folder, and a last one with all of them makes the table.

    Writes ``report.html``, ``league.md`` and ``league.json``, and for each seed a folder with its data, base and
    runs; the answers of a method lie in ``answers/METHOD``.

    Args:
        seeds: of world, base and runs.
        methods: names in ``methods.yaml``, ``methods_online.yaml`` or ``methods_loops.yaml``; empty: all.
        out: folder for everything.
        bases: for each seed a model to start from, in the place of an SFT as in the demo.
        size: the budget, an ``OnlineSize`` for the online methods, a ``LoopSize`` for loops; None: the default of the
            offline ones.

    Raises:
        RecipeError: an unknown method, a seed that stands twice, not as many bases as seeds, or overrides that no
            method can take.
        CheckpointError: the folder holds a league with another budget, or of another base.
    """
    size = size or LeagueSize()
    online, loops = isinstance(size, OnlineSize), isinstance(size, LoopSize)
    chosen = chosen_methods(methods, online=online, loops=loops)
    _check_seeds(seeds, bases)
    unfit = _unfit(chosen, size)
    if len(unfit) == len(chosen):
        raise RecipeError(next(iter(unfit.values())))
    hide_loading_bars()
    torch.set_num_threads(1)  # the model is so small that a second thread mostly waits
    _claim(out, size)
    console, failed = Console(stderr=True), dict(unfit)
    for name, why in unfit.items():
        console.print(f"{name} is left out: {why}", style="red", markup=False)
    fit = {name: overrides for name, overrides in chosen.items() if name not in unfit}
    outcomes: list[Outcome] = []
    for place, seed in enumerate(seeds):
        console.rule(f"[bold]seed {seed}")
        start = _open_seed(seed, out / f"seed-{seed}", bases[place] if bases else None, size)
        outcomes += _outcomes(fit, start, size, failed, console)
    league = League(
        standings=standings(outcomes),
        seeds=tuple(seeds),
        failed=failed,
        settings=_settings(size, bool(bases)),
        online=online,
        loops=loops,
    )
    write_league(league, out)
    return league


def recipe_of(name: str, overrides: Overrides, start_model: Path, folder: Path, seed: int, size: LeagueSize) -> Recipe:
    """The recipe of one method on the data of one seed's folder.

    Raises:
        RecipeError: what ``methods.yaml`` says is no recipe.
    """
    online = isinstance(size, OnlineSize)
    recipe_file = Path(str(files("sightline.demo") / ("online.yaml" if online else "offline.yaml")))
    path = "online.prompts.path" if online else "data.train.0.path"
    data = str(overrides.get(path, "asked.jsonl" if online else "pairs.jsonl"))
    values = dict(overrides) | {
        "name": name,
        "seed": seed,
        "model.path": str(start_model),
        "output_dir": str(folder / "runs" / name),
        path: str(folder / "data" / data),
        "train.max_steps": size.steps,
        "train.batch_size": size.groups,
    }
    if online:
        values["online.sampling.n"] = size.samples
    recipe = load_recipe(
        recipe_file, [*(f"{key}={json.dumps(value)}" for key, value in values.items()), *size.overrides]
    )
    if recipe.online is None or recipe.train.max_steps is None:
        return recipe
    steps = recipe.train.max_steps * recipe.online.inner_epochs  # so that all sample as many answers
    return dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, max_steps=steps))


def _check_seeds(seeds: Sequence[int], bases: Sequence[Path]) -> None:
    if len(set(seeds)) < len(seeds):
        raise RecipeError(f"found the seeds {', '.join(map(str, seeds))}, one of them twice. Give each once.")
    if bases and len(bases) != len(seeds):
        raise RecipeError(f"found {len(bases)} bases for {len(seeds)} seeds. Give one for each, in the same order.")
    for base in bases:
        if not base.is_dir():
            raise RecipeError(f"found no base {base}. Give the folder of a model, such as runs/sft/model.")


def _unfit(chosen: Mapping[str, Overrides], size: LeagueSize) -> dict[str, str]:
    """Methods whose recipe the overrides make wrong, and why: known before anything is drawn or trained."""
    found = {}
    for name, overrides in chosen.items():
        try:
            if isinstance(size, LoopSize):
                loop_of(name, overrides, Path("base"), Path("folder"), 0, size)
                continue
            recipe = recipe_of(name, overrides, Path("base"), Path("folder"), 0, size)
            check_algorithm(recipe, build_algorithm(recipe.algorithm), build_mixed(mixed_options(recipe)))
        except RecipeError as error:
            found[name] = str(error)
    return found


def _claim(out: Path, size: LeagueSize) -> None:
    """Notes the budget in ``budget.json``, so that results of two budgets are never in one table."""
    file, budget = out / "budget.json", json.loads(json.dumps(dataclasses.asdict(size)))
    if isinstance(size, OnlineSize):
        budget["online"] = True
    if isinstance(size, LoopSize):
        budget["loops"] = True
    if file.exists() and (found := read_settings(file)) != budget:
        differing = [key for key in found | budget if found.get(key) != budget.get(key)]
        changes = [f"{key}: {found.get(key)} there, {budget.get(key)} here" for key in differing]
        raise CheckpointError(
            f"{out} holds a comparison with another budget ({'; '.join(changes)}). Choose another --out."
        )
    replace_file(file, json.dumps(budget) + "\n")


def _open_seed(seed: int, folder: Path, base: Path | None, size: LeagueSize) -> _Seed:
    """Draws, trains the base where none is given, and lets it answer."""
    world, data = Scenes(seed=seed), folder / "data"
    _claim_base(folder, "SFT of the demo" if base is None else str(base.absolute()))
    exam = held_out_prompts(world, size.held_out, data / "images", questions=size.questions)
    model = base or _base(world, folder, size)
    if isinstance(size, OnlineSize | LoopSize):
        if not (data / "asked.jsonl").exists():
            write_groups(data / "asked.jsonl", _asked(world, data, size))
    elif not (data / "ranked.jsonl").exists():
        _offline_data(world, model, data, size)
    return _Seed(seed=seed, folder=folder, model=model, exam=exam)


def _claim_base(folder: Path, base: str) -> None:
    """Notes what a seed starts from in ``base.json``: answers of one base are never compared with those of another."""
    file = folder / "base.json"
    if file.exists() and (found := read_settings(file)) != base:
        raise CheckpointError(
            f"{folder} holds a comparison that starts from {found}, not {base}. Choose another --out."
        )
    replace_file(file, json.dumps(base) + "\n")


def _base(world: Scenes, folder: Path, size: LeagueSize) -> Path:
    """The SFT of the demo on the same drawings; a broken-off one goes on."""
    overrides = () if size.sft_steps is None else (f"train.max_steps={size.sft_steps}",)
    scenes = FULL.scenes if size.sft_steps is None else 16 * size.sft_steps
    demo = dataclasses.replace(FULL, scenes=scenes, prompts=1, held_out=1, overrides=overrides)
    if not (folder / "sft" / "model").exists():
        draw(world, demo, folder, Runtime())
        if not (folder / "base" / "config.json").exists():
            TinyLlava().build(folder / "base", world.vocabulary(), seed=world.seed)
        train(demo_recipe("sft", world.seed, folder, demo))
    return folder / "sft" / "model"


def _asked(world: Scenes, data: Path, size: LeagueSize) -> list[Group]:
    """Prompts about drawings behind those that the base learnt from: captions, then presence questions."""
    pictures, start = data / "images", FULL.scenes
    captions = list(world.prompts("train", size.prompts, pictures, kind="caption", start=start))
    if not size.presence:
        return captions
    each = size.presence
    return [*captions, *world.prompts("train", size.prompts, pictures, kind="presence", per_scene=each, start=start)]


def _offline_data(world: Scenes, model: Path, data: Path, size: LeagueSize) -> None:
    """Answers of the base, scored and compared: ``answered.jsonl``, ``pairs.jsonl`` and ``ranked.jsonl``.

    The same groups are in ``pairs`` and ``ranked``: those whose best and worst answer are far enough apart.
    """
    asked = _asked(world, data, size)
    sampling = SamplingSpec(n=size.samples, temperature=1.0, max_new_tokens=48, batch_size=48)
    engine = HFEngine(load_policy(ModelSpec(path=str(model)), trainable=False))
    with Progress("answers to compare", len(asked)) as bar:
        answered = engine.generate(asked, sampling, seed=world.seed, on_progress=lambda done, _: bar.update(done))
    scored = [world.reward(group) for group in answered]
    write_groups(data / "answered.jsonl", scored)
    apart = [group for group in scored if best_worst(group, MIN_GAP).edges]
    write_groups(data / "pairs.jsonl", [only_compared(best_worst(group, MIN_GAP)) for group in apart])
    write_groups(data / "ranked.jsonl", [ranked(group) for group in apart])


def _outcomes(
    methods: Mapping[str, Overrides], start: _Seed, size: LeagueSize, failed: dict[str, str], console: Console
) -> list[Outcome]:
    """Of the base and of every method on one seed; those that fail are added to ``failed``."""
    before = answers(start.model, start.exam, start.folder / "answers/base", "base", Runtime())
    found = [outcome_of(BASE, start.seed, before)]
    for number, (name, overrides) in enumerate(methods.items(), 1):
        console.print(f"{number}/{len(methods)} {name}")
        try:
            found += _outcomes_of(name, overrides, start, size)
        except (SightlineError, RuntimeError) as error:
            failed[f"{name}, seed {start.seed}"] = str(error)
            console.print(f"{name} failed: {error}", style="red", markup=False)
    return found


def _outcomes_of(name: str, overrides: Overrides, start: _Seed, size: LeagueSize) -> list[Outcome]:
    """Of one method; of a loop those of its first and its last round."""
    if isinstance(size, LoopSize):
        return _outcomes_of_loop(loop_of(name, overrides, start.model, start.folder, start.seed, size), start)
    return [_outcome(name, overrides, start, size)]


def _outcomes_of_loop(loop: LoopRecipe, start: _Seed) -> list[Outcome]:
    made = run_method(loop)
    shown = {loop.name: made[-1], f"{loop.name}, round 1": made[0]} if len(made) > 1 else {loop.name: made[0]}
    rate, found = loop.train.learning_rate, list[Outcome]()
    for name, model in shown.items():
        folder = start.folder / "answers" / name.replace(", round ", "_round_")
        answered = answers(model.folder, start.exam, folder, f"exam {name}", Runtime())
        found.append(outcome_of(name, start.seed, answered, learning_rate=rate, spent=model.spent))
    return found


def _outcome(name: str, overrides: Overrides, start: _Seed, size: LeagueSize) -> Outcome:
    """Trains and examines one method, or reads what an earlier call found."""
    folder = start.folder / "answers" / name
    recipe = recipe_of(name, overrides, start.model, start.folder, start.seed, size)
    run = Path(recipe.output_dir)
    if (folder / "time.json").exists():
        if changes := changed_fields(load_recipe(run / "recipe.yaml"), recipe):
            raise CheckpointError(
                f"{run} holds a run with other settings ({'; '.join(changes)}). Choose another --out, or remove "
                f"{run} and {folder}."
            )
    else:
        began, cpu = time.monotonic(), time.process_time()
        train(recipe, overwrite=True)  # a part of a run that was broken off would not count as time
        spent: dict[str, Any] = {"seconds": time.monotonic() - began, "cpu_seconds": time.process_time() - cpu}
        if isinstance(size, OnlineSize):
            sampled = sum(len(group.responses) for group in read_groups(run / "samples.jsonl"))
            spent |= {"steps": recipe.train.max_steps, "answers": sampled}
        replace_file(folder / "time.json", json.dumps(spent) + "\n")
    spent = read_settings(folder / "time.json")
    answered = answers(run / "model", start.exam, folder, f"exam {name}", Runtime())
    return outcome_of(name, start.seed, answered, learning_rate=recipe.train.learning_rate, spent=spent)


def _settings(size: LeagueSize, given: bool) -> dict[str, Any]:
    return dataclasses.asdict(size) | {"base": "given" if given else "SFT of the demo", "processors": os.cpu_count()}
