"""Every recipe in recipes/ loads, and its algorithm builds and agrees with it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from recipe_files import LOOPS, TRAININGS
from sightline.algorithms.registry import build_algorithm
from sightline.data.load import load_groups
from sightline.loops.methods import build_method
from sightline.loops.stages import Round
from sightline.recipes.load import check_algorithm, dump_recipe, load_recipe
from sightline.recipes.load_loop import dump_loop, load_loop
from sightline.recipes.loop import training_recipe

HUB = "openbmb/RLAIF-V-Dataset"


def test_there_are_recipes():
    assert {path.stem for path in LOOPS} >= {"self_rewarding_scenes"}
    assert {path.stem for path in TRAININGS} >= {"sft_llava", "dpo_llava_lora", "sft_qwen2_5_vl", "dpo_online_scenes"}


@pytest.mark.parametrize("path", TRAININGS, ids=lambda path: path.stem)
def test_recipe_loads_and_its_algorithm_agrees(path, tmp_path):
    recipe = load_recipe(path)
    check_algorithm(recipe, build_algorithm(recipe.algorithm))
    assert recipe.name == path.stem and recipe.output_dir == f"runs/{path.stem}"
    again = tmp_path / "again.yaml"
    again.write_text(dump_recipe(recipe))
    assert load_recipe(again) == recipe


@pytest.mark.parametrize("path", LOOPS, ids=lambda path: path.stem)
def test_loop_loads_and_its_method_agrees_with_its_algorithm(path, tmp_path):
    loop = load_loop(path)
    assert loop.name == path.stem and loop.output_dir == f"runs/{path.stem}"
    again = tmp_path / "again.yaml"
    again.write_text(dump_loop(loop))
    assert load_loop(again) == loop
    plain = training_recipe(loop, 1, loop.model, "round-1")
    round = Round(number=1, folder=Path("round-1"), spec=loop.model, prompts=Path("prompts.jsonl"), seed=1)
    recipe = build_method(loop.method).training(round, plain)
    check_algorithm(recipe, build_algorithm(recipe.algorithm))


@pytest.mark.parametrize("column", ["prompt", "question"])
@pytest.mark.parametrize("path", [path for path in TRAININGS if HUB in path.read_text()], ids=lambda path: path.stem)
def test_a_recipe_for_the_hub_takes_rows_of_ones_own_in_their_place(path, column, pictures, tmp_path):
    recipe = load_recipe(path)
    assert recipe.data is not None and recipe.data.train[0].path == HUB
    own = tmp_path / "pairs.jsonl"
    own.write_text(json.dumps({column: "Is it red?", "chosen": "Yes.", "rejected": "No.", "images": [pictures[0]]}))
    spec = replace(recipe.data.train[0], path=str(own), relation="text", visual=None)  # these are made by a run
    (group,) = load_groups(spec)
    assert {response.text for response in group.responses} == {"Yes.", "No."}
