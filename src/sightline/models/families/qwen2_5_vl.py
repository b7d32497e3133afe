"""Qwen2.5-VL: native resolution in patches, three-axis rope (arXiv 2502.13923)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from sightline.models.family import Family, join_images
from sightline.models.pictures import PIXELS
from sightline.models.vision_inputs import check_patches
from sightline.rendered import ImageInputs


def mrope_positions(placeholders: np.ndarray, images: Sequence[ImageInputs], config: Any) -> np.ndarray:
    """Positions [3,L] on the axes time, height, width.

    Text advances all three together. An image of t x h x w merged patches keeps its time constant and
    spreads over height and width; what follows starts at the image's start + max(h, w).
    """
    merge = config.vision_config.spatial_merge_size
    length = placeholders.shape[0]
    positions = np.empty((3, length), dtype=np.int64)
    cursor = start = 0
    for image in images:
        frames, height, width = (int(n) for n in image.tensors["image_grid_thw"][0])
        height, width = height // merge, width // merge
        first = cursor + int(placeholders[cursor:].argmax())
        positions[:, cursor:first] = np.arange(start, start + first - cursor)
        start += first - cursor
        cursor = first + frames * height * width
        positions[:, first:cursor] = np.indices((frames, height, width)).reshape(3, -1) + start
        start += max(height, width)
    positions[:, cursor:] = np.arange(start, start + length - cursor)
    return positions


QWEN2_5_VL = Family(
    name="qwen2_5_vl",
    title="Qwen2.5-VL",
    pictures="native size in patches; three-axis rope",
    model_types=("qwen2_5_vl",),
    language="model.language_model",
    projector=("model.visual.merger.",),
    vision=("model.visual.",),
    image_keys=("pixel_values", "image_grid_thw"),
    join=join_images,
    positions=mrope_positions,
    check_pictures=check_patches,
    options=PIXELS,
    config_keys=(("text_config", "hidden_size"), ("vision_config",)),  # older ones have the text's sizes at the top
    row_inputs=lambda placeholders, blocks, vision: {"mm_token_type_ids": placeholders.to(torch.int32)},
)
