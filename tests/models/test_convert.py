"""Folders in the layout of LLaVA's own code become what they were; what is not known is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    CLIPImageProcessorPil,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from command_line import sightline
from tiny_models import _text_config, _vision_config, byte_level_tokenizer, save_tiny

GRID = [[32, 64], [64, 32], [64, 64]]
ORIGINAL = {
    "mm_vision_tower": "openai/clip-tiny",
    "mm_hidden_size": 32,
    "mm_vision_select_layer": -2,
    "mm_vision_select_feature": "patch",
    "mm_projector_type": "mlp2x_gelu",
    "mm_use_im_start_end": False,
    "mm_use_im_patch_token": False,
    "tune_mm_mlp_adapter": False,
    "use_mm_proj": True,
}


def to_original(model: Any, tokenizer: Any, folder: Path, *, rows: int, tower_inside: bool, **entries: Any) -> Path:
    """A folder as LLaVA's own code writes it, by its naming rules; beside it ``clip``, the tower."""
    names = (
        ("model.language_model.", "model."),
        ("model.multi_modal_projector.linear_1.", "model.mm_projector.0."),
        ("model.multi_modal_projector.linear_2.", "model.mm_projector.2."),
        ("model.vision_tower.", "model.vision_tower.vision_tower.vision_model."),
    )
    tensors = {}
    for name, value in model.state_dict().items():
        if "vision_tower" in name and not tower_inside:
            continue
        for here, there in names:
            if name.startswith(here):
                name = there + name.removeprefix(here)
                break
        tensors[name] = (
            value[:rows].clone() if name in ("model.embed_tokens.weight", "lm_head.weight") else value.clone()
        )
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model-00001-of-00001.safetensors")
    text = model.config.text_config.to_dict() | {"vocab_size": rows, "architectures": ["LlavaLlamaForCausalLM"]}
    rope = text.pop("rope_parameters")
    text |= {"rope_theta": rope["rope_theta"], "rope_scaling": None, "torch_dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(text | ORIGINAL | entries))
    tokenizer.save_pretrained(folder)
    clip = folder.parent / "clip"
    model.model.vision_tower.save_pretrained(clip)
    side = model.config.vision_config.image_size
    CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side}).save_pretrained(clip)
    return folder


def llava15(folder: Path, **entries: Any) -> tuple[Any, Path]:
    """A LLaVA 1.5 whose vocabulary ends before the image token, which its own code has not."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level_tokenizer(["<pad>", "<s>", "</s>"]),
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
    )
    words = len(tokenizer)
    text = _text_config(tokenizer, 32, 2)
    text.vocab_size, text.rope_parameters["rope_theta"] = words + 1, 5000.0
    torch.manual_seed(0)
    config = LlavaConfig(
        text_config=text, vision_config=_vision_config(32, 8, 32), image_token_index=words, image_seq_length=16
    )
    model = LlavaForConditionalGeneration(config).eval()
    return model, to_original(
        model, tokenizer, folder / "in", rows=words, tower_inside=False, model_type="llava_llama", **entries
    )


def llava16(folder: Path, **entries: Any) -> tuple[Any, Path]:
    """A LLaVA 1.6 with its own tower inside, and an image token in its vocabulary."""
    tiny = save_tiny("llava_next", folder / "tiny")
    model = AutoModelForImageTextToText.from_pretrained(tiny).eval()
    with torch.no_grad():
        model.model.image_newline.normal_()
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tiles = {"image_aspect_ratio": "anyres", "mm_patch_merge_type": "spatial_unpad", "image_grid_pinpoints": GRID}
    return model, to_original(
        model, tokenizer, folder / "in", rows=len(tokenizer), tower_inside=True, model_type="llava", **tiles | entries
    )


@torch.no_grad()
def logits(model: Any, processor: Any, folder: Path) -> torch.Tensor:
    picture = Image.new("RGB", (50, 30), (200, 40, 90))
    picture.paste((10, 200, 60), (5, 5, 25, 20))
    chat = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "is there a star?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "no, there is not."}]},
    ]
    inputs = processor(text=[processor.apply_chat_template(chat)], images=[picture], return_tensors="pt")
    assert (inputs["input_ids"] == model.config.image_token_id).sum() > 1
    return model(**inputs).logits[0]


@pytest.mark.parametrize("make", [llava15, llava16])
def test_a_converted_folder_is_the_model(tmp_path: Path, make: Any) -> None:
    model, source = make(tmp_path)
    done = sightline("convert", source, "--vision-tower", tmp_path / "clip", "-o", tmp_path / "out")
    assert done.code == 0, done.err
    converted = AutoModelForImageTextToText.from_pretrained(tmp_path / "out").eval()
    assert type(converted) is type(model)
    processor = AutoProcessor.from_pretrained(tmp_path / "out", backend="pil")
    words = json.loads((source / "config.json").read_text())["vocab_size"]
    ours, theirs = (logits(one, processor, tmp_path)[:, :words].log_softmax(-1) for one in (converted, model))
    assert torch.equal(ours, theirs)


def test_pad_to_square_is_kept(tmp_path: Path) -> None:
    _, source = llava15(tmp_path, image_aspect_ratio="pad")
    assert sightline("convert", source, "--vision-tower", tmp_path / "clip", "-o", tmp_path / "out").code == 0
    made = AutoProcessor.from_pretrained(tmp_path / "out").image_processor
    assert "Llava" in type(made).__name__ and made.do_pad is True


def test_a_linear_projector_is_the_same_map(tmp_path: Path) -> None:
    _, source = llava15(tmp_path, mm_projector_type="linear")
    file = source / "model-00001-of-00001.safetensors"
    tensors = load_file(file)
    for kind in ("weight", "bias"):
        tensors[f"model.mm_projector.{kind}"] = tensors.pop(f"model.mm_projector.0.{kind}")
        del tensors[f"model.mm_projector.2.{kind}"]
    save_file(tensors, file)
    assert sightline("convert", source, "--vision-tower", tmp_path / "clip", "-o", tmp_path / "out").code == 0
    projector = AutoModelForImageTextToText.from_pretrained(tmp_path / "out").model.multi_modal_projector
    features = torch.randn(3, 32)
    wanted = features @ tensors["model.mm_projector.weight"].T + tensors["model.mm_projector.bias"]
    torch.testing.assert_close(projector(features), wanted, rtol=0, atol=1e-6)


def refused(source: Path, tmp_path: Path) -> str:
    done = sightline("convert", source, "--vision-tower", tmp_path / "clip", "-o", tmp_path / "out")
    assert done.code == 2 and not (tmp_path / "out").exists() and not list(tmp_path.glob("*.tmp"))
    return " ".join(done.err.split())


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ({"mm_projector_type": "mlp3x_gelu"}, "mm_projector_type is 'mlp3x_gelu', where"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end is True"),
        ({"image_aspect_ratio": "anyres"}, "mm_patch_merge_type is 'flat'"),
        ({"mm_resampler_type": "qformer", "s2": True}, "entries that are not known: mm_resampler_type, s2."),
        ({"model_type": "llava_qwen"}, "model_type 'llava_qwen', where the layout of LLaVA's own code was expected"),
        ({"num_hidden_layers": 3}, "is missing"),
        ({"hidden_size": 64}, "tensors do not fit"),
    ],
)
def test_what_is_not_known_is_refused(tmp_path: Path, entries: dict[str, Any], told: str) -> None:
    _, source = llava15(tmp_path)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | entries))
    assert told in refused(source, tmp_path)


def test_unknown_and_missing_tensors_are_named(tmp_path: Path) -> None:
    _, source = llava15(tmp_path)
    file = source / "model-00001-of-00001.safetensors"
    tensors = load_file(file)
    save_file(tensors | {"model.vlm_gate": torch.ones(2)}, file)
    assert "tensor model.vlm_gate is none that LLaVA 1.5 or 1.6" in refused(source, tmp_path)
    del tensors["model.mm_projector.2.bias"]
    save_file(tensors | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}, file)
    assert "1 tensors do not fit" in refused(source, tmp_path)
    file.unlink()
    assert "holds no weights: expected model*.safetensors or pytorch_model*.bin" in refused(source, tmp_path)
