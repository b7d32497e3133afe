"""Qwen3.5: three of four layers carry a state from token to token (Gated DeltaNet, arXiv 2412.06464) in place of
attention, so that no mask can part rows or share a beginning."""

from dataclasses import replace

from sightline.models.families.qwen2_5_vl import QWEN2_5_VL

QWEN3_5 = replace(
    QWEN2_5_VL,
    name="qwen3_5",
    title="Qwen3.5, Qwen3.6",
    pictures="native size in patches; three-axis rope",
    model_types=("qwen3_5",),
    layouts=frozenset(("rows",)),
    reason="its linear-attention layers carry a state across the borders of rows and branches",
)
