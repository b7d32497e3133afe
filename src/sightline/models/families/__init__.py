"""The supported families, one declaration a file."""

from sightline.models.families.gemma3 import GEMMA3
from sightline.models.families.gemma4 import GEMMA4
from sightline.models.families.glm4v import GLM4V
from sightline.models.families.idefics3 import IDEFICS3
from sightline.models.families.internvl import INTERNVL
from sightline.models.families.llava import LLAVA
from sightline.models.families.llava_next import LLAVA_NEXT
from sightline.models.families.llava_onevision import LLAVA_ONEVISION
from sightline.models.families.mistral3 import MISTRAL3
from sightline.models.families.mllama import MLLAMA
from sightline.models.families.paligemma import PALIGEMMA
from sightline.models.families.qwen2_5_vl import QWEN2_5_VL
from sightline.models.families.qwen2_vl import QWEN2_VL
from sightline.models.families.qwen3_5 import QWEN3_5
from sightline.models.families.qwen3_vl import QWEN3_VL

FAMILIES = (
    LLAVA,
    LLAVA_NEXT,
    LLAVA_ONEVISION,
    QWEN2_VL,
    QWEN2_5_VL,
    QWEN3_VL,
    QWEN3_5,
    INTERNVL,
    IDEFICS3,
    GLM4V,
    MISTRAL3,
    MLLAMA,
    GEMMA3,
    GEMMA4,
    PALIGEMMA,
)

_EXPERTS = "it has experts, and nothing checks them yet"
REFUSED = {
    "qwen3_vl_moe": _EXPERTS,
    "glm4v_moe": _EXPERTS,
    "llama4": "its layers see chunks of 8,192 tokens, which no layout follows",
    "gemma3n": "nothing checks its four streams of hidden states and its shared keys yet",
    "molmo2": "all pictures of a prompt see each other as one block",
    "phi4_multimodal": "it switches adapters of its own by what it is shown",
}
"""Known model types that are not computed exactly, each with the reason."""
