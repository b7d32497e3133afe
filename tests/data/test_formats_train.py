"""Every format of ``format_samples``: from the file to a training step, and to a Group file and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from format_samples import REPEATED, SAMPLES, placed, save_pictures, source

from sightline.data.load import Account, load_groups, load_prompts
from sightline.data.schema import read_groups
from sightline.recipes.load import load_recipe
from sightline.recipes.schema import DataSpec
from sightline.train.loop import train
from sightline.train.metrics import read_metrics
from sightline.types import Group

RECIPES = Path(__file__).parents[2] / "recipes"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_pictures(tmp_path)
    return tmp_path


def written(name: str, folder: Path) -> dict[str, Any]:
    made = SAMPLES[name]
    return source(made, folder, [placed(row, folder) for row in made.rows] * REPEATED)


def recipe_of(name: str, spec: dict[str, Any], model: Path, folder: Path) -> Any:
    """The recipe of the repository with this source alone, one step of all rows, a tiny model."""
    values = yaml.safe_load((RECIPES / f"{SAMPLES[name].recipe}.yaml").read_text())
    relation = {key: value for key, value in values["data"]["train"][0].items() if key == "relation"}
    values["data"] = {**values["data"], "train": [relation | spec]}
    values["data"].pop("eval", None)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    common = [f"model.path={model}", "model.dtype=float32", f"output_dir={folder / 'run'}"]
    small = ["train.batch_size=4", "train.max_steps=1", "train.warmup=0"]
    return load_recipe(folder / "recipe.yaml", [*common, *small])


@pytest.mark.parametrize("name", SAMPLES)
def test_a_file_of_every_format_trains(name: str, tiny: dict[str, Path], folder: Path) -> None:
    result = train(recipe_of(name, written(name, folder), tiny["llava"], folder), quiet=True)
    (record,) = read_metrics(result.run_dir / "metrics.jsonl")
    assert record["grad_norm"] > 0


def without_source(groups: list[Group]) -> list[Group]:
    return [replace(group, source="") for group in groups]


@pytest.mark.parametrize("name", SAMPLES)
def test_a_file_of_every_format_is_converted_and_read_again(name: str, folder: Path, run: Run) -> None:
    spec = written(name, folder)
    groups = load_groups(DataSpec(**spec), Account(cache_dir=folder / "out.images"))
    options = [f"--where={column}={taken}" for column, (taken,) in spec.get("where", {}).items()]
    options += [f"--{key.replace('_', '-')}={spec[key]}" for key in ("entry", "image_dir") if key in spec]
    code, _, err = run("data", "convert", spec["path"], "-o", folder / "out.jsonl", *options)
    assert code == 0, err
    again = list(read_groups(folder / "out.jsonl"))
    assert [(g.responses, g.edges) for g in again] == [(g.responses, g.edges) for g in groups]
    for one, other in zip(again, groups, strict=True):
        for mine, own in zip(one.prompts, other.prompts, strict=True):
            assert (mine.id, mine.messages, mine.facts) == (own.id, own.messages, own.facts)
            assert [Path(p).read_bytes() for p in mine.images] == [Path(p).read_bytes() for p in own.images]
    trained = load_groups(DataSpec(path=str(folder / "out.jsonl")))
    assert without_source(trained) == without_source(again) and len(trained) == REPEATED * len(SAMPLES[name].rows)


def test_prompts_alone_are_sampled_from(folder: Path) -> None:
    """TRL's sixth type."""
    (folder / "rows.jsonl").write_text('{"prompt": "What is there?", "images": ["0.png"]}\n')
    (group,) = load_prompts(DataSpec(path=str(folder / "rows.jsonl")))
    assert group.prompts[0].images == (str(folder / "0.png"),) and group.responses == ()
