"""Whether the weights in a folder are those of the model that its config describes.

transformers fills what is missing with random numbers and passes over what is left; PEFT does so with adapters. Both
train, and print figures, so here both are errors that name the tensors.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.utils.save_and_load import load_peft_weights
from safetensors import safe_open
from transformers import PreTrainedConfig

from sightline.errors import RecipeError
from sightline.models.families import FAMILIES

WEIGHED: Mapping[str, bool] = {"output_loading_info": True, "ignore_mismatched_sizes": True}
"""Options of ``from_pretrained`` that leave it to :func:`check_weights` to tell what does not fit."""

_NAMED = 4
"""Tensors that a message names."""
_TOO_LARGE = 1.5
"""A config that describes so many times as many numbers as the files hold is not theirs: with fewer, the tensors that
are missing are named when the rest is loaded."""
_ORIGINAL = ("mm_vision_tower", "mm_projector_type", "mm_hidden_size")
"""Entries of the configs that LLaVA's own code writes."""
_CONVERT = (
    "Convert it (sightline convert FOLDER --vision-tower TOWER -o OUT), or take a folder in the layout of transformers"
)


def check_layout(path: str) -> None:
    """Looks at the config before a model is built: parts that it does not describe would get the sizes of a model with
    seven billion parameters. Says nothing where there is no config.

    Raises:
        RecipeError: a config in the layout of LLaVA's own code, or one without its parts.
    """
    try:
        config, _ = PreTrainedConfig.get_config_dict(path)
    except (OSError, ValueError):
        return
    kind = str(config.get("model_type"))
    original = [key for key in _ORIGINAL if key in config]
    if original and not config.get("text_config"):
        raise RecipeError(
            f"model.path {path}: its config.json ({kind!r}, with {', '.join(original)}) is in the layout of LLaVA's "
            f"own code, where the layout of transformers with text_config and vision_config was expected. {_CONVERT}"
        )
    for family in FAMILIES:
        lacking = [keys for keys in family.config_keys if not any(config.get(key) for key in keys)]
        if kind in family.model_types and lacking:
            raise RecipeError(
                f"model.path {path}: its config.json ({kind!r}) has no {' and no '.join(keys[0] for keys in lacking)}, "
                f"so the sizes of the model are not known. Take the config.json that belongs to the weights. {_CONVERT}"
            )


def check_size(path: str, config: Any, loader: Any) -> None:
    """Compares how many numbers the config describes with how many the files hold, before memory is taken for them.
    Only for a local folder of safetensors that are not quantised.

    Args:
        path: of the model.
        config: as loaded.
        loader: an Auto class of transformers.

    Raises:
        RecipeError: the config describes a far larger model.
    """
    files = sorted(Path(path).glob("*.safetensors"))
    if not files or getattr(config, "quantization_config", None) is not None:
        return
    with torch.device("meta"):
        model = loader.from_config(config, trust_remote_code=False)
    described, held = sum(p.numel() for p in model.parameters()), sum(map(_numbers, files))
    if described > _TOO_LARGE * held:
        raise RecipeError(
            f"model.path {path}: its config.json describes a model of {described:,} parameters, and its files hold "
            f"{held:,}. Take the config.json that belongs to the weights, or the files that are missing"
        )


def _numbers(file: Path) -> int:
    with safe_open(file, framework="pt") as tensors:
        return sum(prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118


def check_weights(path: str, found: Mapping[str, Any], unused: tuple[str, ...] = ()) -> None:
    """Whether a model got all of its weights, and all weights a place.

    Args:
        path: where from.
        found: the loading info of transformers.
        unused: prefixes of tensors that the forward never reads: files may lack them.

    Raises:
        RecipeError: names tensors that are missing, left over, or of another shape.
    """
    missing = [name for name in found["missing_keys"] if not name.startswith(unused)]
    shapes = [f"{name} {list(there)} for {list(here)}" for name, there, here in found["mismatched_keys"]]
    told = _told({"missing": missing, "left over": found["unexpected_keys"], "of another shape": shapes})
    if told or found["error_msgs"]:
        raise RecipeError(
            f"model.path {path}: its weights do not fit its config.json: {told or found['error_msgs'][0]}. "
            f"Nothing would say so later: what is missing would be random. {_remedy(found['unexpected_keys'])}"
        )


def _remedy(unexpected: Collection[str]) -> str:
    if any("mm_projector" in name or "vision_tower.vision_tower" in name for name in unexpected):
        return f"It is in the layout of LLaVA's own code. {_CONVERT}"
    return "Take files and config.json of one model"


def check_adapter(model: PeftModel, adapter: str, name: str = "default") -> None:
    """Whether an adapter that was loaded got all of its weights, and all weights a place.

    Args:
        model: with the adapter.
        adapter: its folder.
        name: its name in the model.

    Raises:
        RecipeError: names tensors that are missing or left over.
    """
    mapping = getattr(model.get_base_model(), "_checkpoint_conversion_mapping", None) or None
    there = set(load_peft_weights(adapter, device="cpu", key_mapping=mapping))
    own = set(get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False))
    of_base = {name for name in there - own if name in model.state_dict()}  # embeddings that PEFT saved beside it
    if told := _told({"missing": own - there, "left over": there - own - of_base}):
        raise RecipeError(
            f"model.adapter {adapter}: its weights do not fit its adapter_config.json and the model: {told}. Nothing "
            "would say so later: what is missing would be as it starts. Take the files of one adapter, and the model "
            "that it was made for"
        )


def _told(tensors: Mapping[str, Collection[str]]) -> str:
    """``3 missing (a, b, c), 9 left over (d, e, f, g, ...)``; layers that differ by number are told once."""
    parts = []
    for what, names in tensors.items():
        kinds = list(dict.fromkeys(re.sub(r"\.\d+\.", ".N.", name) for name in sorted(names)))
        more = ", ..." if len(kinds) > _NAMED else ""
        if names:
            parts.append(f"{len(names)} {what} ({', '.join(kinds[:_NAMED])}{more})")
    return ", ".join(parts)
