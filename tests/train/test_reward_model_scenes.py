"""Twenty steps on drawn scenes, from random weights."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from sightline.data.schema import write_groups
from sightline.models.assemble import TinyLlava
from sightline.recipes.schema import DatasetSpec, DataSpec, ModelSpec, PartsSpec, Recipe, TrainSpec
from sightline.scenes.language import caption
from sightline.scenes.scene import Scene
from sightline.scenes.world import Scenes, Split
from sightline.train.loop import train
from sightline.train.metrics import read_metrics
from sightline.types import Edge, Group, Response


def preferences(world: Scenes, split: Split, count: int, folder: Path) -> Iterator[Group]:
    """A true caption over one that names the absent companion of what is there."""

    def text(scene: Scene, prior: float, seed: int) -> str:
        return caption(scene, random.Random(seed), companions=world.companions, prior=prior, sized=0.0).answer

    for number, group in enumerate(world.prompts(split, count, folder / "images")):
        scene = world.scene(split, number)
        if world.tempting(scene):
            answers = tuple(Response(text=text(scene, prior, number)) for prior in (0.0, 1.0))
            yield Group(prompts=group.prompts, responses=answers, edges=(Edge(winner=0, loser=1),))


def test_held_out_pairs_are_told_apart(tmp_path: Path) -> None:
    """Learnable from words alone: what is usual and named is absent here. Telling captions of two scenes apart by
    the picture takes a model that sees (docs/algorithms/reward_model.md has the figures)."""
    world = Scenes(seed=0)
    splits: tuple[tuple[Split, int], ...] = (("train", 200), ("held_out", 120))
    for split, count in splits:
        write_groups(tmp_path / f"{split}.jsonl", preferences(world, split, count, tmp_path))
    base = TinyLlava().build(tmp_path / "base", world.vocabulary(), seed=0)
    recipe = Recipe(
        name="reward_model",
        output_dir=str(tmp_path / "run"),
        model=ModelSpec(path=str(base), parts=PartsSpec(vision="full")),
        algorithm={"name": "reward_model"},
        data=DatasetSpec(
            train=(DataSpec(path=str(tmp_path / "train.jsonl")),),
            eval=(DataSpec(path=str(tmp_path / "held_out.jsonl")),),
        ),
        train=TrainSpec(
            max_steps=20, batch_size=16, micro_batch_tokens=65536, learning_rate=1e-4, schedule="constant", eval_every=5
        ),
    )
    records = {record["step"]: record for record in read_metrics(train(recipe, quiet=True).run_dir / "metrics.jsonl")}
    assert records[20]["eval/accuracy"] > 0.9
    curve = {step: records[step]["eval/loss"] for step in (5, 10, 15, 20)}
    assert curve == pytest.approx({5: 0.2822, 10: 0.0984, 15: 0.0620, 20: 0.0220}, rel=0.1)
