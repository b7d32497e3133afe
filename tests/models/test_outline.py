"""A model without its weights has the sizes of the model that is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from benchmarks.gpu_models import llava_config

from sightline.data.render import Renderer
from sightline.models.family import family_of
from sightline.models.load import load_policy
from sightline.models.outline import Card, outline, patches_of, read_card
from sightline.recipes.schema import LoraSpec, ModelSpec, PartsSpec
from tiny_models import FAMILIES, save_tiny

PARTS = {
    "full": PartsSpec(),
    "lora": PartsSpec(language="lora", projector="full"),
    "eyes": PartsSpec(language="frozen", projector="full", vision="lora"),
}


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_an_outline_counts_what_loading_trains_and_holds(tiny: dict[str, Path], family: str, parts: str) -> None:
    spec = ModelSpec(path=str(tiny[family]), parts=PARTS[parts])
    sizes, policy = outline(read_card(spec)), load_policy(spec)
    trained = {part: sum(p.numel() for _, p in named) for part, named in policy.parts().items()}
    assert {part.part: part.trained for part in sizes.parts} == trained
    held = sum(p.numel() * p.element_size() for p in policy.parameters())
    assert sum(part.held for part in sizes.parts) == held
    plain = load_policy(ModelSpec(path=str(tiny[family])), trainable=False)
    assert sum(part.parameters for part in sizes.parts) == sum(p.numel() for p in plain.parameters())


def test_a_tied_head_counts_once_and_an_unread_one_is_not_trained(tmp_path: Path) -> None:
    spec = ModelSpec(path=str(save_tiny("llava", tmp_path / "tied", tied=True)))
    policy = load_policy(spec)
    sizes = outline(read_card(spec))
    assert sizes.parts[0].trained == sum(p.numel() for _, p in policy.parts()["language"])
    apart = ModelSpec(path=str(save_tiny("llava", tmp_path / "apart")))
    read, unread = (outline(read_card(apart), head=head).parts[0].trained for head in (True, False))
    assert read - unread == sizes.head == sizes.vocabulary * sizes.hidden


def test_going_on_from_an_adapter_trains_what_it_holds(tiny: dict[str, Path], tmp_path: Path) -> None:
    parts = PartsSpec(language="lora", projector="frozen")
    policy = load_policy(ModelSpec(path=str(tiny["llava"]), parts=parts, lora=LoraSpec(rank=4)))
    policy.save(tmp_path / "adapter")
    spec = ModelSpec(path=str(tiny["llava"]), adapter=str(tmp_path / "adapter"))
    (language, projector, _) = outline(read_card(spec)).parts
    assert (language.mode, projector.mode) == ("lora", "frozen")
    assert language.trained == sum(p.numel() for _, p in policy.parts()["language"])


def test_seven_billion_parameters_are_counted_without_their_memory() -> None:
    """LLaVA-1.5-7B with LoRA of rank 16, plain and in 4 bits."""
    config = llava_config(tiny=False)
    parts = PartsSpec(language="lora", projector="frozen")

    def sizes(quantization: str):
        spec = ModelSpec(path="x", dtype="bfloat16", parts=parts, quantization=quantization)
        return outline(Card(spec=spec, config=config, family=family_of(config), processor=None))

    language, projector, vision = sizes("none").parts
    assert (language.parameters, projector.parameters, vision.parameters) == (6_738_939_904, 20_979_712, 303_507_456)
    adapters = 32 * 16 * (4 * (4096 + 4096) + 3 * (4096 + 11008))
    assert language.trained == adapters == 39_976_960
    assert language.held == 2 * 6_738_939_904 + 4 * adapters
    linear = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    assert sizes("none").linear["language"] == linear
    four = sizes("nf4").parts[0].held
    bits = 0.5 + (1 + 4 / 256) / 64  # 4 bits, a scale of 8 bits for 64 weights, one of 32 for 256 scales
    assert four == pytest.approx(linear * bits + 2 * (6_738_939_904 - linear) + 4 * adapters)


@pytest.mark.parametrize(("family", "patches"), [("llava", 16), ("llava_next", None), ("qwen2_5_vl", None)])
def test_patches_are_those_of_the_pixels(
    tiny: dict[str, Path], pictures: list[str], family: str, patches: int | None
) -> None:
    card = read_card(ModelSpec(path=str(tiny[family])))
    image = Renderer(card.processor, card.family).image(pictures[3])
    pixels = image.tensors["pixel_values"]
    side = card.config.vision_config.patch_size
    expected = patches or int(pixels.numel() / (3 * side**2 * (2 if family == "qwen2_5_vl" else 1)))
    assert patches_of(image, card.config) == expected
    if family == "qwen2_5_vl":
        assert expected == int(torch.prod(image.tensors["image_grid_thw"]))
