"""Pairs of answers about drawn scenes, and short runs on them: shared by the tests of visual preferences."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sightline.data.schema import write_groups
from sightline.models.assemble import TinyLlava
from sightline.recipes.schema import (
    DatasetSpec,
    DataSpec,
    LookingSpec,
    ModelSpec,
    PartsSpec,
    Recipe,
    TrainSpec,
    VisualSpec,
)
from sightline.scenes.world import Scenes
from sightline.types import Edge, Group, Response

WORLD = Scenes(seed=0, objects=(1, 2), shapes=("star", "circle"), companions={}, colours=("red", "blue"), grid=2)
OTHER = {"red": "blue", "blue": "red"}


def model(folder: Path) -> Path:
    """A tiny LLaVA with random weights that can tell the colours of drawn shapes within a few steps."""
    TinyLlava().build(folder, WORLD.vocabulary(), seed=0)
    return folder


def pairs(folder: Path, number: int, *, seen: bool) -> Iterator[Group]:
    """Questions for the colour of a shape. ``seen``: the right colour over the wrong one; otherwise red over blue,
    whatever the picture shows."""
    for asked in WORLD.prompts("train", number, folder, kind="colour"):
        right = asked.prompts[0].facts["truth"] if seen else "red"
        answers = (Response(text=right), Response(text=OTHER[right]))
        yield Group(prompts=asked.prompts, responses=answers, edges=(Edge(winner=0, loser=1),))


def recipe(path: Path, folder: Path, *, seen: bool = True, visual: VisualSpec | None = None, **options: Any) -> Recipe:
    """Twenty steps of DPO."""
    rows = folder / "pairs.jsonl"
    write_groups(rows, pairs(folder / "pictures", 96, seen=seen))
    train = {"batch_size": 16, "learning_rate": 1e-3, "max_steps": 20, "schedule": "constant", "warmup": 0}
    return Recipe(
        name="test",
        output_dir=str(folder / "run"),
        model=ModelSpec(path=str(path), parts=PartsSpec(vision="full")),
        algorithm={"name": "dpo", "beta": 0.1, "per": "group"},
        reference="copy",
        data=DatasetSpec(train=(DataSpec(path=str(rows), visual=visual),)),
        train=TrainSpec(**(train | {"looking": LookingSpec(every=10)} | options)),  # type: ignore[arg-type]
    )
