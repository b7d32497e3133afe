"""Gemma 4: native aspect ratios, windows in five of six layers; the large ones let a picture's tokens see each other,
the small ones share keys and values among late layers and look tokens up again for every layer."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from sightline.errors import UnsupportedError
from sightline.models.family import Family, counted, join_images, text_positions
from sightline.models.pictures import SOFT_TOKENS
from sightline.models.vision_inputs import check_merged


def looked_up_again(language: Any, tokens: Tensor, placeholders: Tensor, blocks: Sequence[Tensor]) -> dict[str, Any]:
    """``per_layer_inputs`` [B,L,layers,d] of the small models; a placeholder counts as padding."""
    if not language.config.hidden_size_per_layer_input:
        return {}
    ids = tokens.masked_fill(placeholders, language.config.pad_token_id)
    return {"per_layer_inputs": language.get_per_layer_inputs(ids)}


def by_size(family: Family, config: Any) -> Family:
    """The rule for pictures is a matter of the config.

    Raises:
        UnsupportedError: experts, or a decoder that is not causal.
    """
    text = config.text_config
    if text.enable_moe_block or text.use_bidirectional_attention == "all":
        what = "experts" if text.enable_moe_block else "attention in both directions"
        raise UnsupportedError(
            f"Gemma 4 with {what} is not supported: nothing checks it. Take E2B, E4B or the dense 31B"
        )
    return replace(family, prefix_rule="image_block" if text.use_bidirectional_attention == "vision" else "causal")


GEMMA4 = Family(
    name="gemma4",
    title="Gemma 4 (E2B, E4B, 31B)",
    pictures="native aspect ratio; in the large ones its tokens see each other",
    model_types=("gemma4",),
    language="model.language_model",
    projector=("model.embed_vision.",),
    vision=("model.vision_tower.", "model.audio_tower.", "model.embed_audio."),
    check_pictures=check_merged,
    options={"max_tokens": SOFT_TOKENS},
    image_keys=("pixel_values", "image_position_ids"),
    join=join_images,
    positions=text_positions,
    count=lambda processor, size: counted(processor, size) + 2,
    layer_inputs=looked_up_again,
    row_inputs=lambda placeholders, blocks, vision: {"mm_token_type_ids": placeholders.long()},
    unused=lambda config: ("model.audio_tower.", "model.embed_audio."),
    caps_logits=True,
    by_config=by_size,
)
