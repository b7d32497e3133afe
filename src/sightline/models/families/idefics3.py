"""Idefics3 and SmolVLM: a picture as tiles, each behind a token for its row and column, and an overview
(arXiv 2408.12637, 2504.05299)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sightline.models.family import Family, text_positions
from sightline.models.pictures import attribute
from sightline.models.vision_inputs import check_split


def join_in_a_row(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """``pixel_values`` [1,tiles,3,H,W] and ``pixel_attention_mask`` [1,tiles,H,W] of all pictures as one row of tiles:
    the model flattens rows and tiles before its tower."""
    return {key: torch.cat([part[key] for part in parts], dim=1) for key in (parts[0] if parts else ())}


def tokens_of_tiles(processor: Any, size: tuple[int, int]) -> int:
    """Length of the processor's text for a picture of that size; SmolVLM's does not count by itself."""
    _, rows, columns = processor.image_processor.get_number_of_image_patches(*size, {})
    text = processor.replace_image_token({"rows": [[rows]], "cols": [[columns]]}, 0)
    return len(processor.tokenizer(text, add_special_tokens=False).input_ids)


IDEFICS3 = Family(
    name="idefics3",
    title="Idefics3, SmolVLM, SmolVLM2",
    pictures="tiles, each behind its row and column, and an overview",
    model_types=("idefics3", "smolvlm"),
    language="model.text_model",
    projector=("model.connector.",),
    vision=("model.vision_model.",),
    check_pictures=check_split,
    options={"split": attribute("do_image_splitting")},
    image_keys=("pixel_values", "pixel_attention_mask"),
    join=join_in_a_row,
    positions=text_positions,
    count=tokens_of_tiles,
)
