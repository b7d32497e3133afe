"""What differs between model families: one small declaration each, in ``families/``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from sightline.errors import UnsupportedError
from sightline.types import ImageInputs, LayoutName

PositionFn = Callable[[np.ndarray, Sequence[ImageInputs], Any], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Family:
    """One model family of transformers, as far as Sightline must know it."""

    name: str
    model_types: tuple[str, ...]
    """``config.model_type`` values it covers."""
    language: str
    """Module path of the causal decoder, from the model with the LM head."""
    projector: tuple[str, ...]
    """Prefixes of parameter names that count as projector."""
    vision: tuple[str, ...]
    """Prefixes of parameter names that count as vision tower (where no projector prefix matches)."""
    image_keys: tuple[str, ...]
    """Processor outputs that the vision path reads."""
    join: Callable[[Sequence[Mapping[str, Tensor]]], dict[str, Tensor]]
    """Concatenates the processor outputs of several images."""
    positions: PositionFn
    """(placeholder mask [L] bool, images in order of occurrence, model config) -> [L] or [3,L] rope positions."""
    config_keys: tuple[tuple[str, ...], ...] = (("text_config",), ("vision_config",))
    """What its config.json must have for its sizes to be known, one of each."""
    unused: Callable[[Any], tuple[str, ...]] = lambda config: ()
    """Prefixes of parameters that the forward never uses (frozen, or DDP would wait for them)."""
    row_inputs: Callable[[Tensor], dict[str, Tensor]] = lambda placeholders: {}
    """Further inputs of the model's own forward, from the placeholder mask [B,L]."""
    check_pictures: Callable[[Any, Any], None] = lambda config, processor: None
    """(model config, processor): raises RecipeError where the processor makes other pictures than the tower takes."""
    prefix_rule: Literal["causal", "image_block", "full"] = "causal"
    """What tokens of a prompt see beside what is before them: nothing; ``image_block``: the rest of their picture
    (placeholders without another token between them); ``full``: the whole prompt."""
    layouts: frozenset[LayoutName] = frozenset(("rows", "packed", "tree"))

    def part_of(self, name: str) -> str:
        """Part (``language``, ``projector``, ``vision``) of a parameter, by its name in the transformers model."""
        if name.startswith(self.projector):
            return "projector"
        return "vision" if name.startswith(self.vision) else "language"

    def check_layout(self, layout: LayoutName) -> None:
        """Raises UnsupportedError where this family cannot be laid out in that way."""
        if layout not in self.layouts:
            raise UnsupportedError(
                f"family {self.name!r} does not support layout {layout!r} (it supports {sorted(self.layouts)}). "
                f"Set model.layout to one of these"
            )


def text_positions(placeholders: np.ndarray, images: Sequence[ImageInputs], config: Any) -> np.ndarray:
    """Plain positions 0..L-1: one axis, an image token counts as any other."""
    return np.arange(placeholders.shape[0])


def join_images(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Concatenates along the first axis (one entry per image, or one per patch)."""
    return {key: torch.cat([part[key] for part in parts]) for key in (parts[0] if parts else ())}


def clip_unused(config: Any) -> tuple[str, ...]:
    """Layers of a CLIP-like tower behind ``vision_feature_layer``, and its final norm.

    With the usual ``vision_feature_layer = -2`` the last layer's output is not read, so its
    parameters never get a gradient.
    """
    chosen = config.vision_feature_layer
    depth = config.vision_config.num_hidden_layers
    deepest = max(
        index if index >= 0 else depth + 1 + index for index in ([chosen] if isinstance(chosen, int) else chosen)
    )
    towers = ("model.vision_tower.vision_model.", "model.vision_tower.")
    layers = [f"{tower}encoder.layers.{layer}." for tower in towers for layer in range(deepest, depth)]
    norms = [f"{tower}{norm}." for tower in towers for norm in ("post_layernorm", "head")]
    return tuple(layers + norms)


def family_of(config: Any) -> Family:
    """The family of a model config.

    Raises:
        UnsupportedError: no family declares this ``model_type``.
    """
    from sightline.models.families import FAMILIES

    for family in FAMILIES:
        if config.model_type in family.model_types:
            return family
    known = sorted(kind for family in FAMILIES for kind in family.model_types)
    raise UnsupportedError(
        f"model type {config.model_type!r} is not supported (known: {', '.join(known)}). "
        f"Declare it in sightline/models/families/, as the smallest file there shows"
    )
