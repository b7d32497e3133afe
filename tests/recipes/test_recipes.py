"""Every recipe in recipes/ loads, and its algorithm builds and agrees with it."""

from pathlib import Path

import pytest

from sightline.algorithms.registry import build_algorithm
from sightline.recipes.load import check_algorithm, dump_recipe, load_recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


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
