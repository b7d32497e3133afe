"""Options of a family for how its pictures are made ready: set on the processor, which a run saves with its model.

What is set is read back off the processor, wherever it came from: results name it beside their figures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from transformers import LlavaImageProcessorPil
from transformers.models.gemma4.image_processing_pil_gemma4 import _SUPPORTED_SOFT_TOKENS as SUPPORTED

from sightline.errors import RecipeError
from sightline.recipes.schema import ModelSpec


@dataclass(frozen=True, kw_only=True)
class PictureOption:
    """One option, of one way to make pictures ready."""

    get: Callable[[Any], Any]
    """Its value, from the processor."""
    set: Callable[[Any, Any], None]
    """Sets it on the processor; raises ValueError for what the processor cannot do."""


def check_options(spec: ModelSpec, name: str, options: Mapping[str, PictureOption]) -> None:
    """
    Args:
        spec: what a recipe or a command asks for.
        name: of the model's family.
        options: that it has.

    Raises:
        RecipeError: the family has no such option, or two options set the same.
    """
    given = spec.pictures.given()
    has = f"it has {', '.join(sorted(options))}" if options else "it has none: all its pictures have one size"
    for option in given.keys() - options.keys():
        raise RecipeError(f"model.pictures.{option} is set, and {name!r} has no such option ({has}). Leave it out")
    if spec.image_size is not None and given.keys() & {"min_pixels", "max_pixels"}:
        raise RecipeError(
            "model.image_size and model.pictures both set the fewest and the most pixels. Leave one of them out"
        )


def set_options(processor: Any, spec: ModelSpec, options: Mapping[str, PictureOption]) -> None:
    """Sets what a recipe asks for on a processor.

    Raises:
        RecipeError: the processor cannot do it.
    """
    for name, value in sorted(spec.pictures.given().items()):
        try:
            options[name].set(processor, value)
        except ValueError as error:
            raise RecipeError(f"model.pictures.{name} is {value}: {error}") from error
    least, most = (options[name].get(processor) if name in options else None for name in ("min_pixels", "max_pixels"))
    if least is not None and least > most:
        found = f"pictures would have at least {least} and at most {most} pixels"
        raise RecipeError(f"{found}. Lower model.pictures.min_pixels, or raise max_pixels")


def picture_settings(processor: Any, options: Mapping[str, PictureOption]) -> dict[str, Any]:
    """How pictures are made ready: the value of each option that the family has, and the processor's size."""
    size = getattr(processor.image_processor, "size", None)
    sizes = {} if size is None else {"image_size": {name: value for name, value in dict(size).items() if value}}
    return sizes | {name: option.get(processor) for name, option in options.items()}


# --- the options there are ---


def attribute(name: str) -> PictureOption:
    """One that is an attribute of the image processor."""
    return PictureOption(
        get=lambda processor: getattr(processor.image_processor, name),
        set=lambda processor, value: setattr(processor.image_processor, name, value),
    )


def _most_soft(processor: Any, value: int) -> None:
    if value not in SUPPORTED:
        raise ValueError(f"a picture has {', '.join(map(str, SUPPORTED))} tokens at most. Take one of these")
    processor.image_processor.max_soft_tokens = value


SOFT_TOKENS = PictureOption(get=lambda processor: processor.image_processor.max_soft_tokens, set=_most_soft)
"""Gemma 4."""


def pixels(edge: str, *, counts_frames: bool = False) -> PictureOption:
    """A limit that stands in the processor's ``size``; with ``counts_frames`` as many times as a picture has frames."""

    def frames(processor: Any) -> int:
        return int(processor.image_processor.temporal_patch_size) if counts_frames else 1

    def put(processor: Any, value: int) -> None:
        made = processor.image_processor
        block = (made.patch_size * made.merge_size) ** 2
        if edge == "longest_edge" and value < block:
            raise ValueError(f"a picture has {block} pixels or more. Raise it")
        made.size = {**{k: v for k, v in dict(made.size).items() if v}, edge: value * frames(processor)}

    return PictureOption(get=lambda processor: int(processor.image_processor.size[edge]) // frames(processor), set=put)


def _most_in_grid(processor: Any) -> int:
    return max(_tiles(processor, grid) for grid in processor.image_processor.image_grid_pinpoints)


def _limit_grids(processor: Any, most: int) -> None:
    made = processor.image_processor
    kept = [list(grid) for grid in made.image_grid_pinpoints if _tiles(processor, grid) <= most]
    if not kept:
        least = min(_tiles(processor, grid) for grid in made.image_grid_pinpoints)
        raise ValueError(f"the model's grids have {least} to {_most_in_grid(processor)} tiles. Raise it")
    made.image_grid_pinpoints = kept


def _tiles(processor: Any, grid: Any) -> int:
    size = dict(processor.image_processor.size)
    side = size.get("height") or size["shortest_edge"]
    return int((grid[0] // side) * (grid[1] // side))


MOST_IN_GRIDS = PictureOption(get=_most_in_grid, set=_limit_grids)
"""LLaVA-NeXT, LLaVA-OneVision: grids of more tiles are left out, in the processor and in the model's config."""


def follow_grids(config: Any, processor: Any) -> None:
    """Lets a model lay out features on the grids of a processor that has fewer of them: each finds the best among its
    own."""
    grids = [list(grid) for grid in processor.image_processor.image_grid_pinpoints]
    if set(map(tuple, grids)) <= set(map(tuple, config.image_grid_pinpoints)):
        config.image_grid_pinpoints = grids


def _pad(processor: Any, value: bool) -> None:
    made = processor.image_processor
    if not made.do_resize:
        raise ValueError("the processor takes pictures as they are, without resizing. Leave it out")
    if not isinstance(made, LlavaImageProcessorPil):
        known = LlavaImageProcessorPil.valid_kwargs.__annotations__
        made = LlavaImageProcessorPil(**{key: item for key, item in made.to_dict().items() if key in known})
        processor.image_processor = made
    made.do_pad = value


PAD = PictureOption(get=lambda processor: bool(getattr(processor.image_processor, "do_pad", None)), set=_pad)
"""LLaVA 1.5: by transformers' own image processor for it, which any program then loads."""


def _fewest(processor: Any, value: int) -> None:
    made = processor.image_processor
    if value > made.max_patches:
        raise ValueError(f"a picture has at most {made.max_patches} tiles (max_tiles). Lower it")
    made.min_patches = value


def _most(processor: Any, value: int) -> None:
    made = processor.image_processor
    made.max_patches = value
    made.min_patches = min(made.min_patches, value)


PIXELS = {"min_pixels": pixels("shortest_edge"), "max_pixels": pixels("longest_edge")}
PIXELS_OF_FRAMES = {
    "min_pixels": pixels("shortest_edge", counts_frames=True),
    "max_pixels": pixels("longest_edge", counts_frames=True),
}
TILES = {
    "max_tiles": PictureOption(get=lambda processor: processor.image_processor.max_patches, set=_most),
    "min_tiles": PictureOption(get=lambda processor: processor.image_processor.min_patches, set=_fewest),
}
