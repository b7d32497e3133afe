"""Tiny models as a server of vLLM takes them, and prompts with pictures for them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import sightline.models  # noqa: F401  (makes torchvision importable, so before transformers)

# isort: split

import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file

from sightline.data.render import Renderer
from sightline.models.adapters import POLICY
from sightline.models.limits import Limits
from sightline.models.load import load_policy
from sightline.models.named_adapters import save_adapter
from sightline.models.policy import Policy
from sightline.recipes.schema import LoraSpec, ModelSpec, PartsSpec
from sightline.types import Group, Prompt
from tiny_models import save_tiny


def save_served(family: str, folder: Path, **sizes: int) -> Path:
    """A tiny model with heads of 32, the least that vLLM takes, under the names of a checkpoint: a LLaVA that was born
    from a config is saved without the ``vision_model`` that vLLM looks for."""
    save_tiny(family, folder, hidden=128, **sizes)
    file = folder / "model.safetensors"
    weights = load_file(file)
    named = {name.replace("vision_tower.", "vision_tower.vision_model."): value for name, value in weights.items()}
    save_file(named, file, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    rope = config["text_config"]["rope_parameters"]
    if "mrope_section" in rope:  # vLLM wants half a head in all
        rope["mrope_section"] = [4, 6, 6]
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def save_packed(model: Path, folder: Path, *, group: int = 32) -> Path:
    """A model with the linear layers of its decoder in 4 bits (W4A16), in the format of compressed-tensors."""
    shutil.copytree(model, folder)
    weights, packed = load_file(folder / "model.safetensors"), {}
    for name, value in weights.items():
        if not (name.endswith("_proj.weight") and "language_model" in name):
            packed[name] = value
            continue
        grouped = value.reshape(value.shape[0], -1, group)
        scale = grouped.abs().amax(-1, keepdim=True) / 7
        whole = (grouped / scale).round().clamp(-8, 7).reshape(value.shape[0], -1, 8).long() + 8
        ints = (whole << (4 * torch.arange(8))).sum(-1)
        stem = name.removesuffix("weight")
        packed |= {
            f"{stem}weight_packed": torch.where(ints >= 2**31, ints - 2**32, ints).int(),
            f"{stem}weight_scale": scale[..., 0].contiguous(),
            f"{stem}weight_shape": torch.tensor(value.shape),
        }
    save_file(packed, folder / "model.safetensors", metadata={"format": "pt"})
    kind = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": group}
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": kind}},
        "ignore": ["lm_head", "re:.*vision.*", "re:.*projector.*"],
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def loaded(
    model: Path, *, lora: bool = False, parts: PartsSpec | None = None, **options: Any
) -> tuple[Policy, Renderer]:
    """The trainer's side: the whole model; LoRA on its language part; or these parts, with options of LoRA."""
    spec = ModelSpec(path=str(model), layout="rows")
    if lora or parts is not None:
        parts = parts or PartsSpec(language="lora", projector="frozen")
        spec = replace(spec, parts=parts, lora=LoraSpec(**{"rank": 4} | options))
    policy = load_policy(spec)
    return policy, Renderer(policy.processor, policy.family, limits=Limits.of(policy.config))


def moved(policy: Policy, size: float, *, seed: int = 1, only: str = "") -> None:
    """Noise on everything that is trained, as large as training never is in one step."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if parameter.requires_grad and only in name:
                scale = size * max(float(parameter.abs().mean()), 0.05)
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


def tiny_adapter(model: Path, folder: Path) -> Path:
    policy, _ = loaded(model, lora=True)
    save_adapter(policy.model, POLICY, folder)
    return folder


def prompts(folder: Path, count: int = 4, *, size: tuple[int, int] = (40, 30)) -> list[Group]:
    """Questions of more than a block of tokens (32), each about a picture of its own."""
    made = []
    for number in range(count):
        path = folder / f"{number}.png"
        image = Image.new("RGB", size, (60 * number, 200 - 40 * number, 90))
        ImageDraw.Draw(image).ellipse((2 + 3 * number, 3, 16 + 3 * number, 18), fill=(250, 240, 20))
        image.save(path)
        text = f"is there a yellow moon in the image, {number}? describe the image in detail"
        message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}
        made.append(Group(prompts=(Prompt(id=f"p{number}", messages=(message,), images=(str(path),)),)))
    return made
