"""Aligns a tiny model in the built-in world, and shows that it hallucinates less. Every stage leaves plain files."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import torch
from rich.console import Console

from sightline import __version__
from sightline.data.sampler import share
from sightline.data.schema import read_groups, write_groups
from sightline.evaluation.benches.scenes import answer_greedily, held_out_prompts
from sightline.files import replace_file
from sightline.models.assemble import TinyLlava
from sightline.models.load import hide_loading_bars
from sightline.progress import Progress
from sightline.recipes.load import load_recipe
from sightline.recipes.schema import ModelSpec, Recipe
from sightline.report.page import write_report
from sightline.report.run_page import training_curves
from sightline.report.scenes import GALLERY_NOTE, scenes_gallery, scenes_table
from sightline.report.table import Row, table_json, terminal_table
from sightline.rollouts.hf import load_engine
from sightline.scenes.language import Kind
from sightline.scenes.world import Scenes
from sightline.train.loop import train
from sightline.train.metrics import read_metrics
from sightline.train.runtime import Runtime
from sightline.types import Group


@dataclass(frozen=True, kw_only=True)
class DemoSize:
    """How much of everything."""

    scenes: int = 14_000
    """Drawings to learn from."""
    questions: int = 3
    """Questions about each, beside a caption."""
    prompts: int = 2_560
    """Drawings to sample answers about."""
    presence: int = 2
    """Yes/no questions about each of these, beside a caption."""
    held_out: int = 400
    """Drawings to evaluate on."""
    overrides: tuple[str, ...] = ()
    """Of both recipes."""


FULL = DemoSize()
QUICK = DemoSize(scenes=320, prompts=64, held_out=24, overrides=("train.max_steps=20",))
"""Shows that everything runs; too short to learn anything."""


def run_stages(*, seed: int, out: Path, quick: bool = False) -> None:
    """All stages of a demo, as one of the processes that share them; see ``launch.run_demo``."""
    began = time.monotonic()
    hide_loading_bars()
    torch.set_num_threads(1)
    runtime, size, world = Runtime(), QUICK if quick else FULL, Scenes(seed=seed)
    console, progress = Console(quiet=not runtime.is_main), Console(stderr=True, quiet=not runtime.is_main)
    progress.rule("[bold]1. A world, and a model that learns to see it")
    exam = draw(world, size, out, runtime)
    if runtime.is_main and not (out / "base" / "config.json").exists():
        TinyLlava().build(out / "base", world.vocabulary(), seed=seed)
    runtime.barrier()
    train(recipe_of("sft", seed, out, size))
    before = answers(out / "sft" / "model", exam, out / "before", "exam before", runtime)
    progress.rule("[bold]2. It answers, is scored against the facts, and is aligned")
    train(recipe_of("dpo", seed, out, size))
    after = answers(out / "dpo" / "model", exam, out / "after", "exam after", runtime)
    if not runtime.is_main:
        return
    rows = scenes_table(world.grade(before), world.grade(after))
    results = write_results(rows, seed, size, out, time.monotonic() - began)
    page = report(world, rows, (before, after), out, results)
    progress.rule("[bold]3. Before and after, on held-out scenes")
    console.print(terminal_table(rows))
    console.print(f"Report: {page}", soft_wrap=True, markup=False)


def draw(world: Scenes, size: DemoSize, out: Path, runtime: Runtime) -> list[Group]:
    """Writes the training data and the prompts to sample from; returns the held-out prompts.

    Every process draws its share of the pictures, the main one writes the lists.
    """
    data, pictures = out / "data", out / "data" / "images"
    kinds: tuple[Kind, ...] = ("caption", "presence", "presence", "presence", "presence", "colour", "count")
    if not (data / "prompts.jsonl").exists():
        lessons, asked = _span(size.scenes, runtime), _span(size.prompts, runtime, start=size.scenes)
        with Progress("drawing", len(lessons) + len(asked), shown=runtime.is_main) as bar:
            groups = world.groups(
                "train", len(lessons), pictures, kinds=kinds, questions_per_scene=size.questions, start=lessons.start
            )
            learnt = [_drawn(group, bar, done) for done, group in enumerate(groups, 1)]
            prompts = world.prompts("train", len(asked), pictures, kind="caption", start=asked.start)
            captions = [_drawn(group, bar, done) for done, group in enumerate(prompts, len(lessons) + 1)]
        scenes, first, each = len(asked), asked.start, size.presence
        presence = list(
            world.prompts("train", scenes, pictures, kind="presence", per_scene=each, start=first, drawn=True)
        )
        parts = runtime.gather_objects((learnt, captions, presence))
        if runtime.is_main:
            lists = [[group for part in parts for group in part[index]] for index in range(3)]
            write_groups(data / "train.jsonl", lists[0])
            write_groups(data / "prompts.jsonl", [*lists[1], *lists[2]])
        runtime.barrier()
    return held_out_prompts(world, size.held_out, pictures)


def _span(number: int, runtime: Runtime, *, start: int = 0) -> range:
    """The scenes that this process draws, of ``number`` from ``start`` on: a run of them."""
    cuts = [start + number * rank // runtime.size for rank in (runtime.rank, runtime.rank + 1)]
    return range(*cuts)


def _drawn(group: Group, bar: Progress, done: int) -> Group:
    bar.update(done)
    return group


def recipe_of(stage: str, seed: int, out: Path, size: DemoSize) -> Recipe:
    """The stage's recipe (``sft.yaml`` or ``dpo.yaml`` beside this file), its paths moved under ``out``."""
    folders = {
        "sft": ("model.path=base", "data.train.0.path=data/train.jsonl", "output_dir=sft"),
        "dpo": ("model.path=sft/model", "online.prompts.path=data/prompts.jsonl", "output_dir=dpo"),
    }[stage]
    moved = [f"{key}={json.dumps(str(out / path))}" for key, path in (folder.split("=") for folder in folders)]
    return load_recipe(Path(str(files("sightline.demo") / f"{stage}.yaml")), [*moved, f"seed={seed}", *size.overrides])


def answers(model: Path, exam: Sequence[Group], folder: Path, title: str, runtime: Runtime) -> list[Group]:
    """Greedy answers of a model to the held-out prompts, kept in ``answers.jsonl``. Every process gives its share."""
    file = folder / "answers.jsonl"
    if file.exists():
        return list(read_groups(file))
    engine = load_engine(ModelSpec(path=str(model)))
    mine = share(exam, runtime.rank, runtime.size)
    with Progress(title, len(mine), shown=runtime.is_main) as bar:
        answered = answer_greedily(engine, mine, batch_size=64, on_progress=lambda done, _: bar.update(done))
    parts = runtime.gather_objects(answered)
    everything = [part[row] for row in range(len(parts[0])) for part in parts if row < len(part)]
    if runtime.is_main:
        write_groups(file, everything)
    return everything


def write_results(rows: Sequence[Row], seed: int, size: DemoSize, out: Path, seconds: float) -> dict[str, object]:
    """``results.json``: the figures of the table, and what they were measured on."""
    results: dict[str, object] = {
        "version": __version__,
        "seed": seed,
        "held_out_scenes": size.held_out,
        "seconds": round(seconds, 1),
        "metrics": table_json(rows),
    }
    replace_file(out / "results.json", json.dumps(results, indent=2) + "\n")
    return results


def report(
    world: Scenes, rows: Sequence[Row], sides: tuple[list[Group], list[Group]], out: Path, results: dict[str, object]
) -> Path:
    """``report.html``: table, curves of both trainings, gallery."""
    before, after = sides
    curves = [
        curve
        for stage in ("sft", "dpo")
        for curve in training_curves(read_metrics(out / stage / "metrics.jsonl"), prefix=f"{stage.upper()}: ")
    ]
    return write_report(
        out / "report.html",
        title="Sightline demo: a tiny model, before and after alignment",
        table=rows,
        curves=curves,
        gallery=scenes_gallery(before, world.grade(before), world.grade(after)),
        notes=[
            f"A tiny LLaVA with random weights learnt from drawn scenes whose captions carry a language prior "
            f"(before), and was then aligned by online DPO against the facts of the scenes (after). Seed "
            f"{world.seed}, {results['held_out_scenes']} held-out scenes, greedy answers.",
            GALLERY_NOTE,
        ],
    )
