"""The supported families, one declaration a file."""

from sightline.models.families.llava import LLAVA
from sightline.models.families.llava_next import LLAVA_NEXT
from sightline.models.families.qwen2_5_vl import QWEN2_5_VL

FAMILIES = (LLAVA, LLAVA_NEXT, QWEN2_5_VL)
