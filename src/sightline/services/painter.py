"""A pipeline of diffusers as the maker of an image service."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from PIL import Image

from sightline.errors import shortened
from sightline.negatives.diffusion import Diffusion, diffusion
from sightline.negatives.painting import Box, Order, Unpainted
from sightline.recipes.load import check_spec
from sightline.recipes.negatives import PaintSpec
from sightline.services.batching import Refused
from sightline.services.image import Wanted
from sightline.services.spec import Makes

_TOKENS: Final = 512
"""Most tokens of a description, where a pipeline reads a limit: as published."""


class Painter:
    """Makes pictures with one pipeline; those with equal settings together."""

    def __init__(self, path: str, makes: Makes, *, dtype: str, batch: int) -> None:
        """
        Args:
            path: Folder or hub name of the pipeline.
            makes: ``text_to_image`` from words alone, ``edit`` and ``inpaint`` from a picture.
            dtype: Of its weights.
            batch: Most pictures made together.

        Raises:
            MissingExtra, RecipeError, CheckpointError: See ``negatives.diffusion``.
        """
        spec = check_spec(PaintSpec, "serve image", path=path, dtype=dtype, batch_size=batch, prompt_tokens=None)
        self.name, self._makes = f"{path} {makes} {dtype}", makes
        self._whole = diffusion(spec, makes)
        reads = "max_sequence_length" in inspect.signature(type(self._whole.pipeline).__call__).parameters
        self._tokens = _TOKENS if reads else None

    def make(self, wanted: Sequence[Wanted]) -> list[Image.Image | Refused]:
        """See ``image.Maker``."""
        made: dict[int, Image.Image | Refused] = {}
        alike: dict[PaintSpec, list[tuple[int, Order]]] = {}
        for place, one in enumerate(wanted):
            try:
                alike.setdefault(self._spec(one), []).append((place, self._order(one)))
            except Refused as refused:
                made[place] = refused
        for spec, some in alike.items():
            painter = Diffusion(spec=spec, kind=self._makes, pipeline=self._whole.pipeline)
            size = painter.together or 1
            for start in range(0, len(some), size):
                part = some[start : start + size]
                for number, picture in painter.paint([order for _, order in part]):
                    whole = isinstance(picture, Image.Image)
                    made[part[number][0]] = picture if whole else _unpainted(picture)  # type: ignore[assignment, arg-type]
        return [made[place] for place in range(len(wanted))]

    def _spec(self, one: Wanted) -> PaintSpec:
        return replace(
            self._whole.spec,
            width=one.width,
            height=one.height,
            steps=one.steps,
            guidance=one.guidance,
            strength=one.strength,
            prompt_tokens=self._tokens,
        )

    def _order(self, one: Wanted) -> Order:
        needs = {"text_to_image": (False, False), "edit": (True, False), "inpaint": (True, True)}[self._makes]
        if (one.picture is not None, one.mask is not None) != needs:
            words = " and ".join(name for name, need in zip(("image", "mask"), needs, strict=True) if need)
            raise Refused(422, f"this service does {self._makes}: send {words or 'neither image nor mask'}")
        box = None if one.mask is None else _box(one.mask)
        return Order(text=one.text, seed=one.seed, picture=one.picture, box=box)


def _box(path: str) -> Box:
    """The white rectangle of a mask.

    Raises:
        Refused: It has none, or another shape.
    """
    with Image.open(path) as opened:
        white = opened.convert("L").point(lambda value: 255 * (value > 127))
    box = white.getbbox()
    if box is None or white.crop(box).getextrema() != (255, 255):
        raise Refused(422, "the white of the mask is no rectangle, and a box is what is painted anew")
    return box


def _unpainted(one: Unpainted) -> Refused:
    return Refused(422, shortened(one.reason, 300))
