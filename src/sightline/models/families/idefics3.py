"""Idefics3 and SmolVLM: a picture as tiles, each behind a token for its row and column, and an overview
(arXiv 2408.12637, 2504.05299)."""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.models.idefics3.image_processing_pil_idefics3 import get_resize_output_image_size

from sightline.models.family import Family, text_positions
from sightline.models.pictures import attribute
from sightline.models.vision_inputs import check_split


def join_in_a_row(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """``pixel_values`` [1,tiles,3,H,W] and ``pixel_attention_mask`` [1,tiles,H,W] of all pictures as one row of tiles:
    the model flattens rows and tiles before its tower."""
    return {key: torch.cat([part[key] for part in parts], dim=1) for key in (parts[0] if parts else ())}


def tokens_of_tiles(processor: Any, size: tuple[int, int]) -> int:
    """Length of the processor's text for a picture of that size; SmolVLM's does not count by itself."""
    rows, columns = grid_of_tiles(processor.image_processor, size)
    text = processor.replace_image_token({"rows": [[rows]], "cols": [[columns]]}, 0)
    return len(processor.tokenizer(text, add_special_tokens=False).input_ids)


def grid_of_tiles(made: Any, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of tiles that an image processor cuts a picture into; (0, 0): it is its own overview.

    The processor's own count takes the shorter side as it is before the longer one is rounded up to whole tiles.
    """
    if not made.do_image_splitting:
        return 0, 0
    (height, width), tile = _resized(made, size), made.max_image_size["longest_edge"]
    ratio = width / height
    if width >= height:
        width = ceil(width / tile) * tile
        height = int(width / ratio)
    else:
        height = ceil(height / tile) * tile
        width = int(height * ratio)
    rows, columns = ceil(height / tile), ceil(width / tile)
    return (rows, columns) if max(rows, columns) > 1 else (0, 0)


def _resized(made: Any, size: tuple[int, int]) -> tuple[int, int]:
    if not made.do_resize:
        return size
    wanted = dict(made.size)
    if not wanted.get("longest_edge"):
        return wanted["height"], wanted["width"]
    height, width = get_resize_output_image_size(np.broadcast_to(np.uint8(0), (3, *size)), wanted["longest_edge"])
    return height, width


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
