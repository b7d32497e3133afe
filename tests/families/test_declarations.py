"""What the declarations say, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from groups import assistant, corner_groups, user
from PIL import Image
from test_matrix import batch_of, each_family, policy_of
from transformers import AutoConfig

from sightline.data.render import Renderer
from sightline.errors import DataError, RecipeError, UnsupportedError
from sightline.models.decoder import SHOWN, check_decoder
from sightline.models.families import FAMILIES, REFUSED
from sightline.models.families_page import page
from sightline.models.family import family_of
from sightline.models.load import load_policy, load_processor
from sightline.recipes.schema import ModelSpec
from sightline.types import Group, Prompt, Response
from tiny_families import BUILDERS

Folders = Callable[[str], Path]
ALL_ONES = {("idefics3", "pixel_attention_mask"), ("smolvlm", "pixel_attention_mask")}
"""Inputs that say nothing of these pictures: tiles fill their squares."""


def test_the_page_is_made_from_the_declarations() -> None:
    written = Path(__file__).resolve().parents[2] / "docs" / "families.md"
    assert written.read_text(encoding="utf-8") == page(), "run python -m sightline.models.families_page"


def test_every_declared_model_type_is_in_the_matrix() -> None:
    built = {name.partition("-")[0] for name in BUILDERS}
    assert all(family.title and family.pictures for family in FAMILIES)
    assert built == {model_type for family in FAMILIES for model_type in family.model_types}


@each_family
def test_no_input_of_the_pictures_can_be_dropped(folder_of: Folders, pictures: list[str], model_type: str) -> None:
    policy = policy_of(folder_of(model_type)).eval()
    group = corner_groups(pictures)[2]  # pictures of different sizes
    batch = batch_of(policy, [group], "rows")
    with torch.no_grad():
        expected = policy(batch).logprobs
        for key in policy.family.image_keys:
            less = {name: value for name, value in batch.vision.items() if name != key}
            try:
                found = policy(replace(batch, vision=less)).logprobs
            except (AttributeError, KeyError, TypeError, ValueError):
                continue
            unchanged = bool((found - expected).abs().max() < 1e-4)
            assert unchanged == ((model_type, key) in ALL_ONES), key


@pytest.mark.parametrize("layout", ["packed", "tree"])
def test_what_cannot_share_is_refused_with_its_reason(folder_of: Folders, layout: str) -> None:
    reason = family_of(AutoConfig.from_pretrained(folder_of("mllama"))).reason
    with pytest.raises(UnsupportedError, match=f"does not support layout '{layout}'.*{reason}. Set model.layout"):
        load_policy(ModelSpec(path=str(folder_of("mllama")), layout=layout))  # type: ignore[arg-type]


def test_refused_models_are_refused_with_their_reason(folder_of: Folders) -> None:
    for model_type, reason in REFUSED.items():
        with pytest.raises(UnsupportedError, match=f"{model_type}.* is refused: {reason}. Take one of "):
            family_of(SimpleNamespace(model_type=model_type))
    config = AutoConfig.from_pretrained(folder_of("gemma4"))
    config.text_config.enable_moe_block = True
    with pytest.raises(UnsupportedError, match="Gemma 4 with experts"):
        family_of(config)


def test_the_rule_of_gemma_4_is_that_of_its_config(folder_of: Folders) -> None:
    small, large = (family_of(AutoConfig.from_pretrained(folder_of(name))) for name in ("gemma4", "gemma4-large"))
    assert (small.prefix_rule, large.prefix_rule) == ("causal", "image_block")


def test_history_of_a_model_that_sees_its_prompt_whole_is_not_trained(folder_of: Folders, pictures: list[str]) -> None:
    policy = policy_of(folder_of("paligemma"))
    messages = (user(None, "what?"), assistant("a circle", weight=1), user("so?"))
    prompt = Prompt(id="history", messages=messages, images=tuple(pictures[:1]))
    with pytest.raises(DataError, match="see all of a prompt at once"):
        batch_of(policy, [Group(prompts=(prompt,), responses=(Response(text="yes"),))], "rows")


def test_an_attention_that_does_not_cap_scores_is_refused(folder_of: Folders, pictures: list[str]) -> None:
    policy = policy_of(folder_of("paligemma"), attention="gather")
    with pytest.raises(UnsupportedError, match="caps its attention scores"):
        policy(batch_of(policy, corner_groups(pictures)[:1], "tree"))


def test_a_size_for_a_processor_that_has_none_is_refused(folder_of: Folders) -> None:
    with pytest.raises(RecipeError, match="Gemma4ImageProcessorPil takes none"):
        load_processor(ModelSpec(path=str(folder_of("gemma4")), image_size={"height": 4, "width": 4}))


@pytest.mark.parametrize(
    ("model_type", "setting", "message"),
    [
        ("internvl", {"image_processor.size": {"height": 16, "width": 16}}, r"tiles of \(16, 16\)"),
        ("internvl", {"image_seq_length": 9}, "tokens a tile of 9, the model takes 4"),
        ("gemma3", {"image_processor.size": {"height": 16, "width": 16}}, r"tiles of \(16, 16\)"),
        ("gemma4", {"image_processor.patch_size": 8}, "patches of 8, the model takes 4"),
        ("idefics3", {"image_processor.max_image_size": {"longest_edge": 16}}, "tiles of 16, the model takes 32"),
        ("smolvlm", {"image_seq_len": 5}, "tokens a tile of 5, the model takes 4"),
        ("mistral3", {"spatial_merge_size": 1}, "merged of 1, the model takes 2"),
        ("mllama", {"image_processor.max_image_tiles": 2}, "most tiles of 2, the model takes 4"),
        ("llava_onevision", {"num_image_tokens": 9}, "counts 9 tokens a tile"),
        ("qwen3_vl", {"image_processor.merge_size": 1}, "'merge': 1"),
    ],
)
def test_pictures_of_another_shape_are_refused(
    folder_of: Folders, model_type: str, setting: dict[str, object], message: str
) -> None:
    path = folder_of(model_type)
    processor, config = load_processor(ModelSpec(path=str(path))), AutoConfig.from_pretrained(path)
    family = family_of(config)
    family.check_pictures(config, processor)
    for name, value in setting.items():
        owner, _, leaf = name.rpartition(".")
        setattr(processor.image_processor if owner else processor, leaf, value)
    with pytest.raises(RecipeError, match=message):
        family.check_pictures(config, processor)


@pytest.mark.parametrize(
    ("size", "message"), [((200, 3), "nothing is left of it"), ((13, 4), "one patch of 16x16 pixels")]
)
def test_mistral_refuses_thin_and_tiny_pictures_before_they_are_trained(
    folder_of: Folders, tmp_path: Path, size: tuple[int, int], message: str
) -> None:
    processor = load_processor(ModelSpec(path=str(folder_of("mistral3"))))
    renderer = Renderer(processor, family_of(AutoConfig.from_pretrained(folder_of("mistral3"))))
    Image.new("RGB", size).save(tmp_path / "a.png")
    for read in (renderer.image_tokens, renderer.image):
        with pytest.raises(DataError, match=message):
            read(str(tmp_path / "a.png"))


@pytest.mark.parametrize("size", [(50, 3), (40, 1), (3, 50), (50, 4)])
def test_mistral_counts_the_tokens_of_flat_pictures(folder_of: Folders, tmp_path: Path, size: tuple[int, int]) -> None:
    processor = load_processor(ModelSpec(path=str(folder_of("mistral3"))))
    renderer = Renderer(processor, family_of(AutoConfig.from_pretrained(folder_of("mistral3"))))
    Image.new("RGB", size).save(tmp_path / "a.png")
    path = str(tmp_path / "a.png")
    assert renderer.image_tokens(path) == len(renderer.image(path).expansion)


@pytest.mark.parametrize("size", [{"longest_edge": 40}, {"longest_edge": 100}, {"height": 50, "width": 70}])
@pytest.mark.parametrize("model_type", ["idefics3", "smolvlm"])
def test_tiles_are_counted_where_sizes_are_no_multiples_of_them(
    folder_of: Folders, tmp_path: Path, model_type: str, size: dict[str, int]
) -> None:
    """Pictures are resized to ``size`` and from there to whole tiles, the longer side first."""
    path = folder_of(model_type)
    processor = load_processor(ModelSpec(path=str(path), image_size=size))
    renderer = Renderer(processor, family_of(AutoConfig.from_pretrained(path)))
    for width, height in ((31, 17), (150, 40), (97, 389), (120, 40), (40, 120), (3, 40)):
        picture = str(tmp_path / f"{width}.png")
        Image.new("RGB", (width, height)).save(picture)
        assert renderer.image_tokens(picture) == len(renderer.image(picture).expansion), (width, height)


def test_a_size_that_leaves_mistral_one_patch_is_refused(folder_of: Folders) -> None:
    with pytest.raises(RecipeError, match="one patch of 16x16 pixels"):
        load_processor(ModelSpec(path=str(folder_of("mistral3")), image_size={"longest_edge": 2}))


def test_text_models_that_are_not_asked_when_loaded_are_in_the_matrix(
    folder_of: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that transformers lets look ahead are asked all the same."""
    texts = {AutoConfig.from_pretrained(folder_of(name)).get_text_config().model_type for name in BUILDERS}
    assert (
        texts - SHOWN == {"mllama_text_model", "qwen3_5_text", "qwen3_5_moe_text"}
        and SHOWN - texts == {"qwen2_5_vl_text"} - texts
    )
    policy = policy_of(folder_of("gemma3"))
    monkeypatch.setattr("sightline.models.decoder._states", lambda _, layout: torch.tensor([float(layout == "rows")]))
    check_decoder(policy, "gemma3")
    policy.config.get_text_config().use_bidirectional_attention = True
    with pytest.raises(UnsupportedError, match="read each other"):
        check_decoder(policy, "gemma3")
