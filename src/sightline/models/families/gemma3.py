"""Gemma 3: 256 tokens a picture that see each other, windows in five of six layers (arXiv 2503.19786)."""

from sightline.models.family import Family, counted, join_images, text_positions
from sightline.models.vision_inputs import check_one_view

GEMMA3 = Family(
    name="gemma3",
    title="Gemma 3",
    pictures="one square view; its tokens see each other",
    model_types=("gemma3",),
    language="model.language_model",
    projector=("model.multi_modal_projector.",),
    vision=("model.vision_tower.",),
    check_pictures=check_one_view,
    image_keys=("pixel_values",),
    join=join_images,
    positions=text_positions,
    placeholder=lambda processor: processor.tokenizer.image_token_id,
    around=("\n\n", "\n\n"),
    count=lambda processor, size: counted(processor, size) + 2,
    row_inputs=lambda placeholders, blocks, vision: {"token_type_ids": placeholders.long()},
    prefix_rule="image_block",
)
