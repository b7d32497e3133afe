"""Llama-3.2-Vision (Mllama): the decoder looks at tiles through cross-attention layers (arXiv 2407.21783).

Words before the first picture see all tiles of their row in transformers' forward, padding and later pictures
included: what they hold depends on pictures that follow, so prompts cannot share a beginning and rows not a batch.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers.models.mllama.processing_mllama import (
    convert_sparse_cross_attention_mask_to_dense,
    get_cross_attention_token_mask,
)

from sightline.models.families.idefics3 import join_in_a_row
from sightline.models.family import Family, text_positions
from sightline.models.vision_inputs import check_tile


def states_of_pictures(model: Any, vision: Mapping[str, Tensor]) -> Tensor:
    """[pictures, tiles * patches * D]: what the cross-attention layers look at, one row a picture."""
    states = model.multi_modal_projector(model.vision_model(**vision).last_hidden_state)
    return torch.as_tensor(states).flatten(0, 1).flatten(1)


def cross_attention_mask(placeholders: Tensor, blocks: Tensor, vision: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``cross_attention_mask`` [1,L,pictures,tiles], as the processor makes it: a word sees the picture before it,
    and those that stand directly before that one."""
    if not vision:
        return {}
    tiles = vision["aspect_ratio_mask"]
    mask = convert_sparse_cross_attention_mask_to_dense(
        [get_cross_attention_token_mask(row.tolist(), 1) for row in placeholders.long()],
        num_tiles=tiles.sum(-1).tolist(),
        max_num_tiles=tiles.shape[-1],
        length=placeholders.shape[1],
    )
    return {"cross_attention_mask": torch.from_numpy(mask).to(placeholders.device)}


MLLAMA = Family(
    name="mllama",
    title="Llama-3.2-Vision",
    pictures="up to four tiles, seen by cross-attention",
    model_types=("mllama",),
    language="model.language_model",
    projector=("model.multi_modal_projector.",),
    vision=("model.vision_model.",),
    check_pictures=check_tile,
    image_keys=("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask"),
    join=join_in_a_row,
    positions=text_positions,
    count=lambda processor, size: 1,
    features=states_of_pictures,
    row_inputs=cross_attention_mask,
    step_inputs=lambda inputs: {key: value[:, -1:] for key, value in inputs.items()},
    pick=lambda vision, first, last: {key: value[:, first:last] for key, value in vision.items()},
    layouts=frozenset(("rows",)),
    reason="words before the first picture depend on the pictures that follow",
)
