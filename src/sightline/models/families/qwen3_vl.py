"""Qwen3-VL: features of deeper tower layers are added at the pictures' places between the first decoder layers
(DeepStack, arXiv 2406.04334)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sightline.models.families.qwen2_5_vl import QWEN2_5_VL


def stacked_features(model: Any, vision: Mapping[str, Tensor]) -> Tensor:
    """[features, (1+n)D]: what goes into the sequence, and beside it what each of the first n layers adds."""
    output = model.get_image_features(**vision, return_dict=True)
    levels = [output.pooler_output, *output.deepstack_features]
    return torch.cat([torch.cat(list(level)) for level in levels], dim=1)


def deepstack_inputs(language: Any, tokens: Tensor, placeholders: Tensor, blocks: Sequence[Tensor]) -> dict[str, Any]:
    """The decoder's names for them."""
    if not blocks:
        return {}
    return {"visual_pos_masks": placeholders, "deepstack_visual_embeds": list(blocks)}


QWEN3_VL = replace(
    QWEN2_5_VL,
    name="qwen3_vl",
    title="Qwen3-VL",
    pictures="native size in patches; three-axis rope; deeper features added between the first layers",
    model_types=("qwen3_vl",),
    projector=("model.visual.merger.", "model.visual.deepstack_merger_list."),
    features=stacked_features,
    layer_inputs=deepstack_inputs,
)
