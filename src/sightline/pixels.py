"""A picture as it is looked at, by models and by people alike: upright, three channels of eight bits."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")


def upright(picture: Image.Image) -> Image.Image:
    """Turned as EXIF says, in RGB. Of an animation it is the first frame."""
    from PIL import ImageOps

    return eight_bits(ImageOps.exif_transpose(picture))


def eight_bits(picture: Image.Image) -> Image.Image:
    """In RGB with eight bits per channel.

    Sixteen bits become the eight most significant; Pillow's own conversion would cut them off at 255, which makes
    nearly everything white. What is transparent is white, as where transformers' image processors and vLLM get the
    opened file: what lies under it is often black, and so is a drawing on it.
    """
    import numpy as np
    from PIL import Image

    if picture.mode in _SIXTEEN_BITS:
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert("RGB")
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    picture = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
