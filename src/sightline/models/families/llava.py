"""LLaVA 1.5: one square picture, a CLIP tower, a two-layer projector (arXiv 2310.03744)."""

from sightline.models.family import Family, clip_unused, join_images, text_positions
from sightline.models.pictures import PAD
from sightline.models.vision_inputs import check_square

LLAVA = Family(
    name="llava",
    title="LLaVA 1.5",
    pictures="one square view",
    model_types=("llava",),
    language="model.language_model",
    projector=("model.multi_modal_projector.",),
    vision=("model.vision_tower.",),
    image_keys=("pixel_values",),
    join=join_images,
    positions=text_positions,
    unused=clip_unused,
    check_pictures=check_square,
    options={"pad_to_square": PAD},
)
