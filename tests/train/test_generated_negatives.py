"""OViP online with a tiny model in the drawn world: pairs with pictures that show the hallucination, in one run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import killed_stages
import pytest
import torch
import train_runs
from safetensors.torch import load_file

from sightline.data.schema import read_groups, write_groups
from sightline.models.assemble import TinyLlava
from sightline.recipes.load import dump_recipe
from sightline.recipes.negatives import GeneratedSpec, StagesSpec
from sightline.recipes.preferences import BufferSpec, SelectionSpec
from sightline.recipes.schema import (
    DatasetSpec,
    DataSpec,
    ModelSpec,
    NegativeSpec,
    OnlineSpec,
    Recipe,
    SamplingSpec,
    TrainSpec,
    VisualSpec,
)
from sightline.scenes.grader import grade_caption
from sightline.scenes.scene import Scene
from sightline.scenes.world import Scenes
from sightline.train.loop import train
from sightline.types import Edge

WORLD = Scenes(seed=0)
Make = Callable[..., Recipe]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Recipes of small runs on a model that has seen a few captions, so that its answers tell objects."""
    folder = tmp_path_factory.mktemp("ovip")
    start = TinyLlava().build(folder / "start", WORLD.vocabulary(), seed=0)
    rows = folder / "rows.jsonl"
    write_groups(rows, WORLD.groups("train", 48, folder / "images", kinds=("caption",)))
    trained = Recipe(
        name="sft", output_dir=str(folder / "sft"), model=ModelSpec(path=str(start)), algorithm={"name": "sft"},
        data=DatasetSpec(train=(DataSpec(path=str(rows)),)),
        train=TrainSpec(epochs=6, batch_size=16, learning_rate=2e-3),
    )  # fmt: skip
    model = train(trained, quiet=True).model_dir
    prompts = folder / "prompts.jsonl"
    write_groups(prompts, WORLD.prompts("train", 12, folder / "images"))

    def recipe(output: Path, *, staleness: int = 0, stages: StagesSpec | None = None, **options: object) -> Recipe:
        online = OnlineSpec(
            prompts=DataSpec(path=str(prompts)),
            reward="scenes",
            relation="ovip",
            selection=SelectionSpec(good=0, small_gap=1, least_deviation=0.3, deviations=1, bad=-100, fallback="none"),
            visual=VisualSpec(relation="ovip"),
            negatives=GeneratedSpec(kind="scenes"),
            buffer=BufferSpec(unit="pair"),
            sampling=SamplingSpec(n=6, max_new_tokens=16, batch_size=4),
            stages=stages,
            max_staleness=staleness,
        )
        steps = {"max_steps": 5, "batch_size": 4, "learning_rate": 1e-3, "schedule": "constant", "warmup": 0}
        return Recipe(
            name="ovip", output_dir=str(output), model=ModelSpec(path=str(model)),
            algorithm={"name": "dpo", "beta": 0.1, "per": "group"}, reference="copy", online=online,
            train=TrainSpec(**(steps | options)),  # type: ignore[arg-type]
        )  # fmt: skip

    return recipe


def weights(recipe: Recipe) -> dict[str, torch.Tensor]:
    return load_file(Path(recipe.output_dir) / "model" / "model.safetensors")


def files(recipe: Recipe) -> dict[str, str]:
    """What a run wrote of samples and pairs, by name; and the names of its pictures."""
    folder = Path(recipe.output_dir)
    found = {path.name: path.read_text() for path in folder.glob("*.jsonl") if path.name != "metrics.jsonl"}
    assert {"samples.jsonl", "pairs.jsonl", "dropped_pairs.jsonl"} <= set(found)
    return found | {"pictures": str(sorted(path.name for path in (folder / "negatives").glob("scene-*")))}


def same(one: Recipe, other: Recipe) -> None:
    assert train_runs.figures(one) == train_runs.figures(other)
    assert files(one) == files(other)
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_every_pair_is_trained_under_a_picture_that_shows_its_hallucination(make: Make, tmp_path: Path) -> None:
    """And the run is, step by step, the offline form of OViP on what it wrote to pairs.jsonl."""
    online = make(tmp_path / "online")
    train(online, quiet=True)
    records = train_runs.figures(online)
    assert records[0]["loss"] == pytest.approx(3 * 0.693147, rel=1e-5)  # three edges in full, each at log 2
    assert sum(record["negatives/made"] for record in records if "negatives/made" in record) > 0
    pairs = list(read_groups(Path(online.output_dir) / "pairs.jsonl"))
    for pair in pairs:
        question, negative = pair.prompts
        rejected = pair.responses[pair.edges[0].loser].text
        before, after = (Scene.from_facts(one.facts["scene"]) for one in (question, negative))
        assert not grade_caption(rejected, after, ()).hallucinated and before.signature != after.signature
        assert Path(negative.images[0]).is_file() and negative.images[0] != question.images[0]
    assert any(grade_caption(p.responses[1].text, Scene.from_facts(p.prompts[0].facts["scene"]), ()).hallucinated
               for p in pairs)  # fmt: skip
    visual = VisualSpec(relation="ovip", negative=NegativeSpec(kind="column"))
    rows = DatasetSpec(train=(DataSpec(path=str(Path(online.output_dir) / "pairs.jsonl"), visual=visual),))
    offline = replace(online, output_dir=str(tmp_path / "offline"), online=None, data=rows)
    offline = replace(offline, train=replace(online.train, shuffle=False))
    train(offline, quiet=True)
    assert [r["loss"] for r in train_runs.figures(offline)] == pytest.approx([r["loss"] for r in records], rel=1e-5)


def test_overlapping_stages_give_the_run_that_stages_in_turn_give(make: Make, tmp_path: Path) -> None:
    turns = make(tmp_path / "a", staleness=2, stages=StagesSpec(overlap=False, chunk=2))
    ahead = make(tmp_path / "b", staleness=2, stages=StagesSpec(chunk=2, scorers=2, painters=2))
    for recipe in (turns, ahead):
        train(recipe, quiet=True)
    same(turns, ahead)
    told = [record["buffer/staleness"] for record in train_runs.figures(ahead)]
    assert told[0] < 1 < told[-1]


def test_pairs_without_a_picture_are_trained_by_their_answers_in_turn_and_ahead(make: Make, tmp_path: Path) -> None:
    """A step of a pair without its picture has one comparison in the place of three."""
    stages = (StagesSpec(overlap=False, chunk=2), StagesSpec(chunk=2, scorers=2, painters=2))
    # next to no training: every comparison stays at log 2
    runs = [make(tmp_path / str(n), staleness=2, stages=one, learning_rate=1e-9) for n, one in enumerate(stages)]
    kept = [replace(r, online=replace(r.online, negatives=GeneratedSpec(kind="scenes", failed="text"))) for r in runs]
    for recipe in kept:
        train(recipe, quiet=True)
    same(*kept)
    made, bare, lost = (
        list(read_groups(Path(kept[0].output_dir) / name))
        for name in ("pairs.jsonl", "text_pairs.jsonl", "dropped_pairs.jsonl")
    )
    assert made and bare and not lost, "what is trained is not called dropped"
    for pair in bare:  # to be trained as it stands
        assert pair.edges == (Edge(winner=0, loser=1),) and len(pair.prompts[0].images) == 1
        assert pair.prompts[1].images == () and pair.prompts[1].facts["reason"]
    rows = DatasetSpec(train=(DataSpec(path=str(Path(kept[0].output_dir) / "text_pairs.jsonl")),))
    offline = replace(kept[0], output_dir=str(tmp_path / "offline"), online=None, data=rows)
    train(replace(offline, train=replace(offline.train, max_steps=1)), quiet=True)
    assert train_runs.figures(offline)[0]["loss"] == pytest.approx(0.693147, rel=1e-4)
    comparisons = [record["loss"] / 0.693147 for record in train_runs.figures(kept[0])]
    assert 1 <= min(comparisons) < 2.9 and max(comparisons) == pytest.approx(3, rel=1e-4)


@pytest.mark.processes
def test_a_run_that_is_killed_anywhere_ends_as_one_that_is_not(make: Make, tmp_path: Path) -> None:
    stages = StagesSpec(chunk=2, scorers=2, painters=2)
    whole, broken = (make(tmp_path / n, staleness=2, stages=stages, save_every=1, max_steps=3) for n in "ab")
    train(whole, quiet=True)
    (tmp_path / "recipe.yaml").write_text(dump_recipe(broken))
    command = [sys.executable, killed_stages.__file__, str(tmp_path / "recipe.yaml"), "0", "4"]
    done = subprocess.run(command, env=train_runs.environment(), capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) >= 2
    same(whole, broken)
