"""Models from parts: what the language model said it still says, and the projector learns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from groups import corner_groups
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPImageProcessorPil,
    CLIPVisionModel,
    Gemma2Config,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from command_line import sightline
from sightline.data.render import Renderer
from sightline.models.layout import lay_out
from sightline.models.load import load_policy
from sightline.recipes.schema import ModelSpec
from tiny_models import _vision_config, byte_level_tokenizer

RECIPE = Path(__file__).parents[2] / "recipes" / "sft_projector.yaml"
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 2, "max_position_embeddings": 512, "head_dim": 8}


def language(folder: Path, kind: Any = LlamaConfig, template: str | None = None, **options: Any) -> Path:
    """A tiny causal language model with its tokenizer."""
    special = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level_tokenizer(special),
        bos_token="<s>",
        eos_token="<|im_end|>" if template else "</s>",
        extra_special_tokens={"turn_token": "<|im_start|>"} if template else {},
    )
    tokenizer.chat_template = template
    torch.manual_seed(1)
    config = kind(vocab_size=len(tokenizer), **(SIZES | options))
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def clip(folder: Path) -> Path:
    CLIPVisionModel(_vision_config(32, 8, 32)).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def siglip(folder: Path) -> Path:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    SiglipVisionModel(SiglipVisionConfig(image_size=32, patch_size=8, **sizes)).save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


CASES = {
    "llama_clip_mlp": ({}, clip, "mlp2x"),
    "qwen_siglip_linear": ({"kind": Qwen2Config, "template": CHATML, "tie_word_embeddings": True}, siglip, "linear"),
}


def assembled(folder: Path, case: str) -> tuple[Path, Path]:
    options, tower, projector = CASES[case]
    parts = language(folder / "language", **options), tower(folder / "vision")
    out = folder / "out"
    done = sightline("assemble", "--language", parts[0], "--vision", parts[1], "--projector", projector, "-o", out)
    assert done.code == 0, done.err
    assert "recipes/sft_projector.yaml" in done.err
    return parts[0], out


@pytest.mark.parametrize("case", CASES)
def test_parts_are_what_they_were_and_all_layouts_agree(tmp_path: Path, pictures: list[str], case: str) -> None:
    text, out = assembled(tmp_path, case)
    whole = AutoModelForImageTextToText.from_pretrained(out).eval()
    alone = AutoModelForCausalLM.from_pretrained(text).eval()
    ids = torch.arange(3, 40)[None]
    words = alone.config.vocab_size
    with torch.no_grad():
        assert torch.equal(whole(input_ids=ids).logits[..., :words], alone(input_ids=ids).logits)
    processor = AutoProcessor.from_pretrained(out)
    assert whole.config.image_token_id == processor.tokenizer.convert_tokens_to_ids("<image>")
    assert whole.config.image_token_id >= words, "a row of its own"
    for name, value in CLIP_OR_SIGLIP[case].from_pretrained(tmp_path / "vision").state_dict().items():
        assert torch.equal(whole.model.vision_tower.state_dict()[name], value)
    policy = load_policy(ModelSpec(path=str(out)), trainable=False).eval()
    renderer = Renderer(policy.processor, policy.family)
    groups = [renderer.render(group) for group in corner_groups(pictures)]
    for group, rendered in zip(
        corner_groups(pictures), groups, strict=True
    ):  # counted by size alone, as rows are checked
        longest = max(len(rendered.prompts[r.prompt].tokens) + len(r.tokens) for r in rendered.responses)
        assert renderer.num_tokens(group) == longest
    tree, rows = (policy(lay_out(groups, kind, policy.family, policy.config)).logprobs for kind in ("tree", "rows"))
    torch.testing.assert_close(tree, rows, rtol=0, atol=2e-5)


CLIP_OR_SIGLIP = {"llama_clip_mlp": CLIPVisionModel, "qwen_siglip_linear": SiglipVisionModel}


def test_the_template_of_the_language_model_takes_pictures(tmp_path: Path) -> None:
    _, out = assembled(tmp_path, "qwen_siglip_linear")
    processor = AutoProcessor.from_pretrained(out)
    content = [{"type": "image"}, {"type": "text", "text": "why?"}]
    written = processor.apply_chat_template(
        [{"role": "system", "content": "short"}, {"role": "user", "content": content}], add_generation_prompt=True
    )
    assert written == (
        "<|im_start|>system\nshort<|im_end|>\n<|im_start|>user\n<image>\nwhy?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_linear_projector_starts_as_one_matrix(tmp_path: Path) -> None:
    _, out = assembled(tmp_path, "qwen_siglip_linear")
    projector = AutoModelForImageTextToText.from_pretrained(out).model.multi_modal_projector
    features = torch.randn(5, 32)
    torch.testing.assert_close(projector(features), projector.linear_1(features), rtol=0, atol=1e-6)


def test_the_recipe_trains_the_projector_and_nothing_else(tmp_path: Path, pictures: list[str]) -> None:
    _, out = assembled(tmp_path, "llama_clip_mlp")
    turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "a red circle."}]
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps([{"id": str(n), "image": p, "conversations": turns} for n, p in enumerate(pictures)]))
    run = tmp_path / "run"
    small = ("train.max_steps=1", "train.batch_size=2", "train.warmup=0", "model.dtype=float32")
    done = sightline("train", RECIPE, f"model.path={out}", f"data.train.0.path={rows}", f"output_dir={run}", *small)
    assert done.code == 0, done.err
    before, after = (
        dict(AutoModelForImageTextToText.from_pretrained(f).named_parameters()) for f in (out, run / "model")
    )
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved == {name for name in before if "multi_modal_projector" in name}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--projector", "resampler"), "LlavaForConditionalGeneration has no place for its queries"),
        (("--vision-layer", 7), "--vision-layer is 7, and"),
    ],
)
def test_what_the_class_cannot_hold_is_refused(tmp_path: Path, options: tuple[Any, ...], told: str) -> None:
    text, tower = language(tmp_path / "language"), clip(tmp_path / "vision")
    done = sightline("assemble", "--language", text, "--vision", tower, "-o", tmp_path / "out", *options)
    assert done.code == 2 and told in " ".join(done.err.split())
    assert not (tmp_path / "out").exists()


def test_a_language_model_that_does_more_is_refused(tmp_path: Path) -> None:
    """Gemma 2 caps its logits behind the LM head: LLaVA's class would not."""
    text = language(tmp_path / "language", Gemma2Config, final_logit_softcapping=0.5, tie_word_embeddings=True)
    done = sightline("assemble", "--language", text, "--vision", clip(tmp_path / "vision"), "-o", tmp_path / "out")
    assert done.code == 2 and "(gemma2) does more in its forward than decoder and LM head" in done.err
    swapped = sightline("assemble", "--language", tmp_path / "vision", "--vision", text, "-o", tmp_path / "out")
    assert swapped.code == 2 and f"{text} is a gemma2, where one of clip_vision_model" in swapped.err
