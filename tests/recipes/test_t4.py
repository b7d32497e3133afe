"""The recipes for one T4 fit into it: by the forecast, at the real size of their model, on pictures of any size."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest
import torch
from paper_rows import places_of
from PIL import Image

from recipe_files import T4
from sightline.algorithms.registry import build_algorithm
from sightline.models.forecast import DEVICES, named_speed
from sightline.models.outline import read_card
from sightline.recipes.load import load_recipe, with_reference
from sightline.train.check_run import Asks, check
from tiny_families import save_family

TEXT = {
    "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
    "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True, "layer_types": None,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
}  # fmt: skip
VISION = {"depth": 32, "embed_dim": 1280, "hidden_size": 1536, "num_heads": 16, "mlp_ratio": 4, "patch_size": 14}
"""Of Qwen2-VL 2B."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of Qwen2-VL 2B without weights, and with a tokenizer of few words."""
    folder = save_family("qwen2_vl", tmp_path_factory.mktemp("model"))
    (folder / "model.safetensors").unlink()
    for name, changed in (
        ("config.json", {"text_config": TEXT, "vision_config": VISION}),
        ("processor_config.json", {"image_processor": {"patch_size": 14}, "video_processor": {"patch_size": 14}}),
    ):
        values = json.loads((folder / name).read_text())
        for part, fields in changed.items():
            values[part] |= fields
        (folder / name).write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize("path", T4, ids=lambda path: path.stem)
def test_the_recipe_fits(path: Path, model: Path, tmp_path: Path) -> None:
    pictures = [str(tmp_path / f"{number}.png") for number in range(8)]
    for number, picture in enumerate(pictures):
        Image.new("RGB", (640, 480), (20 * number, 0, 90)).save(picture)
    places = places_of(path, tmp_path, pictures)
    recipe = load_recipe(path, [f"model.path={model}", f"output_dir={tmp_path / 'run'}", *places])
    recipe = with_reference(recipe, build_algorithm(recipe.algorithm))
    speed = named_speed("t4", torch.float32)
    asks = Asks(title=path.stem, shown=False, speed=functools.partial(lambda sizes: speed))
    found = check(recipe.data, asks, tmp_path / "check", card=read_card(recipe.model), recipe=recipe)
    assert [source.bad for source in found.sources] == [()]
    assert found.forecast is not None
    assert 4.5e9 < found.forecast.memory.total < 6e9 < DEVICES["t4"].memory  # as docs/training.md says
    assert sum(part.parameters for part in found.forecast.outline.parts) == pytest.approx(2.21e9, rel=0.001)
    assert 8 < found.forecast.seconds / found.forecast.steps < 25
