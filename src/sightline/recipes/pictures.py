"""How pictures are made ready for a model, where a recipe says more than the model's own processor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

_MOST = 2**31 - 1


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class PictureSpec:
    """How pictures are made ready. What is None stays as the processor has it, which of a run is as it was trained. A
    family has some of these options (docs/families.md), and the others are refused."""

    min_pixels: int | None = Field(default=None, ge=1, le=_MOST)
    """Qwen-VL, GLM: smaller pictures are enlarged to as many pixels."""
    max_pixels: int | None = Field(default=None, ge=1, le=_MOST)
    """Qwen-VL, GLM: larger pictures are made smaller."""
    min_tiles: int | None = Field(default=None, ge=1, le=_MOST)
    """InternVL: fewest tiles of a picture, beside the overview."""
    max_tiles: int | None = Field(default=None, ge=1, le=_MOST)
    """InternVL, LLaVA-NeXT, LLaVA-OneVision: most tiles of a picture, beside the overview."""
    split: bool | None = None
    """Idefics3, SmolVLM: whether pictures are cut into tiles beside the overview."""
    max_tokens: int | None = Field(default=None, ge=1, le=_MOST)
    """Gemma 4: most tokens of a picture."""
    pad_to_square: bool | None = None
    """LLaVA 1.5: bars in the mean colour of the processor make every picture square before it is resized, as LLaVA's
    own code does; otherwise what lies outside the middle square is cut off."""

    def given(self) -> dict[str, int | bool]:
        """The options that are set."""
        return {name: value for name, value in vars(self).items() if value is not None and not name.startswith("_")}


def model_fields(pictures: Mapping[str, Any]) -> dict[str, Any]:
    """How pictures are made ready as fields of ``ModelSpec``: ``image_size`` is one of its own."""
    rest = {key: value for key, value in pictures.items() if key != "image_size"}
    size = {"image_size": pictures["image_size"]} if "image_size" in pictures else {}
    return size | ({"pictures": rest} if rest else {})
