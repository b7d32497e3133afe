"""Every recipe of recipes/ runs, those of papers apart: two steps of a tiny model on rows of the layout that it names.

Families take turns, so that each trains a third of the recipes.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recipe_files import FOLDER, STARTS
from sightline.data.schema import write_groups
from sightline.models.assemble import TinyLlava
from sightline.recipes.load import load_recipe
from sightline.recipes.schema import Recipe
from sightline.scenes.world import Scenes
from sightline.train.loop import train
from sightline.train.metrics import read_metrics
from sightline.types import Edge, Group, Prompt, Response
from tiny_models import FAMILIES

ELSEWHERE = ("real_", "reward_model")
RECIPES = sorted(path for path in STARTS if not path.stem.startswith(ELSEWHERE))
"""``real_*`` are trained by tests/real, ``reward_model*`` below, those of papers by test_papers.py."""
REWARD_MODELS = ("reward_model", "reward_model_scenes")
STAGES = ("reward_model_text", "reward_model_caption", "reward_model_image")

QUESTION, GOOD, BAD = "What can you see in the picture?", "a red circle.", "two blue stars and a moon"
GROUPS = {"dpo_llava_full", "dpo_listwise", "reward_model_scenes"}
ONLINE = {
    "dpo_online_scenes",
    "dpo_ovip_scenes",
    "ovip_online_scenes",
    "raft_scenes",
    "grpo_scenes",
    "gspo_scenes",
    "dapo_scenes",
    "papo_scenes",
    "ppo_scenes",
}


def rows_of(name: str, pictures: list[str]) -> list[dict[str, Any]]:
    """Rows that are no Groups, in the layout of the recipe's data."""
    if name.startswith("sft"):
        turns = [{"from": "human", "value": f"<image>\n{QUESTION}"}, {"from": "gpt", "value": GOOD}]
        return [{"id": str(n), "image": picture, "conversations": turns} for n, picture in enumerate(pictures)]
    column = "question" if "reward_model_" not in name else "prompt"
    pair = {column: QUESTION, "chosen": GOOD, "rejected": BAD, "captions": ["a circle on a table"]}
    return [{**pair, "image": picture, "chosen": f"{GOOD} {n}"} for n, picture in enumerate(pictures)]


def ranked(pictures: list[str]) -> list[Group]:
    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    return [
        Group(
            prompts=(Prompt(id=str(n), messages=({"role": "user", "content": content},), images=(picture,)),),
            responses=tuple(Response(text=text) for text in (GOOD, "a shape", BAD)),
            edges=(Edge(winner=0, loser=1), Edge(winner=0, loser=2), Edge(winner=1, loser=2)),
        )
        for n, picture in enumerate(pictures)
    ]


def on_tiny(path: Path, model: Path, folder: Path, pictures: list[str], *overrides: str) -> Recipe:
    """The recipe with another model, other rows and two small steps; all else is as it stands."""
    name, rows = path.stem, folder / ("rows.jsonl" if path.stem in GROUPS else "rows.json")
    if name in GROUPS:
        write_groups(rows, ranked(pictures))
    elif name in ONLINE:
        write_groups(rows, Scenes(seed=0).prompts("train", 4, folder / "scenes"))
    else:
        rows.write_text(json.dumps(rows_of(name, pictures)))
    places = ["data.train.0.path"]
    places = ["online.prompts.path", "online.sampling.max_new_tokens=4"] if name in ONLINE else places
    places += ["online.overlong_buffer=2", "online.truncated=train"] if name == "dapo_scenes" else []
    found = [place if "=" in place else f"{place}={rows}" for place in places]
    small = ["train.batch_size=2", "train.max_steps=2", "train.warmup=0"]
    common = [f"model.path={model}", "model.dtype=float32", f"output_dir={folder / 'run'}"]
    return load_recipe(path, [*common, *found, *small, *overrides])


def check(recipe: Recipe) -> Path:
    result = train(recipe, quiet=True)
    records = read_metrics(result.run_dir / "metrics.jsonl")
    assert [record["step"] for record in records] == [1, 2]
    # a pair of equal likelihoods has no gradient in the first step of some losses, two steps always have one
    assert max(record["grad_norm"] for record in records) > 0
    assert result.model_dir.is_dir()
    return result.model_dir


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe(tiny: dict[str, Path], pictures: list[str], tmp_path: Path, path: Path) -> None:
    family = "qwen2_5_vl" if "qwen" in path.stem else FAMILIES[RECIPES.index(path) % len(FAMILIES)]
    model = tiny[family]
    if path.stem in ONLINE:  # their reward reads the language of the drawn world
        model = TinyLlava().build(tmp_path / "model", Scenes(seed=0).vocabulary(), seed=0)
    recipe = on_tiny(path, model, tmp_path, pictures)
    if path.stem in ONLINE:  # all answers of an untrained model are equally wrong
        recipe = replace(recipe, online=replace(recipe.online, reward="train_runs:CountsE", min_gap=0.0))
    if "ovip" in path.stem and recipe.online is not None:
        selection = replace(recipe.online.selection, relaxed_gap=0.0, bad=9.0)
        sampling = replace(recipe.online.sampling, max_new_tokens=24)  # long enough to tell something of a picture
        recipe = replace(recipe, online=replace(recipe.online, selection=selection, sampling=sampling))
    check(recipe)


@pytest.mark.parametrize("name", REWARD_MODELS)
def test_reward_model(tiny: dict[str, Path], pictures: list[str], tmp_path: Path, name: str) -> None:
    path = FOLDER / f"{name}.yaml"
    check(on_tiny(path, tiny[FAMILIES[REWARD_MODELS.index(name)]], tmp_path, pictures))


def test_reward_model_in_stages(tiny: dict[str, Path], pictures: list[str], tmp_path: Path) -> None:
    """Each stage goes on from the adapter and the score head of the one before."""
    before: list[str] = []
    for name in STAGES:
        folder = tmp_path / name
        folder.mkdir()
        path = FOLDER / f"{name}.yaml"
        before = [f"model.adapter={check(on_tiny(path, tiny['llava'], folder, pictures, *before))}"]
