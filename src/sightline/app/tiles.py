"""The pixels that a vision tower gets of a picture, as pictures again."""

from __future__ import annotations

from typing import Any, Final

from PIL import Image
from torch import Tensor, tensor

from sightline.rendered import ImageInputs

_MOST: Final = 16
"""Tiles of a picture that are shown."""


def tiles(image: ImageInputs, image_processor: Any) -> list[Image.Image]:
    """What the processor made of one picture: one or more tiles; empty where its layout is not known.

    Args:
        image: as rendered; ``pixel_values`` are tiles [.., 3, H, W], or the patches of ``image_grid_thw``.
        image_processor: that made it: its mean, deviation and sizes of patches.
    """
    pixels = image.tensors.get("pixel_values")
    if pixels is None:
        return []
    if "image_grid_thw" in image.tensors:
        made = _of_patches(pixels, image.tensors["image_grid_thw"][0].tolist(), image_processor)
    elif pixels.ndim >= 4 and pixels.shape[-3] == 3:
        made = pixels.reshape(-1, *pixels.shape[-3:])
    else:
        return []
    mean, deviation = (tensor(values)[:, None, None] for values in _scale(image_processor))
    shown = ((made[:_MOST].float().cpu() * deviation + mean) * 255).round().clamp(0, 255).byte()
    return [Image.fromarray(one.permute(1, 2, 0).numpy()) for one in shown]


def _scale(image_processor: Any) -> tuple[Any, Any]:
    """Mean and deviation of the colours; 0 and 1 where they are not normalised."""
    if not image_processor.do_normalize:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return image_processor.image_mean, image_processor.image_std


def _of_patches(pixels: Tensor, grid: list[int], image_processor: Any) -> Tensor:
    """[frames, 3, H, W] of patches [patches, dim], which lie block by block of ``merge_size`` squared."""
    frames, rows, columns = grid
    merge, patch = image_processor.merge_size, image_processor.patch_size
    times = image_processor.temporal_patch_size
    blocks = pixels.reshape(frames, rows // merge, columns // merge, merge, merge, 3, times, patch, patch)
    whole = blocks.permute(0, 6, 5, 1, 3, 7, 2, 4, 8).reshape(frames * times, 3, rows * patch, columns * patch)
    return whole[::times]  # a picture is as many equal frames as belong to a patch
