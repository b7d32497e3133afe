"""LLaVA-NeXT (1.6): a picture as one overview and a grid of tiles, unpadded, a newline feature per row."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from sightline.models.family import Family, clip_unused, text_positions
from sightline.models.pictures import MOST_IN_GRIDS, follow_grids
from sightline.models.vision_inputs import check_tiles


def join_tiles(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """``pixel_values`` [1,tiles,3,H,W] padded to the most tiles (the model reads each image's own
    number from ``image_sizes`` and drops the rest), ``image_sizes`` [1,2] as (height, width)."""
    if not parts:
        return {}
    most = max(part["pixel_values"].shape[1] for part in parts)
    pixels = [pad(part["pixel_values"], (0,) * 7 + (most - part["pixel_values"].shape[1],)) for part in parts]
    return {"pixel_values": torch.cat(pixels), "image_sizes": torch.cat([part["image_sizes"] for part in parts])}


LLAVA_NEXT = Family(
    name="llava_next",
    title="LLaVA-NeXT 1.6",
    pictures="overview and tiles, unpadded, a newline per row",
    model_types=("llava_next",),
    language="model.language_model",
    projector=("model.multi_modal_projector.", "model.image_newline"),
    vision=("model.vision_tower.",),
    image_keys=("pixel_values", "image_sizes"),
    join=join_tiles,
    positions=text_positions,
    unused=clip_unused,
    check_pictures=check_tiles,
    options={"max_tiles": MOST_IN_GRIDS},
    follow=follow_grids,
)
