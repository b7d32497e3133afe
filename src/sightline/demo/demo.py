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
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from sightline import __version__
from sightline.data.schema import read_groups, write_groups
from sightline.errors import CheckpointError
from sightline.evaluation.benches.scenes import answer_greedily, held_out_prompts
from sightline.files import read_settings, replace_file
from sightline.models.assemble import TinyLlava
from sightline.models.load import hide_loading_bars
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
    presence: int = 6
    """Yes/no questions about each of these, beside a caption."""
    held_out: int = 400
    """Drawings to evaluate on."""
    overrides: tuple[str, ...] = ()
    """Of both recipes."""


FULL = DemoSize()
QUICK = DemoSize(scenes=320, prompts=64, held_out=24, overrides=("train.max_steps=20",))
"""Shows that everything runs; too short to learn anything."""


def run_demo(*, seed: int = 0, out: Path | None = None, quick: bool = False) -> dict[str, object]:
    """Runs all stages; goes on where an earlier call with the same seed and folder was broken off.

    Writes ``report.html``, ``results.json``, the Group files under ``data``, the answers under ``before`` and
    ``after``, and a run directory for each training.

    Args:
        seed: of the world, the model and the runs.
        out: folder for everything; None: ``runs/demo``, with the seed behind it where that is not 0.
        quick: a few steps of each stage.

    Returns:
        What ``results.json`` holds.

    Raises:
        CheckpointError: the folder holds another demo.
    """
    began = time.monotonic()
    hide_loading_bars()
    torch.set_num_threads(1)  # the model is so small that a second thread mostly waits
    out = out or Path("runs/demo" if seed == 0 else f"runs/demo-{seed}")
    claim(out, {"seed": seed, "quick": quick})
    size = QUICK if quick else FULL
    console, progress = Console(), Console(stderr=True)
    world = Scenes(seed=seed)
    progress.rule("[bold]1. A world, and a model that learns to see it")
    exam = draw(world, size, out)
    if not (out / "base" / "config.json").exists():
        TinyLlava().build(out / "base", world.vocabulary(), seed=seed)
    train(recipe_of("sft", seed, out, size))
    before = answers(out / "sft" / "model", exam, out / "before", "exam before")
    progress.rule("[bold]2. It answers, is scored against the facts, and is aligned")
    train(recipe_of("dpo", seed, out, size))
    after = answers(out / "dpo" / "model", exam, out / "after", "exam after")
    rows = scenes_table(world.grade(before), world.grade(after))
    results = write_results(rows, seed, size, out, time.monotonic() - began)
    page = report(world, rows, (before, after), out, results)
    progress.rule("[bold]3. Before and after, on held-out scenes")
    console.print(terminal_table(rows))
    console.print(f"Report: {page}", soft_wrap=True)
    return results


def claim(out: Path, settings: dict[str, object]) -> None:
    """Notes in ``demo.json`` which demo a folder holds, so that two are never mixed."""
    file = out / "demo.json"
    if file.exists() and (found := read_settings(file)) != settings:
        raise CheckpointError(
            f"{out} holds a demo with {found}, asked for was {settings}. Choose another folder with --out"
        )
    replace_file(file, json.dumps(settings) + "\n")


def draw(world: Scenes, size: DemoSize, out: Path) -> list[Group]:
    """Writes the training data and the prompts to sample from; returns the held-out prompts."""
    data, pictures = out / "data", out / "data" / "images"
    kinds: tuple[Kind, ...] = ("caption", "presence", "presence", "presence", "presence", "colour", "count")
    with bar() as progress:
        task = progress.add_task("drawing", total=size.scenes + size.prompts)
        if not (data / "prompts.jsonl").exists():
            groups = world.groups("train", size.scenes, pictures, kinds=kinds, questions_per_scene=size.questions)
            write_groups(data / "train.jsonl", progress.track(groups, task_id=task))
            start = size.scenes
            captions = world.prompts("train", size.prompts, pictures, kind="caption", start=start)
            asked = world.prompts(
                "train", size.prompts, pictures, kind="presence", per_scene=size.presence, start=start
            )
            write_groups(data / "prompts.jsonl", [*progress.track(captions, task_id=task), *asked])
        progress.update(task, completed=size.scenes + size.prompts)
    return held_out_prompts(world, size.held_out, pictures)


def recipe_of(stage: str, seed: int, out: Path, size: DemoSize) -> Recipe:
    """The stage's recipe (``sft.yaml`` or ``dpo.yaml`` beside this file), its paths moved under ``out``."""
    folders = {
        "sft": ("model.path=base", "data.train.0.path=data/train.jsonl", "output_dir=sft"),
        "dpo": ("model.path=sft/model", "online.prompts.path=data/prompts.jsonl", "output_dir=dpo"),
    }[stage]
    moved = [f"{key}={json.dumps(str(out / path))}" for key, path in (folder.split("=") for folder in folders)]
    return load_recipe(Path(str(files("sightline.demo") / f"{stage}.yaml")), [*moved, f"seed={seed}", *size.overrides])


def answers(model: Path, exam: Sequence[Group], folder: Path, title: str) -> list[Group]:
    """Greedy answers of a model to the held-out prompts, kept in ``answers.jsonl``."""
    file = folder / "answers.jsonl"
    if file.exists():
        return list(read_groups(file))
    engine = load_engine(ModelSpec(path=str(model)))
    with bar() as progress:
        task = progress.add_task(title, total=len(exam))
        answered = answer_greedily(
            engine, list(exam), batch_size=64, on_progress=lambda done, _: progress.update(task, completed=done)
        )
    write_groups(file, answered)
    return answered


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


def bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True))
