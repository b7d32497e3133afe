"""GLM-4.1V and GLM-4.6V: native resolution in patches, three-axis rope on half of each head (arXiv 2507.01006)."""

from dataclasses import replace

from sightline.models.families.qwen2_5_vl import QWEN2_5_VL
from sightline.models.pictures import PIXELS_OF_FRAMES

GLM4V = replace(
    QWEN2_5_VL,
    name="glm4v",
    title="GLM-4.1V, GLM-4.6V",
    pictures="native size in patches; three-axis rope",
    model_types=("glm4v", "glm46v"),
    options=PIXELS_OF_FRAMES,
    projector=("model.visual.merger.", "model.visual.downsample."),
)
