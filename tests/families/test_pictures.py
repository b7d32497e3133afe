"""Options of pictures: what transformers' own processor makes with the same options is what is trained and sampled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from groups import user
from PIL import Image
from test_matrix import PER_ROW, TEXT_KEYS, batch_of, plain_logprobs, processed, rendered
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor

from sightline.data.render import Renderer
from sightline.errors import RecipeError
from sightline.models.families import FAMILIES
from sightline.models.load import load_policy, load_processor
from sightline.models.pictures import picture_settings
from sightline.models.policy import Policy
from sightline.recipes.pictures import PictureSpec
from sightline.recipes.schema import LoraSpec, ModelSpec, PartsSpec
from sightline.types import Group, Prompt, Response

Folders = Callable[[str], Path]
ONE_SIZE = ("mllama", "gemma3", "paligemma")
"""Families without options: the tower's size is the only one."""
TWO = [[32, 64], [64, 32]]
THREE = [[32, 32], [32, 64], [32, 96], [64, 32], [96, 32]]
CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    # family, options, and the attributes of its image processor that say the same
    ("llava_next", {"max_tiles": 2}, {"image_grid_pinpoints": TWO}),
    ("llava_onevision", {"max_tiles": 3}, {"image_grid_pinpoints": THREE}),
    ("qwen2_vl", {"min_pixels": 512, "max_pixels": 640}, {"size": {"shortest_edge": 512, "longest_edge": 640}}),
    ("qwen2_5_vl", {"max_pixels": 640}, {"size": {"shortest_edge": 256, "longest_edge": 640}}),
    ("qwen3_vl", {"max_pixels": 512}, {"size": {"shortest_edge": 256, "longest_edge": 512}}),
    ("qwen3_5", {"max_pixels": 640}, {"size": {"shortest_edge": 256, "longest_edge": 640}}),
    ("glm4v", {"max_pixels": 320}, {"size": {"shortest_edge": 256, "longest_edge": 640}}),
    ("glm46v", {"min_pixels": 128, "max_pixels": 384}, {"size": {"shortest_edge": 256, "longest_edge": 768}}),
    ("internvl", {"min_tiles": 2, "max_tiles": 3}, {"min_patches": 2, "max_patches": 3}),
    ("idefics3", {"split": False}, {"do_image_splitting": False}),
    ("smolvlm", {"split": False}, {"do_image_splitting": False}),
    ("mistral3", {"image_size": {"longest_edge": 40}}, {"size": {"longest_edge": 40}}),
    ("gemma4", {"max_tokens": 140}, {"max_soft_tokens": 140}),
]


def spec_of(path: Path, options: dict[str, Any], **more: Any) -> ModelSpec:
    pictures = {name: value for name, value in options.items() if name != "image_size"}
    size = options.get("image_size")
    return ModelSpec(path=str(path), layout="rows", image_size=size, pictures=PictureSpec(**pictures), **more)


def questions(pictures: list[str]) -> list[Group]:
    """About one picture, and about two."""
    answers = (Response(text="a red circle."), Response(text="no"))
    one = Prompt(id="one", messages=(user(None, "What is it?"),), images=(pictures[5],))
    two = Prompt(id="two", messages=(user(None, "or", None, "?"),), images=(pictures[3], pictures[1]))
    return [Group(prompts=(one,), responses=answers), Group(prompts=(two,), responses=answers)]


def plain(path: Path, attributes: dict[str, Any]) -> tuple[Any, Any]:
    """Model and processor as transformers loads them, with these settings."""
    config, processor = AutoConfig.from_pretrained(path), AutoProcessor.from_pretrained(path)
    processor.image_processor = AutoImageProcessor.from_pretrained(path, backend="pil", **attributes)
    if "image_grid_pinpoints" in attributes:
        config.image_grid_pinpoints = attributes["image_grid_pinpoints"]
    return AutoModelForImageTextToText.from_pretrained(path, config=config).eval(), processor


def logprobs(policy: Policy, groups: list[Group]) -> torch.Tensor:
    with torch.no_grad():
        found = policy(batch_of(policy, groups, "rows")).logprobs
    assert found is not None
    return found


def test_every_option_of_every_family_is_tried() -> None:
    tried = {(name, option) for name, options, _ in CASES for option in options} | {("llava", "pad_to_square")}
    declared = {(kind, option) for family in FAMILIES for kind in family.model_types for option in family.options}
    assert {pair for pair in tried if pair[1] != "image_size"} >= {
        (kind, option) for kind, option in declared if not kind.startswith(("qwen", "glm"))
    }
    assert {option for _, option in declared} == {option for _, option in tried} - {"image_size"}


@pytest.mark.parametrize(("model_type", "options", "attributes"), CASES, ids=[case[0] for case in CASES])
def test_options_are_those_of_transformers(
    folder_of: Folders, pictures: list[str], tmp_path: Path, model_type: str, options: dict[str, Any], attributes: Any
) -> None:
    """Tokens, pixels and log-probs; lengths that are known beforehand; the saved model needs no option again."""
    path, groups = folder_of(model_type), questions(pictures)
    policy = load_policy(spec_of(path, options)).eval()
    model, processor = plain(path, attributes)
    own, policy.processor = policy.processor, processor
    inputs = [processed(policy, group.prompts[0]) for group in groups]
    with torch.no_grad():
        policy.processor = own
        for group, expected in zip(groups, inputs, strict=True):
            (made,) = rendered(policy, [group])
            assert expected["input_ids"][0].tolist() == list(made.prompts[0].tokens)
            joined = policy.family.join([made.images[index].tensors for index in made.prompts[0].images])
            assert set(joined) == set(expected) - TEXT_KEYS - PER_ROW
            assert all(torch.equal(value.reshape(expected[key].shape), expected[key]) for key, value in joined.items())
            assert Renderer(own, policy.family).num_tokens(group) == made.num_tokens - len(made.responses[1].tokens)
        policy.processor = processor
        expected = torch.cat([plain_logprobs(model, policy, group) for group in groups])
        policy.processor = own
    found = logprobs(policy, groups)
    assert (found - expected).abs().max() < 1e-5
    before = load_policy(ModelSpec(path=str(path), layout="rows")).eval()
    other = [len(made.prompts[0].tokens) for made in rendered(before, groups)]
    assert other != [len(made.prompts[0].tokens) for made in rendered(policy, groups)]  # the options do matter
    policy.save(tmp_path)
    again = load_policy(ModelSpec(path=str(tmp_path), layout="rows"), trainable=False)
    assert torch.equal(logprobs(again, groups), found)
    settings = picture_settings(again.processor, policy.family.options)
    assert settings == picture_settings(own, policy.family.options)
    assert settings.items() >= {name: value for name, value in options.items() if name != "image_size"}.items()


@pytest.mark.parametrize(
    ("model_type", "options"), [("llava_next", {"max_tiles": 2}), ("llava", {"pad_to_square": True})]
)
def test_an_adapter_brings_its_options(
    folder_of: Folders, pictures: list[str], tmp_path: Path, model_type: str, options: dict[str, Any]
) -> None:
    path, groups = folder_of(model_type), questions(pictures)
    policy = load_policy(spec_of(path, options, parts=PartsSpec(language="lora", projector="full"), lora=LoraSpec()))
    found = logprobs(policy.eval(), groups)
    policy.save(tmp_path)
    spec = ModelSpec(path=str(path), adapter=str(tmp_path), layout="rows")
    assert torch.equal(logprobs(load_policy(spec, trainable=False), groups), found)
    plainly = load_policy(replace(spec, adapter=None), trainable=False)
    assert (logprobs(plainly, groups) - found).abs().max() > 1e-4
    reference = load_policy(replace(spec, adapter=None), trainable=False, processor_of=str(tmp_path))
    assert torch.equal(logprobs(reference, groups), found)  # an adapter starts as nothing


def test_internvl_with_one_tile_shows_the_whole_picture_once(folder_of: Folders, pictures: list[str]) -> None:
    policy = load_policy(spec_of(folder_of("internvl"), {"max_tiles": 1}))
    processor = plain(folder_of("internvl"), {})[1]
    for path in pictures:
        image = Renderer(policy.processor, policy.family).image(path)
        picture = Image.open(path).convert("RGB")
        alone = processor.image_processor([picture], crop_to_patches=False, return_tensors="pt")["pixel_values"]
        assert torch.equal(image.tensors["pixel_values"], alone)


@pytest.mark.parametrize("size", [(40, 30), (30, 51), (64, 64)])
def test_pad_to_square_is_that_of_llava(folder_of: Folders, tmp_path: Path, size: tuple[int, int]) -> None:
    """The picture in the middle of a square of the processor's mean colour, as LLaVA's own ``expand2square``."""
    path = tmp_path / "picture.png"
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    policy = load_policy(spec_of(folder_of("llava"), {"pad_to_square": True}))
    made = policy.processor.image_processor
    side = max(size)
    square = np.empty((side, side, 3), dtype=np.uint8)
    square[:] = [int(255 * mean) for mean in (0.48145466, 0.4578275, 0.40821073)]
    top, left = (side - size[1]) // 2, (side - size[0]) // 2
    square[top : top + size[1], left : left + size[0]] = pixels
    scaled = np.asarray(Image.fromarray(square).resize((32, 32), Image.Resampling.BICUBIC), dtype=np.float64) / 255
    expected = (scaled - made.image_mean) / made.image_std
    found = Renderer(policy.processor, policy.family).image(str(path)).tensors["pixel_values"][0]
    assert np.abs(found.permute(1, 2, 0).numpy() - expected).max() < 1e-5
    cut = Renderer(load_processor(ModelSpec(path=str(folder_of("llava")))), policy.family).image(str(path))
    assert torch.allclose(cut.tensors["pixel_values"][0], found, atol=1e-5) == (size[0] == size[1])


def test_padding_is_switched_off_again(folder_of: Folders, pictures: list[str], tmp_path: Path) -> None:
    load_policy(spec_of(folder_of("llava"), {"pad_to_square": True})).save(tmp_path)
    groups = questions(pictures)
    off = load_policy(spec_of(tmp_path, {"pad_to_square": False})).eval()
    assert torch.equal(logprobs(off, groups), logprobs(load_policy(spec_of(folder_of("llava"), {})).eval(), groups))


@pytest.mark.parametrize(
    ("model_type", "options", "message"),
    [
        ("llava", {"max_tiles": 2}, r"max_tiles is set, and 'llava' has no such option \(it has pad_to_square\)"),
        ("qwen2_5_vl", {"pad_to_square": True}, r"has no such option \(it has max_pixels, min_pixels\)"),
        *[(name, {"max_pixels": 900}, "it has none: all its pictures have one size") for name in ONE_SIZE],
        ("llava_next", {"max_tiles": 1}, "max_tiles is 1: the model's grids have 2 to 4 tiles. Raise it"),
        ("qwen2_5_vl", {"min_pixels": 900, "max_pixels": 800}, "at least 900 and at most 800 pixels"),
        ("qwen2_5_vl", {"max_pixels": 128}, "at least 256 and at most 128 pixels"),
        ("qwen2_5_vl", {"max_pixels": 63}, "max_pixels is 63: a picture has 64 pixels or more"),
        ("qwen2_5_vl", {"max_pixels": 640, "image_size": {"shortest_edge": 256, "longest_edge": 640}}, "both set"),
        ("internvl", {"min_tiles": 9}, "at most 4 tiles"),
        ("gemma4", {"max_tokens": 71}, "max_tokens is 71: a picture has 70, 140, 280, 560, 1120"),
    ],
)
def test_what_a_family_cannot_do_is_refused(
    folder_of: Folders, model_type: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        load_policy(spec_of(folder_of(model_type), options))


def test_a_processor_that_pans_and_scans_is_refused(folder_of: Folders, tmp_path: Path) -> None:
    policy = load_policy(spec_of(folder_of("gemma3"), {}))
    policy.processor.image_processor.do_pan_and_scan = True
    policy.save(tmp_path)
    with pytest.raises(RecipeError, match="do_pan_and_scan, which writes words and crops"):
        load_policy(spec_of(tmp_path, {}))
