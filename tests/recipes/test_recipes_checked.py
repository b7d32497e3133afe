"""Every recipe of recipes/, those of papers apart, can be checked before it runs, on the rows that it trains on."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from test_recipes_run import FOLDER, RECIPES, REWARD_MODELS, on_tiny

from sightline.algorithms.registry import build_algorithm
from sightline.data.inspect.checked import as_json
from sightline.models.forecast import named_speed
from sightline.models.outline import read_card
from sightline.recipes.load import with_reference
from sightline.recipes.schema import DatasetSpec
from sightline.train.check_run import Asks, check
from tiny_models import FAMILIES


@pytest.mark.parametrize(
    "path", [*RECIPES, *(FOLDER / f"{name}.yaml" for name in REWARD_MODELS)], ids=lambda path: path.stem
)
def test_recipe(tiny: dict[str, Path], pictures: list[str], tmp_path: Path, path: Path) -> None:
    recipe = on_tiny(path, tiny["qwen2_5_vl" if "qwen" in path.stem else FAMILIES[0]], tmp_path, pictures)
    recipe = with_reference(recipe, build_algorithm(recipe.algorithm))
    speed = named_speed("a100", torch.float32)
    asks = Asks(title=path.stem, shown=False, speed=functools.partial(lambda sizes: speed))
    found = check(recipe.data or DatasetSpec(), asks, tmp_path / "check", card=read_card(recipe.model), recipe=recipe)
    as_json(found, ())
    assert [source.bad for source in found.sources] == [()] * len(found.sources)
    assert len(found.first) == 2 and found.tokens is not None
    trained = {part.title: part.trained for part in found.first[0].parts if part.trained}
    if recipe.online is not None:
        assert (trained, found.forecast) == ({}, None)
        return
    assert found.forecast is not None and found.forecast.steps == 2
    assert found.forecast.memory.total > 0 and found.forecast.seconds > 0
    assert trained, "something of the first row is trained"
