"""What differs between model families: one small declaration each, in ``families/``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from sightline.errors import UnsupportedError
from sightline.models.pictures import PictureOption
from sightline.rendered import ImageInputs
from sightline.types import LayoutName

PARTS = ("language", "projector", "vision")

PositionFn = Callable[[np.ndarray, Sequence[ImageInputs], Any], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Family:
    """One model family of transformers, as far as Sightline must know it."""

    name: str
    title: str = ""
    """Its models as people name them."""
    pictures: str = ""
    """How a picture becomes tokens, in a few words."""
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
    placeholder: Callable[[Any], int] = lambda processor: int(processor.image_token_id)
    """Id that stands for one row of image features, from the processor: in most families also a picture's mark in
    the chat template (``processor.image_token``)."""
    around: tuple[str, str] = ("", "")
    """Text that the processor writes before and after every picture, and that is tokenized with its neighbours."""
    count: Callable[[Any, tuple[int, int]], int] = lambda processor, size: counted(processor, size)
    """(processor, (height, width)) -> tokens of a picture of that size, all that stand between ``around``."""
    features: Callable[[Any, Mapping[str, Tensor]], Tensor] = lambda model, vision: pooled_features(model, vision)
    """(model, its vision inputs) -> [features, D], one for each placeholder; or [features, (1+n)D] where the decoder
    adds n further blocks of D between its layers."""
    layer_inputs: Callable[[Any, Tensor, Tensor, Sequence[Tensor]], dict[str, Any]] = lambda *_: {}
    """Further inputs of the decoder, from (decoder, tokens [B,L], placeholder mask [B,L], the n further blocks
    [K,D]); there are none of these without pictures."""
    config_keys: tuple[tuple[str, ...], ...] = (("text_config",), ("vision_config",))
    """What its config.json must have for its sizes to be known, one of each."""
    unused: Callable[[Any], tuple[str, ...]] = lambda config: ()
    """Prefixes of parameters that the forward never uses (frozen, or DDP would wait for them)."""
    row_inputs: Callable[[Tensor, Tensor, Mapping[str, Tensor]], dict[str, Tensor]] = lambda marks, blocks, vision: {}
    """Further inputs of the model's own forward, from the masks [B,L] of placeholders and of tokens in a block
    (``prefix_rule``), and the joined pictures."""
    step_inputs: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = lambda inputs: {}
    """From the ``row_inputs`` [1,L,..] of a prompt, those [1,1,..] of every token that follows it."""
    pick: Callable[[Mapping[str, Tensor], int, int], dict[str, Tensor]] | None = None
    """(joined pictures, first, last) -> those of [first, last), where the model's own forward mixes rows of a batch:
    it then sees one row at a time."""
    check_pictures: Callable[[Any, Any], None] = lambda config, processor: None
    """(model config, processor): raises RecipeError where the processor makes other pictures than the tower takes."""
    options: Mapping[str, PictureOption] = field(default_factory=dict)
    """Fields of ``PictureSpec`` that it has."""
    follow: Callable[[Any, Any], None] = lambda config, processor: None
    """(model config, processor with such options): sets what the config says of the same."""
    prefix_rule: Literal["causal", "image_block", "full"] = "causal"
    """What tokens of a prompt see beside what is before them: nothing; ``image_block``: the rest of their picture
    (placeholders without another token between them); ``full``: the whole prompt."""
    caps_logits: bool = False
    """Whether its logits go through ``cap * tanh(logit / cap)``, ``final_logit_softcapping`` in the text config."""
    recurrent: bool = False
    """Whether some of its layers carry a state from token to token (``models.recurrence``)."""
    layouts: frozenset[LayoutName] = frozenset(("rows", "packed", "tree"))
    reason: str = ""
    """Why it has no other layouts, as a clause."""
    by_config: Callable[[Family, Any], Family] = lambda family, config: family
    """The declaration for one config, where models of a family differ."""

    def part_of(self, name: str) -> str:
        """Part (``language``, ``projector``, ``vision``) of a parameter, by its name in the transformers model."""
        if name.startswith(self.projector):
            return "projector"
        return "vision" if name.startswith(self.vision) else "language"

    @property
    def branches(self) -> bool:
        """Whether keys and values are all that an answer needs of its prompt, so that many grow from one copy."""
        return "tree" in self.layouts and not self.recurrent

    def check_layout(self, layout: LayoutName) -> None:
        """Raises UnsupportedError where this family cannot be laid out in that way."""
        if layout not in self.layouts:
            why = f": {self.reason}" if self.reason else ""
            raise UnsupportedError(
                f"family {self.name!r} does not support layout {layout!r} (it supports {sorted(self.layouts)}){why}. "
                f"Set model.layout to one of these"
            )


def pooled_features(model: Any, vision: Mapping[str, Tensor]) -> Tensor:
    """What ``get_image_features`` of most models gives, picture behind picture."""
    return torch.cat(list(model.get_image_features(**vision, return_dict=True).pooler_output))


def counted(processor: Any, size: tuple[int, int]) -> int:
    """Tokens of a picture as most processors count them, the way vLLM asks."""
    return int(processor._get_num_multimodal_tokens(image_sizes=[size])["num_image_tokens"][0])


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
    from sightline.models.families import FAMILIES, REFUSED

    for family in FAMILIES:
        if config.model_type in family.model_types:
            return family.by_config(family, config)
    known = sorted(kind for family in FAMILIES for kind in family.model_types)
    if config.model_type in REFUSED:
        why = REFUSED[config.model_type]
        raise UnsupportedError(f"model type {config.model_type!r} is refused: {why}. Take one of {', '.join(known)}")
    raise UnsupportedError(
        f"model type {config.model_type!r} is not supported (known: {', '.join(known)}). "
        f"Declare it in sightline/models/families/, as the smallest file there shows"
    )


def base_name(name: str) -> str:
    """A parameter's name in the transformers model, without what PEFT and wrappers put around it."""
    name = name.removeprefix("module.").removeprefix("base_model.model.")
    return re.sub(r"\b(modules_to_save\.[^.]+|original_module)\.", "", name)
