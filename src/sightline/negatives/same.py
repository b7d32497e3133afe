"""Whether two picture files show the same: what is no contrast, whatever the files are called."""

from __future__ import annotations

import filecmp
import functools
import hashlib
from pathlib import Path

from PIL import ExifTags, Image

from sightline.data.picture import read_picture
from sightline.pixels import eight_bits


def same_picture(one: str, other: str) -> bool:
    """Whether two files have the same bytes, or the same pixels as a model would see them (upright, RGB).

    Files that cannot be read have not. Pictures of unequal size are told apart by their headers, photographs (JPEG)
    of equal size mostly at an eighth of it, so that few are decoded.
    """
    try:
        if one == other or filecmp.cmp(one, other, shallow=False):
            return True
        return _may_be_same(one, other) and _digest(one, _stamp(one)) == _digest(other, _stamp(other))
    except (OSError, SyntaxError, ValueError):
        return False


def is_white(path: str) -> bool:
    """Whether every pixel is white."""
    with Image.open(path) as picture:
        return _all_white(_small(picture)) and _all_white(opened(path))


def opened(path: str) -> Image.Image:
    """The picture as the model would see it: upright, RGB."""
    return read_picture(path)


def _may_be_same(one: str, other: str) -> bool:
    with Image.open(one) as first, Image.open(other) as second:
        if sorted(first.size) != sorted(second.size):
            return False
        if not first.format == second.format == "JPEG":
            return True
        turned = [picture.getexif().get(ExifTags.Base.Orientation, 1) for picture in (first, second)]
        if turned[0] != turned[1]:
            return True
        return _small(first).tobytes() == _small(second).tobytes()


def _small(picture: Image.Image) -> Image.Image:
    """A JPEG decoded at an eighth of its size; others as they are."""
    picture.draft("RGB", (max(1, picture.width // 8), max(1, picture.height // 8)))
    return eight_bits(picture)


def _stamp(path: str) -> tuple[int, int]:
    found = Path(path).stat()
    return found.st_mtime_ns, found.st_size


@functools.lru_cache(maxsize=1 << 18)
def _digest(path: str, stamp: tuple[int, int]) -> bytes:
    """Of size and pixels, upright. A picture is compared with its neighbours on both sides, and decoded once."""
    picture = opened(path)
    return hashlib.blake2b(repr(picture.size).encode() + picture.tobytes(), digest_size=16).digest()


def _all_white(picture: Image.Image) -> bool:
    return picture.getextrema() == ((255, 255),) * 3
