"""Every family that ``sightline.models.families`` declares as a tiny random model, made when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny_blocks
import tiny_gemma4
import tiny_qwen
import tiny_tiles
import torch

import tiny_models

BUILDERS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "llava": tiny_models._llava,
    "llava_next": tiny_models._llava_next,
    "qwen2_5_vl": tiny_models._qwen2_5_vl,
    "llava_onevision": tiny_tiles.llava_onevision,
    "qwen2_vl": tiny_qwen.qwen2_vl,
    "qwen3_vl": tiny_qwen.qwen3_vl,
    "internvl": tiny_tiles.internvl,
    "idefics3": tiny_tiles.idefics3,
    "smolvlm": tiny_tiles.smolvlm,
    "glm4v": tiny_qwen.glm4v,
    "glm46v": tiny_qwen.glm46v,
    "mistral3": tiny_tiles.mistral3,
    "mllama": tiny_blocks.mllama,
    "gemma3": tiny_blocks.gemma3,
    "gemma4": tiny_gemma4.small,
    "gemma4-large": tiny_gemma4.large,
    "paligemma": tiny_blocks.paligemma,
    "qwen3_5": tiny_blocks.qwen3_5,
    "qwen3_5_moe": tiny_blocks.qwen3_5_moe,
}
"""By ``model_type``, some with a size."""


def save_family(model_type: str, folder: Path) -> Path:
    """A model whose answers depend on all it sees: larger weights than at initialisation, no gate at zero."""
    torch.manual_seed(0)
    model, processor = BUILDERS[model_type]()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2 and parameter.any():
                parameter.mul_(4)
            else:
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
