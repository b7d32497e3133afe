"""PaliGemma and PaliGemma 2: a prompt sees all of itself, answers are causal (arXiv 2407.07726, 2412.03555).

No chat template is published with them. The one to set has the pictures first: ``<image>``, then ``<bos>``, the text
and a line break, as their processor writes it.
"""

from typing import Any

import numpy as np

from sightline.models.family import Family, join_images
from sightline.models.vision_inputs import check_tile


def positions_from_one(placeholders: np.ndarray, images: Any, config: Any) -> np.ndarray:
    """Positions 1..L."""
    return np.arange(1, placeholders.shape[0] + 1)


PALIGEMMA = Family(
    name="paligemma",
    title="PaliGemma, PaliGemma 2",
    pictures="one square view; the prompt sees all of itself",
    model_types=("paligemma",),
    language="model.language_model",
    projector=("model.multi_modal_projector.",),
    vision=("model.vision_tower.",),
    check_pictures=check_tile,
    image_keys=("pixel_values",),
    join=join_images,
    positions=positions_from_one,
    row_inputs=lambda placeholders, blocks, vision: {"token_type_ids": (~blocks).long()},
    prefix_rule="full",
    caps_logits=True,
)
