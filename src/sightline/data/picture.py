"""Picture files as models see them: upright, three channels of eight bits, the first frame."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from PIL import ExifTags, Image

from sightline.data.readers.rows import RowError
from sightline.errors import DataError
from sightline.pixels import upright

UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What Pillow raises for a file that is missing, broken, cut off or beyond its limit of pixels: each of its many
decoders (AVIF, BLP, DDS, QOI, ...) fails in its own way on bytes that it does not expect."""

FORMATS = {"JPEG": ".jpg", "PNG": ".png", "GIF": ".gif", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif"}
"""What is read of strangers, by Pillow's names, and how such files are named. Of others Pillow runs a program (EPS), or
has a decoder that few people look at."""

_PNG_EXIF = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
"""Names of the chunks and texts of a PNG in which Pillow finds an orientation."""
_NO_RANGE = ("I", "F")
"""Modes of 32 bits: nothing says which value is white."""


def read_picture(path: str) -> Image.Image:
    """The picture as it is looked at, see :mod:`sightline.pixels`.

    Raises:
        DataError: The file cannot be read, or has 32 bits per value.
    """
    try:
        with Image.open(path) as opened:
            check_mode(opened)
            return upright(opened)
    except DataError:
        raise
    except UNREADABLE as error:
        raise unreadable(path, error) from error


def picture_size(path: str) -> tuple[int, int]:
    """(height, width) of the upright picture, without decoding it.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        with Image.open(path) as opened:
            width, height = opened.size
            turned = _may_be_turned(opened, path) and opened.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    except UNREADABLE as error:
        raise unreadable(path, error) from error
    return (width, height) if turned else (height, width)


def _may_be_turned(opened: Image.Image, path: str) -> bool:
    """Whether it pays to ask for EXIF. Of a PNG that lies in chunks which may stand behind the pixels, and Pillow
    decodes these to get there: a look at the bytes tells whether there are any."""
    if opened.format != "PNG":
        return True
    content = Path(path).read_bytes()
    return any(name in content for name in _PNG_EXIF)


def check_mode(picture: Image.Image) -> None:
    """
    Raises:
        DataError: Values of 32 bits, whose range is not known.
    """
    if picture.mode in _NO_RANGE:
        found = f"the picture has values of 32 bits (mode {picture.mode}), and nothing says which of them is white"
        raise DataError(found, remedy="Store it with 8 or 16 bits")


def unreadable(path: str, error: Exception) -> RowError:
    """What to tell of a picture that Pillow refused with ``error``."""
    remedy = "Make it smaller" if isinstance(error, Image.DecompressionBombError) else "Restore the file"
    if isinstance(error, FileNotFoundError):
        remedy = "Put the file there"
    found = f"picture {path} cannot be read ({error})"
    return RowError("broken image", found, remedy=f"{remedy}, or leave the row out")
