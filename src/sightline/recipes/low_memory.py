"""Conflicts around quantised weights and optimizers with fewer bits: what would fail, or do nothing, later."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sightline.recipes.schema import Mode, ModelSpec, Recipe
from sightline.recipes.source import KeyPath

Conflict = tuple[KeyPath, str]
"""The place, and the message."""


def low_memory_conflicts(recipe: Recipe, modes: Mapping[str, Mode]) -> Iterator[Conflict]:
    """All of a recipe's.

    Args:
        recipe: to check.
        modes: how each part is trained.
    """
    model, train = recipe.model, recipe.train
    yield from _unread(model)
    spread = train.distribution == "fsdp"
    if spread and train.optimizer != "adamw":
        text = f"found {train.optimizer}, which keeps its moments whole. With distribution: fsdp set optimizer: adamw."
        yield ("train", "optimizer"), text
    if model.quantization == "none":
        return
    here: KeyPath = ("model", "quantization")
    if modes["language"] == "full":
        text = (
            f"the decoder is held in {model.quantization}, and weights in so few bits cannot be trained in full. Set "
            "model.parts.language to lora (or frozen), or quantization to none."
        )
        yield ("model", "parts", "language"), text
    elif model.adapter is None and "lora" not in modes.values():
        text = (
            f"found {model.quantization} and no part with mode lora: what is trained on quantised weights is saved as "
            "an adapter. Set a part of model.parts to lora, or quantization to none."
        )
        yield here, text
    if spread:
        text = (
            f"found {model.quantization} with distribution: fsdp, which spreads no quantised weights. Set "
            "train.distribution to auto: every process then holds them whole."
        )
        yield here, text


def _unread(model: ModelSpec) -> Iterator[Conflict]:
    for name in ("double_quant", "compute_dtype"):
        if model.quantization != "nf4" and vars(model)[name] != ModelSpec.__dataclass_fields__[name].default:
            text = f"{name} is an option of quantization: nf4, found {model.quantization}. Remove it."
            yield ("model", name), text
