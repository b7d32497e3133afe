"""LLaVA-OneVision: tiles as LLaVA-NeXT, scaled down where they would be too many (arXiv 2408.03326).

Every picture is laid out in tiles, also where a prompt has several: its tokens do not depend on its neighbours.
"""

from dataclasses import replace

from sightline.models.families.llava_next import LLAVA_NEXT
from sightline.models.vision_inputs import check_grids

LLAVA_ONEVISION = replace(
    LLAVA_NEXT,
    name="llava_onevision",
    title="LLaVA-OneVision",
    pictures="overview and tiles, scaled down above a limit",
    model_types=("llava_onevision",),
    check_pictures=check_grids,
)
