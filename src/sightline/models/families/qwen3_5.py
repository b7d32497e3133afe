"""Qwen3.5: three of four layers carry a state from token to token (Gated DeltaNet, arXiv 2412.06464) in place of
attention, which no mask parts at the borders of rows and branches."""

from dataclasses import replace

from sightline.models.families.qwen2_5_vl import QWEN2_5_VL
from sightline.models.recurrence import if_installed

QWEN3_5 = replace(
    QWEN2_5_VL,
    name="qwen3_5",
    title="Qwen3.5, Qwen3.6",
    pictures="native size in patches; three-axis rope",
    model_types=("qwen3_5", "qwen3_5_moe"),
    recurrent=True,
    by_config=if_installed,
)
