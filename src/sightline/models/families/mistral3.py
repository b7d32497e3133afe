"""Mistral Small 3.1 and later: a Pixtral tower at native resolution, merged 2x2, a break token after every row
(arXiv 2410.07073)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.image_utils import ChannelDimension
from transformers.models.pixtral.image_processing_pil_pixtral import get_resize_output_image_size

from sightline.models.family import Family, text_positions
from sightline.models.vision_inputs import check_merged


def join_padded(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """``pixel_values`` [1,3,H,W] padded to the largest picture (the tower cuts each to its ``image_sizes``)."""
    if not parts:
        return {}
    pictures = [part["pixel_values"] for part in parts]
    height, width = (max(picture.shape[axis] for picture in pictures) for axis in (2, 3))
    filled = [pad(picture, (0, width - picture.shape[3], 0, height - picture.shape[2])) for picture in pictures]
    return {"pixel_values": torch.cat(filled), "image_sizes": torch.cat([part["image_sizes"] for part in parts])}


def tokens_of_rows(processor: Any, size: tuple[int, int]) -> int:
    """Tokens of a picture. The processor's own count takes a side of one or three pixels for the channels.

    Raises:
        ValueError: nothing would be left of a side, or a single feature, which transformers takes for a batch.
    """
    side, block = processor.image_processor.size["longest_edge"], processor.patch_size * processor.spatial_merge_size
    picture = np.broadcast_to(np.uint8(0), (3, *size))
    made = get_resize_output_image_size(picture, side, block, input_data_format=ChannelDimension.FIRST)
    rows, columns = (length // block for length in made)
    if not rows * columns:
        raise ValueError(f"it is so thin that nothing is left of it where its longer side has {side} pixels")
    if rows * columns == 1:
        raise ValueError(f"it becomes one patch of {block}x{block} pixels, and the model takes two or more")
    return rows * (columns + 1)


MISTRAL3 = Family(
    name="mistral3",
    title="Mistral Small 3.1 and later",
    pictures="native size in patches, a break per row",
    model_types=("mistral3",),
    language="model.language_model",
    projector=("model.multi_modal_projector.",),
    vision=("model.vision_tower.",),
    check_pictures=check_merged,
    image_keys=("pixel_values", "image_sizes"),
    join=join_padded,
    positions=text_positions,
    count=tokens_of_rows,
)
