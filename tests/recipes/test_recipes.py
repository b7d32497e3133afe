"""Every recipe in recipes/ loads, and its algorithm builds and agrees with it."""

import json
from dataclasses import replace

import pytest

from recipe_files import TRAININGS
from sightline.algorithms.registry import build_algorithm
from sightline.data.load import load_groups
from sightline.recipes.load import check_algorithm, dump_recipe, load_recipe

RECIPES = TRAININGS
HUB = "openbmb/RLAIF-V-Dataset"


def test_there_are_recipes():
    assert {path.stem for path in RECIPES} >= {"sft_llava", "dpo_llava_lora", "sft_qwen2_5_vl", "dpo_online_scenes"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_loads_and_its_algorithm_agrees(path, tmp_path):
    recipe = load_recipe(path)
    check_algorithm(recipe, build_algorithm(recipe.algorithm))
    assert recipe.name == path.stem and recipe.output_dir == f"runs/{path.stem}"
    again = tmp_path / "again.yaml"
    again.write_text(dump_recipe(recipe))
    assert load_recipe(again) == recipe


@pytest.mark.parametrize("column", ["prompt", "question"])
@pytest.mark.parametrize("path", [path for path in RECIPES if HUB in path.read_text()], ids=lambda path: path.stem)
def test_a_recipe_for_the_hub_takes_rows_of_ones_own_in_their_place(path, column, pictures, tmp_path):
    recipe = load_recipe(path)
    assert recipe.data is not None and recipe.data.train[0].path == HUB
    own = tmp_path / "pairs.jsonl"
    own.write_text(json.dumps({column: "Is it red?", "chosen": "Yes.", "rejected": "No.", "images": [pictures[0]]}))
    spec = replace(recipe.data.train[0], path=str(own), relation="text", visual=None)  # these are made by a run
    (group,) = load_groups(spec)
    assert {response.text for response in group.responses} == {"Yes.", "No."}
