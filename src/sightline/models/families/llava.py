"""LLaVA 1.5: one square picture, a CLIP tower, a two-layer projector (arXiv 2310.03744)."""

from typing import Any

from sightline.models.family import Family, clip_unused, join_images, text_positions
from sightline.models.pictures import PAD
from sightline.models.vision_inputs import check_square, square_size


def tokens_of_square(processor: Any, size: tuple[int, int]) -> int:
    """Tokens of a picture, which do not depend on its size. The processor's own count knows cropped pictures alone, and
    those of SigLIP are not.

    Raises:
        ValueError: The processor makes pictures of no fixed size.
    """
    made = square_size(processor)
    if made is None:
        raise ValueError(f"the processor has no fixed size (size {dict(processor.image_processor.size)})")
    height, width = (side // processor.patch_size for side in made)
    return (
        height * width + processor.num_additional_image_tokens - (processor.vision_feature_select_strategy == "default")
    )


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
    count=tokens_of_square,
    options={"pad_to_square": PAD},
)
