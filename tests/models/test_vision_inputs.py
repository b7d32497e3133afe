"""A processor that makes other pictures than the tower takes is refused when the model is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from transformers import AutoConfig, AutoProcessor

from sightline.data.render import Renderer
from sightline.errors import DataError, RecipeError
from sightline.models.assemble import TinyLlava
from sightline.models.family import family_of
from sightline.models.load import load_policy
from sightline.recipes.schema import ModelSpec

BORDERS, OUTSIDE = "then puts them into 32x32, with black borders", "then puts them into 32x32, without what lies out"


@pytest.mark.parametrize(
    ("family", "size", "words"),
    [
        ("llava", {"shortest_edge": 16}, BORDERS),
        ("llava", {"height": 16, "width": 64}, BORDERS),
        ("llava", {"shortest_edge": 64}, OUTSIDE),
        ("llava_next", {"shortest_edge": 16}, BORDERS),
        ("llava_next", {"height": 64, "width": 64}, OUTSIDE),
    ],
)
def test_a_picture_size_that_leaves_borders_or_cuts_them(
    tiny: dict[str, Path], family: str, size: dict[str, int], words: str
) -> None:
    with pytest.raises(RecipeError, match=words):
        load_policy(ModelSpec(path=str(tiny[family]), image_size=size))


def test_picture_sizes_that_fit(tiny: dict[str, Path]) -> None:
    load_policy(ModelSpec(path=str(tiny["llava"]), image_size={"height": 32, "width": 32}))
    load_policy(ModelSpec(path=str(tiny["qwen2_5_vl"]), image_size={"shortest_edge": 256, "longest_edge": 512}))


@pytest.mark.parametrize(
    ("family", "change", "words"),
    [
        ("llava", {"crop_size": {"height": 24, "width": 24}}, "makes pictures 24x24, and the vision tower takes 32x32"),
        ("llava", {"size": {"shortest_edge": 24}}, BORDERS),
        ("llava", {"do_center_crop": False}, "as large as {'shortest_edge': 32} makes them"),
        ("llava", {"patch_size": 16}, "has patch_size 16, the model 8"),
        ("llava", {"vision_feature_select_strategy": "full"}, "select_strategy full, the model default"),
        ("llava_next", {"crop_size": {"height": 24, "width": 24}}, r"makes tiles of \(24, 24\)"),
        ("llava_next", {"image_grid_pinpoints": [[32, 64]]}, r"lays tiles on \[\(32, 64\)\], the model knows"),
        ("qwen2_5_vl", {"merge_size": 1}, "makes patches of .*'merge': 1.*takes .*'merge': 2"),
    ],
)
def test_a_processor_of_another_model(
    tiny: dict[str, Path], tmp_path: Path, family: str, change: dict[str, Any], words: str
) -> None:
    config, processor = AutoConfig.from_pretrained(tiny[family]), AutoProcessor.from_pretrained(tiny[family])
    family_of(config).check_pictures(config, processor)
    for name, value in change.items():
        setattr(processor if name in vars(processor) else processor.image_processor, name, value)
    with pytest.raises(RecipeError, match=words):
        family_of(config).check_pictures(config, processor)


def test_a_model_that_takes_pictures_as_they_are_refuses_other_sizes(tmp_path: Path) -> None:
    policy = load_policy(ModelSpec(path=str(TinyLlava().build(tmp_path / "model", ["a"], seed=0))))
    renderer = Renderer(policy.processor, policy.family)
    for name, size in (("fits", (96, 96)), ("wide", (96, 64))):
        Image.new("RGB", size).save(tmp_path / f"{name}.png")
    assert renderer.image_tokens(str(tmp_path / "fits.png")) == 9
    assert renderer.white_image().tensors["pixel_values"].shape[-2:] == (96, 96)
    for read in (renderer.image_tokens, renderer.image):
        with pytest.raises(DataError, match=r"wide.png of 96x64 pixels \(it takes pictures of 96x96 as they are\)"):
            read(str(tmp_path / "wide.png"))
