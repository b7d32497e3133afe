"""InternVL 2.5 to 3.5 in the layout of transformers: square tiles, pixel shuffle, a two-layer projector
(arXiv 2508.18265)."""

from sightline.models.family import Family, join_images, text_positions
from sightline.models.pictures import TILES
from sightline.models.vision_inputs import check_tile

INTERNVL = Family(
    name="internvl",
    title="InternVL 2.5 to 3.5 (`-hf` folders)",
    pictures="square tiles and an overview",
    model_types=("internvl",),
    language="model.language_model",
    projector=("model.multi_modal_projector.",),
    vision=("model.vision_tower.",),
    check_pictures=check_tile,
    options=TILES,
    image_keys=("pixel_values",),
    join=join_images,
    positions=text_positions,
)
