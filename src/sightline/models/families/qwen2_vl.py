"""Qwen2-VL: as Qwen2.5-VL, with full attention in the tower (arXiv 2409.12191)."""

from dataclasses import replace

from sightline.models.families.qwen2_5_vl import QWEN2_5_VL

QWEN2_VL = replace(
    QWEN2_5_VL,
    name="qwen2_vl",
    title="Qwen2-VL",
    pictures="native size in patches; three-axis rope",
    model_types=("qwen2_vl",),
)
