"""Where a model looks: which pieces of a picture an answer depends on."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw

import sightline as sl


def covered(picture: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """The picture with one piece in its mean colour."""
    made = picture.copy()
    mean = tuple(int(value) for value in np.asarray(picture).reshape(-1, 3).mean(0))
    ImageDraw.Draw(made).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill=mean)
    return made


def boxes(size: tuple[int, int], grid: int) -> list[tuple[int, int, int, int]]:
    """The pieces of a picture, row by row."""
    across = [size[0] * step // grid for step in range(grid + 1)]
    down = [size[1] * step // grid for step in range(grid + 1)]
    return [(left, top, right, bottom) for top, bottom in pairwise(down) for left, right in pairwise(across)]


def losses(
    model: sl.Model, picture: Image.Image, question: str, answer: str, other: str | None = None, *, grid: int = 4
) -> np.ndarray:
    """[grid, grid] nats that the answer loses where one piece of the picture is covered.

    Args:
        model: which is asked.
        picture: which is covered.
        question: about it.
        answer: whose log-probability is read.
        other: an answer that it stands against: the log-probability less that of the other is read. An answer that a
            model is sure of shows more so.
        grid: pieces along each side.
    """

    def value(shown: Image.Image) -> float:
        scored = model.score(shown, question, [answer] if other is None else [answer, other]).responses
        first, *second = (one.rewards["logprob"] for one in scored)
        return first - sum(second)

    whole = value(picture)
    found = [whole - value(covered(picture, box)) for box in boxes(picture.size, grid)]
    return np.array(found).reshape(grid, grid)


def shaded(picture: Image.Image, lost: np.ndarray, *, most: float | None = None) -> Image.Image:
    """The picture with what the answer depends on left bright: a piece is the darker the less covering it costs.

    Args:
        picture: as it was shown.
        lost: of :func:`losses`.
        most: nats at which a piece is quite bright; None: the largest of ``lost``. Give one number to pictures that
            stand side by side.
    """
    grid = len(lost)
    top = max(most or float(lost.max()), 1e-9)
    shade = Image.new("L", (grid, grid))
    shade.putdata([int(255 * min(1.0, max(0.0, value) / top)) for value in lost.ravel()])
    shade = shade.resize(picture.size, Image.Resampling.NEAREST)
    dark = Image.blend(picture, Image.new("RGB", picture.size, (40, 40, 60)), 0.75)
    return Image.composite(picture, dark, shade)
