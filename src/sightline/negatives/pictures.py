"""Pictures made from a picture: a piece of it, it under noise or with black squares, a white one of its size."""

from __future__ import annotations

import math
import random

import numpy as np
from PIL import Image

_RATIO = (3 / 4, 4 / 3)
"""Least and most width over height of a piece, as multiples of the picture's own."""
_STEPS = 1000


def crop(picture: Image.Image, rng: random.Random, area: tuple[float, float]) -> Image.Image:
    """A random piece, enlarged to the size of the whole.

    The negative of mDPO (arXiv 2406.11839) is a piece of 1 to 20 % of the area. Drawn as torchvision's
    ``RandomResizedCrop`` does on the square that a model sees: the share of the area uniformly, the sides' ratio
    log-uniformly from 3/4 to 4/3 of the picture's own, the place uniformly; sides that do not fit are drawn again.
    Bilinear.

    Args:
        picture: RGB.
        rng: where the piece is taken from.
        area: least and most share of the area, in (0, 1].
    """
    width, height = _piece(picture.size, rng, area)
    left, top = rng.randint(0, picture.width - width), rng.randint(0, picture.height - height)
    return picture.resize(picture.size, Image.Resampling.BILINEAR, box=(left, top, left + width, top + height))


def _piece(size: tuple[int, int], rng: random.Random, area: tuple[float, float]) -> tuple[int, int]:
    """Width and height of a piece, never the whole; where ten draws do not fit, the least area with the picture's own
    ratio."""
    for _ in range(10):
        share = rng.uniform(*area)
        ratio = math.exp(rng.uniform(math.log(_RATIO[0]), math.log(_RATIO[1])))
        width, height = round(size[0] * math.sqrt(share * ratio)), round(size[1] * math.sqrt(share / ratio))
        if 0 < width <= size[0] and 0 < height <= size[1] and (width, height) != size:
            return width, height
    side = math.sqrt(area[0])
    least = [max(1, min(round(length * side), length - 1)) for length in size]
    return least[0], least[1]


def noise(picture: Image.Image, rng: np.random.Generator, step: int) -> Image.Image:
    """The picture under the noise of step ``step`` of a diffusion: ``√ᾱ x + √(1-ᾱ) ε`` with ε standard normal.

    x are the pixels on [-1, 1]; the result is clipped to it, since a file holds no more. ᾱ as in visual contrastive
    decoding (Leng et al. 2023, arXiv 2311.16922), see :func:`signal`.

    Args:
        picture: RGB.
        rng: the noise.
        step: 0 to 999; at 500 ᾱ is 0.74, at 999 it is 0.08.
    """
    share = signal(step)
    pixels = np.asarray(picture, dtype=np.float32) / 127.5 - 1
    noisy = math.sqrt(share) * pixels + math.sqrt(1 - share) * rng.standard_normal(pixels.shape, dtype=np.float32)
    return Image.fromarray(np.clip(np.rint((noisy + 1) * 127.5), 0, 255).astype(np.uint8))


def patches(picture: Image.Image, rng: np.random.Generator, patch: int, share: float) -> Image.Image:
    """The picture with some of its squares black, each by itself with the same probability.

    The masked picture of PAPO (arXiv 2507.06448) and VPPO (2510.09285), whose squares are 14 pixels wide. They are laid
    from the upper left corner on; those at the other edges are cut.

    Args:
        picture: RGB.
        rng: which squares.
        patch: side of a square in pixels.
        share: probability of black, in (0, 1].
    """
    pixels = np.asarray(picture)
    rows, columns = (-(-length // patch) for length in pixels.shape[:2])
    black = (rng.random((rows, columns)) < share).repeat(patch, axis=0).repeat(patch, axis=1)
    return Image.fromarray(np.where(black[: pixels.shape[0], : pixels.shape[1], None], np.uint8(0), pixels))


def signal(step: int) -> float:
    """ᾱ of a step: the product of ``1 - β`` up to it, β on a sigmoid of 1000 steps from 1e-5 to 5e-3."""
    grid = np.linspace(-6, 6, _STEPS)
    betas = (5e-3 - 1e-5) / (1 + np.exp(-grid)) + 1e-5
    return float(np.prod(1 - betas[: step + 1]))


def blank(size: tuple[int, int], *, dark: bool = False) -> Image.Image:
    """A white picture of ``size`` (width, height), or a black one."""
    return Image.new("RGB", size, (0, 0, 0) if dark else (255, 255, 255))


def unlike(made: Image.Image, picture: Image.Image) -> Image.Image:
    """``made``, unless it has the pixels of the picture it was made from, as a piece of a picture of one colour has:
    then a white one, or a black one where the picture is white."""
    candidates = (made, blank(picture.size), blank(picture.size, dark=True))
    return next(one for one in candidates if one.tobytes() != picture.tobytes())
