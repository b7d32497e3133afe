"""Columns that look like pictures or videos and are not read: such rows would train blind."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from PIL import Image

from sightline.data.readers.rows import RowError

_PICTURE = re.compile(
    r"(?:images?|imgs?|pictures?|pics?|photos?)"
    r"(?:[_-]?(?:paths?|files?|file_?names?|names?|urls?|uris?|bytes|base64|b64|data))?",
    re.IGNORECASE,
)
"""Names of columns with the picture of a row, beside ``image`` and ``images``."""
_ANOTHER = re.compile(
    r"(?:rejected_)?(?:videos?|audios?)(?:_?(?:paths?|files?|urls?))?|images?_?\d+|(?:chosen|rejected|negative)_images?",
    re.IGNORECASE,
)
"""Names of columns with what a row has beside its picture: never read where they are left over."""
_FILE = re.compile(
    r"(?:data:(?:image|video)/.*|/9j/4.{60,}|iVBORw0KGgo.{60,}"  # the last two: base64 of a JPEG and a PNG
    r"|[^\n]{1,1000}\.(?:png|jpe?g|jfif|webp|gif|bmp|tiff?|avif|heic|qoi|dds|mp4|avi|mov|mkv|webm)(?:\?[^\n]*)?)",
    re.IGNORECASE | re.DOTALL,
)
_VIDEO = re.compile(r"data:video/.*|[^\n]{1,1000}\.(?:mp4|avi|mov|mkv|webm)(?:\?[^\n]*)?", re.IGNORECASE | re.DOTALL)
_MARK = re.compile(
    r"^\s*(<(?:image|video|img)(?:[ _-]?\d+)?>|<\|(?:image|video)(?:_\d+)?\|>|<ImageHere>|<image_placeholder>"
    r"|\[(?:image|img|video)\])",
    re.IGNORECASE | re.MULTILINE,
)
"""What stands for a picture or a video in the texts of other tools, where it begins a line."""
_MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*", b"MM\x00*")
"""How the files of pictures begin."""


def check_unread(columns: Mapping[str, Any], *, pictures: int) -> None:
    """
    Args:
        columns: What a reader did not use of a row.
        pictures: How many pictures it did find. A path beside the picture itself is only a note.

    Raises:
        RowError: Names a column that seems to hold a picture or a video.
    """
    for name, value in columns.items():
        named = _ANOTHER.fullmatch(name) or (not pictures and _PICTURE.fullmatch(name))
        shown = _names(value, _VIDEO) if pictures else looks_like_picture(value)
        if (named and _holds_something(value)) or shown:
            raise unread(name, value)


def looks_like_picture(value: Any) -> bool:
    """Whether a value is a picture or a video, or names one."""
    return _names(value, _FILE)


def _names(value: Any, what: re.Pattern[str]) -> bool:
    """Whether a text that matches, or the bytes of a picture, are somewhere in a value."""
    if isinstance(value, str):
        return what.fullmatch(value.strip()) is not None
    if isinstance(value, Mapping):
        return any(_names(one, what) for one in value.values())
    if isinstance(value, list | tuple):
        return any(_names(one, what) for one in value[:8])
    return isinstance(value, Image.Image) or (isinstance(value, bytes) and value.startswith(_MAGIC))


def check_marks(text: str) -> None:
    """
    Args:
        text: Of a turn in a row without pictures.

    Raises:
        RowError: It begins a line as if a picture or a video stood there, in another way than ``<image>``.
    """
    if mark := _MARK.search(text):
        found = f"the text says {mark[1]!r} as if a picture or a video stood there, and the row has none"
        raise RowError("unread image", found, remedy="Give the picture and write <image>. Videos are not read")


def unread(name: str, value: Any) -> RowError:
    """The error of a column that would be passed over."""
    return RowError(
        "unread image",
        f"column '{name}' looks like a picture or a video and is not read: {value!r:.60}",
        remedy=f"Rename it (rename: {{{name}: images}}), remove it, or put what is only a note under 'facts'. Videos "
        "and sounds are not read yet",
    )


def _holds_something(value: Any) -> bool:
    return not isinstance(value, bool | int | float) and bool(value)
