"""Pictures that a browser sends: looked at before anything decodes them, and kept under a name of their content."""

from __future__ import annotations

import hashlib
from pathlib import Path

from PIL import Image

from sightline.data.picture import FORMATS, UNREADABLE, check_mode
from sightline.errors import DataError
from sightline.files import replace_file
from sightline.services.bounds import Bounds


def take_picture(sent: Path, scratch: Path, bounds: Bounds) -> Path:
    """A copy of an uploaded picture.

    Raises:
        DataError: it is none, is broken, has values of 32 bits, or more bytes or pixels than a picture may.
    """
    if (size := sent.stat().st_size) > bounds.picture:
        raise DataError(f"the picture has {size} bytes, expected {bounds.picture} at most", remedy="Make it smaller")
    content = sent.read_bytes()
    try:
        with Image.open(sent, formats=tuple(FORMATS)) as picture:
            kind = str(picture.format)
            check_mode(picture)
            if (pixels := picture.width * picture.height) > bounds.pixels:
                found = f"the picture has {pixels} pixels, expected {bounds.pixels} at most"
                raise DataError(found, remedy="Make it smaller")
            picture.load()  # part of a file opens as well
    except DataError:
        raise
    except UNREADABLE as error:
        formats = ", ".join(FORMATS)
        raise DataError("this is no picture that can be read", remedy=f"Send one of {formats}") from error
    kept = scratch / (hashlib.sha256(content).hexdigest() + FORMATS.get(kind, ".jpg"))
    if not kept.is_file():
        replace_file(kept, content)
    return kept
