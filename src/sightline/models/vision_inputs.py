"""Whether the pictures that a processor makes are those that the vision tower takes.

Where they are not, nothing fails: a LLaVA trains on pictures with black borders, a Qwen on patches of another size.
So both sides are compared when a model is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sightline.errors import RecipeError

_REMEDY = "Give the processor that belongs to the model, or leave model.image_size out"


def check_square(config: Any, processor: Any) -> None:
    """LLaVA: every picture becomes one square of the tower's size, filled to its borders.

    Raises:
        RecipeError: Pictures would have another size, or borders of black.
    """
    side, made = config.vision_config.image_size, processor.image_processor
    _check_patches(config, processor)
    produced = square_size(processor)
    if produced != (side, side):
        what = "x".join(map(str, produced)) if produced else f"as large as {dict(made.size)} makes them"
        raise RecipeError(f"the processor makes pictures {what}, and the vision tower takes {side}x{side}. {_REMEDY}")
    _check_filled(made, side)


def square_size(processor: Any) -> tuple[int, int] | None:
    """(height, width) of every picture that LLaVA's processor makes; None: it depends on the picture."""
    made = processor.image_processor
    return _crop(made) or exact_size(processor) or _sides(made.size)


def check_tiles(config: Any, processor: Any) -> None:
    """LLaVA-NeXT: tiles of the tower's size, on the grids that the model knows.

    Raises:
        RecipeError: Tiles would have another size, or other grids.
    """
    side, made = config.vision_config.image_size, processor.image_processor
    _check_patches(config, processor)
    if _crop(made) not in (None, (side, side)):
        raise RecipeError(
            f"the processor makes tiles of {_crop(made)}, the vision tower takes {side}x{side}. {_REMEDY}"
        )
    _check_filled(made, side, exact=True)
    _check_same_grids(config, made)


def check_grids(config: Any, processor: Any) -> None:
    """LLaVA-OneVision: tiles of the tower's size, on the grids that the model knows, and as many tokens.

    Raises:
        RecipeError: Tiles would have another size or other grids, or a picture another number of tokens.
    """
    vision, made = config.vision_config, processor.image_processor
    if (produced := _sides(made.size)) != (vision.image_size,) * 2:
        raise RecipeError(
            f"the processor makes tiles of {produced}, the vision tower takes {vision.image_size}. {_REMEDY}"
        )
    here = (processor.num_image_tokens, processor.vision_aspect_ratio)
    there = ((vision.image_size // vision.patch_size) ** 2, config.vision_aspect_ratio)
    if here != there:
        raise RecipeError(
            f"the processor counts {here[0]} tokens a tile and lays out by {here[1]!r}, the model makes {there[0]} "
            f"and lays out by {there[1]!r}. {_REMEDY}"
        )
    _check_same_grids(config, made)


def _check_same_grids(config: Any, made: Any) -> None:
    grids = [sorted(map(tuple, owner.image_grid_pinpoints)) for owner in (config, made)]
    if grids[0] != grids[1]:
        raise RecipeError(f"the processor lays tiles on {grids[1]}, the model knows {grids[0]}. {_REMEDY}")


def check_patches(config: Any, processor: Any) -> None:
    """Qwen-VL: patches of the tower's size, merged as many at a time.

    Raises:
        RecipeError: They differ.
    """
    vision, made = config.vision_config, processor.image_processor
    here = {"patch_size": made.patch_size, "merge": made.merge_size, "frames": made.temporal_patch_size}
    there = {
        "patch_size": vision.patch_size,
        "merge": vision.spatial_merge_size,
        "frames": vision.temporal_patch_size,
    }
    if here != there:
        raise RecipeError(f"the processor makes patches of {here}, the vision tower takes {there}. {_REMEDY}")


def check_tile(config: Any, processor: Any) -> None:
    """InternVL, Gemma 3, PaliGemma, Mllama: every tile has the tower's size, and as many tokens as the model makes.

    Raises:
        RecipeError: They differ.
    """
    vision, made = config.vision_config, processor.image_processor
    side = vision.image_size
    pairs = {"tiles": (_sides(made.size), (side, side) if isinstance(side, int) else tuple(side))}
    tokens = getattr(config, "image_seq_length", None) or getattr(config, "mm_tokens_per_image", None)
    if tokens is not None:
        pairs["tokens a tile"] = (processor.image_seq_length, tokens)
    if hasattr(vision, "max_num_tiles"):
        pairs["most tiles"] = (made.max_image_tiles, vision.max_num_tiles)
    _check_same(pairs)


def check_one_view(config: Any, processor: Any) -> None:
    """Gemma 3: one view of every picture, as large as the tower takes it.

    Raises:
        RecipeError: It has another size, or the processor adds crops behind words of its own.
    """
    check_tile(config, processor)
    if processor.image_processor.do_pan_and_scan:
        raise RecipeError(
            "the processor has do_pan_and_scan, which writes words and crops beside wide pictures, and only whole "
            "pictures are read. Set do_pan_and_scan to false in the processor's config"
        )


def check_split(config: Any, processor: Any) -> None:
    """Idefics3 and SmolVLM: tiles of the tower's size, shuffled into as many tokens.

    Raises:
        RecipeError: They differ.
    """
    vision, made = config.vision_config, processor.image_processor
    tokens = int((vision.image_size // vision.patch_size) ** 2 / config.scale_factor**2)
    tile = made.max_image_size["longest_edge"]
    _check_same({"tiles": (tile, vision.image_size), "tokens a tile": (processor.image_seq_len, tokens)})


def check_merged(config: Any, processor: Any) -> None:
    """Mistral 3 and Gemma 4: patches of the tower's size, merged as many at a time.

    Raises:
        RecipeError: They differ.
    """
    vision, made = config.vision_config, processor.image_processor
    merges = getattr(vision, "pooling_kernel_size", None) or config.spatial_merge_size
    own = getattr(made, "pooling_kernel_size", None)
    patch, merged = (made.patch_size, own) if own else (processor.patch_size, processor.spatial_merge_size)
    _check_same({"patches": (patch, vision.patch_size), "merged": (merged, merges)})


def _check_same(pairs: Mapping[str, tuple[Any, Any]]) -> None:
    """Each of (what the processor makes, what the model takes)."""
    for name, (here, there) in pairs.items():
        if here != there:
            raise RecipeError(f"the processor makes {name} of {here}, the model takes {there}. {_REMEDY}")


def check_crop(processor: Any) -> None:
    """A new size for a processor that crops must be that of the crop.

    Raises:
        RecipeError: Pictures would get black borders or lose their own.
    """
    crop = _crop(processor.image_processor)
    if crop is not None:
        _check_filled(processor.image_processor, min(crop), exact=True)


def exact_size(processor: Any) -> tuple[int, int] | None:
    """(height, width) that every picture must have already, where a processor neither resizes nor crops it."""
    made = processor.image_processor
    return None if made.do_resize or getattr(made, "do_center_crop", None) else _sides(made.size)


def _check_patches(config: Any, processor: Any) -> None:
    pairs = {
        "patch_size": (processor.patch_size, config.vision_config.patch_size),
        "vision_feature_select_strategy": (
            processor.vision_feature_select_strategy,
            config.vision_feature_select_strategy,
        ),
    }
    for name, (here, there) in pairs.items():
        if here != there:
            raise RecipeError(
                f"the processor has {name} {here}, the model {there}: it would write another number of picture "
                f"tokens than the tower makes features. {_REMEDY}"
            )


def _check_filled(made: Any, side: int, *, exact: bool = False) -> None:
    """What is smaller than the crop gets black borders; of what is larger only the middle is kept."""
    smallest = min(dict(made.size).values())
    if made.do_resize and (smallest < side or (exact and smallest > side)):
        what = "with black borders" if smallest < side else "without what lies outside"
        raise RecipeError(
            f"the processor resizes pictures to {dict(made.size)} and then puts them into {side}x{side}, {what}. "
            f"Leave model.image_size out, or set it to {side}"
        )


def _crop(made: Any) -> tuple[int, int] | None:
    """Size that pictures are cropped to, if they are."""
    return _sides(made.crop_size) if getattr(made, "do_center_crop", None) else None


def _sides(size: Mapping[str, int]) -> tuple[int, int] | None:
    """Height and width, where a size gives both."""
    return (size["height"], size["width"]) if {"height", "width"} <= dict(size).keys() else None


def resized_pixels(processor: Any, size: tuple[int, int]) -> int:
    """Pixels of a picture of ``size`` (height, width) as the processor resizes it before it cuts it.

    Only a shortest edge without a longest one knows no bound (LLaVA 1.5): the other side grows with the ratio. Tiles
    (LLaVA-NeXT) and patches (Qwen-VL) have fixed grids or a most. Made square first, it is as large as its longer
    side squared, in bytes: a quarter of what the same pixels take afterwards.
    """
    made = processor.image_processor
    if getattr(made, "do_pad", None) and hasattr(made, "pad_to_square"):
        return max(size) ** 2 // 4
    wanted = dict(made.size or {})  # Gemma 4 counts patches instead
    shortest, longest = wanted.get("shortest_edge"), wanted.get("longest_edge")
    if not made.do_resize or shortest is None or longest is not None or hasattr(made, "image_grid_pinpoints"):
        return 0
    return int(shortest * shortest * max(size) / max(1, min(size)))
