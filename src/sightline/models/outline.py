"""A model without its weights: what its folder says of it, and the numbers that a recipe would hold of it.

Built on torch's ``meta`` device from config and processor alone, in seconds for any size.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftConfig, get_peft_model
from torch import nn
from transformers import AutoModelForImageTextToText

from sightline.errors import RecipeError
from sightline.models.adapters import check_kind
from sightline.models.family import PARTS, Family, base_name
from sightline.models.load import freeze_lm_head, mark_trained, read_sides, without_old_names
from sightline.models.locate import located
from sightline.models.parts import lora_config, modes_of, resolve
from sightline.models.quantized import decoder_linears
from sightline.models.rope import check_length
from sightline.recipes.schema import LoraSpec, Mode, ModelSpec, PartsSpec
from sightline.rendered import ImageInputs

_BLOCK, _OUTER = 64, 256
"""Weights that share a scale in NF4, and scales that share one when they are quantised again."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is known of a model before its weights are read."""

    spec: ModelSpec
    """Located: a model folder or hub name as ``path``."""
    config: Any
    family: Family
    processor: Any


@dataclass(frozen=True, kw_only=True)
class PartSize:
    """One part of a model as a recipe trains it."""

    part: str
    mode: Mode
    parameters: int
    """Of the model itself."""
    trained: int
    """Numbers that the optimizer moves: of the model, of adapters, of copies."""
    held: float
    """Bytes of all weights: of the model in its type, trained ones in float32."""
    small: int
    """Of the trained numbers, those in tensors of less than 4096: their moments are never in 8 bits."""


@dataclass(frozen=True, kw_only=True)
class Outline:
    """Sizes of a model under a recipe."""

    parts: tuple[PartSize, ...]
    linear: Mapping[str, int]
    """Weights of linear layers and convolutions in each part, without LM head and what is not used."""
    adapter: int
    """Numbers in adapters."""
    head: int
    """Vocabulary x hidden size."""
    hidden: int
    intermediate: int
    layers: int
    heads_width: float
    """Query heads x their size, in the mean of all layers: 0 for one without attention."""
    keys_width: float
    """Key heads x their size, the same."""
    vocabulary: int
    vision_hidden: int
    vision_intermediate: int
    vision_layers: int


def read_card(spec: ModelSpec, *, max_length: int | None = None) -> Card:
    """
    Args:
        spec: of a recipe.
        max_length: of its rows.

    Raises:
        RecipeError, UnsupportedError, MissingExtra: what a run would refuse before it reads weights.
    """
    spec = located(spec, trainable=True)
    config, family, processor = read_sides(spec)
    if max_length is not None:
        check_length(config, max_length, "data.max_length")
    return Card(spec=spec, config=config, family=family, processor=processor)


def read_model_card(path: str) -> Card:
    """The card of a model that will not be trained.

    Raises:
        RecipeError, UnsupportedError: there is none, or of a family that Sightline does not have.
    """
    spec = located(ModelSpec(path=path, layout="rows"))
    config, family, processor = read_sides(spec)
    return Card(spec=spec, config=config, family=family, processor=processor)


def outline(card: Card, *, head: bool = True) -> Outline:
    """
    Args:
        card: of the model.
        head: whether the LM head is read (and may be trained).

    Raises:
        RecipeError: parts that cannot be trained as asked.
    """
    spec, family = card.spec, card.family
    with torch.device("meta"), without_old_names():
        dtype = getattr(torch, spec.dtype)
        model = AutoModelForImageTextToText.from_config(card.config, dtype=dtype, trust_remote_code=False)
        own = _owned(model, family)
        linear = _linear_weights(model, family)
        lm_head = model.get_output_embeddings().weight.numel()
        decoder = decoder_linears(model, family)
        heads = sum(model.get_submodule(name).in_features for name in decoder if name.endswith(".o_proj"))
        keys = sum(model.get_submodule(name).out_features for name in decoder if name.endswith(".k_proj"))
        quantised = set(decoder) if spec.quantization != "none" else set[str]()
        wrapped, modes = _wrapped(model, family, spec)
    mark_trained(wrapped, family, modes)
    if not head:
        freeze_lm_head(model)
    text, vision = card.config.get_text_config(), card.config.vision_config
    return Outline(
        parts=tuple(_part_size(part, modes[part], own[part], wrapped, family, spec, quantised) for part in PARTS),
        linear=linear,
        adapter=sum(p.numel() for n, p in wrapped.named_parameters() if "lora_" in n),
        head=lm_head,
        hidden=text.hidden_size,
        intermediate=text.intermediate_size,
        layers=text.num_hidden_layers,
        heads_width=heads / text.num_hidden_layers,
        keys_width=keys / text.num_hidden_layers,
        vocabulary=text.vocab_size,
        vision_hidden=_first(vision, "hidden_size", "embed_dim"),
        vision_intermediate=_first(vision, "intermediate_size", "mlp_dim") or 4 * _first(vision, "hidden_size"),
        vision_layers=_first(vision, "num_hidden_layers", "depth"),
    )


def patches_of(image: ImageInputs, config: Any) -> int:
    """Patches that the tower takes of one picture, all its tiles together."""
    pixels = image.tensors.get("pixel_values")
    side = _first(config.vision_config, "patch_size")
    if pixels is None or not side:
        return image.num_tokens
    if pixels.ndim < 4:  # the processor cut the patches: [patches, D] or [1, patches, D]
        return int(pixels.shape[:-1].numel())
    tiles, height, width = pixels.shape[:-3].numel(), pixels.shape[-2], pixels.shape[-1]
    return int(tiles * (height // side) * (width // side))


def _wrapped(model: Any, family: Family, spec: ModelSpec) -> tuple[Any, dict[str, Mode]]:
    parts = spec.parts or PartsSpec()
    modes = modes_of(parts)
    if spec.adapter is not None:
        wrapped = get_peft_model(model, _adapter_config(spec.adapter))
        return wrapped, resolve(wrapped, family, spec)
    if "lora" in modes.values():
        return get_peft_model(model, lora_config(model, family, parts, spec.lora or LoraSpec())), modes
    return model, modes


def _adapter_config(adapter: str) -> PeftConfig:
    check_kind(adapter)
    try:
        config = PeftConfig.from_pretrained(adapter)
    except (KeyError, OSError, TypeError, ValueError) as error:
        raise RecipeError(
            f"model.adapter {adapter!r} cannot be read ({str(error).strip().splitlines()[0]}). Give the folder of a "
            "PEFT adapter: the model folder of a LoRA run"
        ) from error
    config.inference_mode = False  # as saved it would train nothing
    return config


def _owned(model: nn.Module, family: Family) -> dict[str, int]:
    found: dict[str, int] = defaultdict(int)
    for name, parameter in model.named_parameters():  # tied ones once
        found[family.part_of(name)] += parameter.numel()
    return found


def _linear_weights(model: Any, family: Family) -> dict[str, int]:
    skipped, head = family.unused(model.config), model.get_output_embeddings()
    found = dict.fromkeys(PARTS, 0)
    for name, module in model.named_modules():
        used = not (skipped and f"{name}.".startswith(skipped)) and module is not head
        if used and isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d):
            found[family.part_of(f"{name}.")] += module.weight.numel()
    return found


def _part_size(
    part: str, mode: Mode, own: int, wrapped: Any, family: Family, spec: ModelSpec, quantised: set[str]
) -> PartSize:
    trained, small, held = 0, 0, 0.0
    for name, parameter in wrapped.named_parameters():
        plain = base_name(name)
        if family.part_of(plain) != part:
            continue
        count = parameter.numel()
        if parameter.requires_grad:
            trained, held = trained + count, held + 4.0 * count
            small += count if count < 4096 else 0
        elif plain.replace(".base_layer", "").removesuffix(".weight") in quantised:
            held += _quantised_bytes(spec) * count
        else:
            held += parameter.element_size() * count
    return PartSize(part=part, mode=mode, parameters=own, trained=trained, held=held, small=small)


def _quantised_bytes(spec: ModelSpec) -> float:
    """Of a weight, its share of the scales included."""
    if spec.quantization == "int8":
        return 1.0
    return 0.5 + ((1 + 4 / _OUTER) / _BLOCK if spec.double_quant else 4 / _BLOCK)


def _first(config: Any, *names: str) -> int:
    """The first of these entries that a config has, of two sides the first; 0 for none."""
    found = next((value for name in names if (value := getattr(config, name, None))), 0)
    return int(found[0] if isinstance(found, list | tuple) else found)
