"""Pictures as rows name them, turned into paths of files."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from PIL import Image, ImageOps

from sightline.data.picture import UNREADABLE, check_mode
from sightline.data.readers.rows import RowError
from sightline.errors import DataError
from sightline.files import replace_file
from sightline.pixels import eight_bits

_LONGEST_PATH, _LONGEST_NAME = 4096, 255
"""Of Linux, in bytes."""
_DATA_URL = re.compile(r"data:image/[\w.+-]+(?:;[\w=.+-]+)*;base64,", re.IGNORECASE)
_BASE64 = re.compile(r"\s*(?:/9j/|iVBORw0KGgo|R0lGOD|UklGR|Qk[0-9A-Za-z+/]|SUkqA|TU0AK)[A-Za-z0-9+/\s]+={0,2}\s*")
"""What encoded files of pictures (JPEG, PNG, GIF, WebP, BMP, TIFF) begin with; names of files are shorter."""
_SHORTEST_BASE64 = 64
BESIDE = re.compile(r"file:[^/].*")
"""A picture whose path starts from the folder of its rows, wherever other paths start: both may be moved."""
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


class Pictures:
    """Finds the picture that a row names; writes pictures that live in memory once into a folder.

    A relative path starts from ``image_dir``, or else from the folder of the data file. A file that
    is not there is looked for by its bare name directly in ``image_dir``, but only where that is
    asked for by giving ``image_dir``, and never for two different paths of the same bare name. What
    begins with ``file:`` and no slash (``file:images/a.png``) starts from the folder of the data file in any case.
    """

    def __init__(
        self,
        *,
        image_dir: str | None,
        data_dir: str | None,
        cache_dir: Path | None,
        must_exist: bool,
        fetched: Callable[[str], str] | None = None,
        unfetched: Mapping[str, str] | None = None,
    ) -> None:
        """
        Args:
            image_dir: Folder that relative paths start from; None: ``data_dir``.
            data_dir: Folder of the data file; None: rows that have none.
            cache_dir: Where pictures that live in memory are written, named by their content.
            must_exist: False: a missing file is not looked for.
            fetched: Path of the picture at an address (http, https); None: addresses are refused.
            unfetched: Why the picture at an address could not be fetched.
        """
        self.image_dir, self.data_dir, self.cache_dir, self.must_exist = image_dir, data_dir, cache_dir, must_exist
        self.found_by_name: dict[str, str] = {}
        """Files found by their bare name, and the path that rows give for each."""
        self.absent: set[str] = set()
        """Where a file was looked for and there was none: one that is put there changes what rows mean."""
        self.fetched, self.unfetched = fetched, unfetched or {}
        self._known: dict[str, str] = {}

    def path(self, value: Any) -> str:
        """Absolute path of one picture.

        Args:
            value: A path, a ``file://`` or ``data:`` address, base64, the bytes of a file, the
                ``{"bytes": ..., "path": ...}`` of the datasets library, or a PIL image.

        Raises:
            RowError: There is no such file, or nowhere to write a picture that lives in memory.
        """
        if isinstance(value, Mapping):
            data = value.get("bytes")
            return self._find(value.get("path")) if data is None else self.path(_as_bytes(data))
        if isinstance(value, bytes):
            return self._keep(value)
        if isinstance(value, Image.Image):
            return self._keep(_as_png(value))
        return self._find(value)

    def exists(self, value: str) -> bool:
        """Whether a file lies where a relative path leads, the bare name not tried."""
        return self._is_there(self._joined(value), os.path.exists)

    def _is_there(self, path: str, test: Callable[[str], bool] = os.path.isfile) -> bool:
        there = test(path)
        if not there:
            self.absent.add(path)
        return there

    def _find(self, value: Any) -> str:
        if not isinstance(value, str | os.PathLike) or not str(value).strip() or "\0" in str(value):
            found = f"a picture is given as {type(value).__name__} {value!r:.60}"
            raise RowError("missing image", found, remedy="Expected a path, bytes, {bytes, path}, or a PIL image")
        given = os.fspath(value)
        if (data := _encoded(given)) is not None:
            return self._keep(data)
        if given not in self._known:
            self._known[given] = self._look_for(given)
        return self._known[given]

    def _look_for(self, given: str) -> str:
        if given.lower().startswith(("http://", "https://")):
            if given in self.unfetched:
                found = f"picture '{given:.200}' could not be fetched ({self.unfetched[given]})"
                raise RowError("missing image", found, remedy="Run the command again, or skip such rows")
            if self.fetched is not None:
                return self.fetched(given)
            remedy = "Fetch such pictures first: sightline data fetch ROWS -o OUT.jsonl"
            raise RowError("missing image", f"picture '{given:.80}' is an address", remedy=remedy)
        if given.lower().startswith("data:"):
            raise RowError("broken image", f"picture '{given:.40}' is no data:image/...;base64,... address")
        if BESIDE.fullmatch(given):
            return self._beside(given)
        if given.lower().startswith("file:"):
            given = _path_of_address(given)
        if len(given) > _LONGEST_PATH or len(Path(given).name.encode(errors="replace")) > _LONGEST_NAME:
            found = f"a picture is given as a text of {len(given)} characters, '{given:.40}...', which no path is"
            raise RowError("missing image", found, remedy="Give its path, or the base64 of a picture file")
        path = self._joined(given)
        if not self.must_exist or self._is_there(path):
            return path
        if self.image_dir is None:
            raise RowError(
                "missing image",
                f"picture '{given}' is missing: looked for {path}",
                remedy="Put the file there, or set image_dir to the folder that its path starts from",
            )
        by_name = str(Path(self.image_dir).absolute() / Path(given).name)
        if not self._is_there(by_name):
            looked = path if path == by_name else f"{path} and {by_name}"
            absent = "" if Path(self.image_dir).is_dir() else f"; image_dir {self.image_dir} is no folder"
            raise RowError(
                "missing image",
                f"picture '{given}' is missing: looked for {looked}{absent}",
                remedy="Put the file there, or set image_dir to the folder that its path starts from",
            )
        first = self.found_by_name.setdefault(by_name, given)
        if first != given:
            raise RowError(
                "missing image",
                f"picture '{given}' is missing, and by its bare name it would be {by_name}, which is already '{first}'",
                remedy="Set image_dir to the folder that the paths start from",
            )
        return by_name

    def _beside(self, given: str) -> str:
        if self.data_dir is None:
            raise RowError(
                "missing image",
                f"picture '{given}' starts from the folder of its rows, and these rows lie in none",
                remedy="Give its path",
            )
        path = os.path.normpath(Path(self.data_dir).absolute() / given.removeprefix("file:"))
        if self.must_exist and not self._is_there(path):
            found = f"picture '{given}' is missing: looked for {path}"
            raise RowError("missing image", found, remedy="Move rows and pictures together, or put the file there")
        return path

    def _joined(self, given: str) -> str:
        base = self.image_dir if self.image_dir is not None else self.data_dir
        if not os.path.isabs(given) and base is None:  # noqa: PTH117
            raise RowError(
                "missing image",
                f"picture '{given}' is a relative path and these rows lie in no folder",
                remedy="Set image_dir to the folder that its path starts from",
            )
        return os.path.normpath(Path(base or "").absolute() / given)

    def _keep(self, data: bytes) -> str:
        """Write the bytes of a picture into the cache folder, unless they are there."""
        if self.cache_dir is None:
            raise RowError(
                "missing image",
                "the row holds its picture in memory",
                remedy="Give a folder that such pictures are written to (cache_dir)",
            )
        name = hashlib.blake2b(data, digest_size=16).hexdigest()
        file = self.cache_dir.absolute() / f"{name}.{_extension(data)}"
        if not file.exists():
            replace_file(file, data)
        return str(file)


def _encoded(given: str) -> bytes | None:
    """The bytes that a text holds as a data address or as base64; None: it is no such text."""
    address = _DATA_URL.match(given)
    if address is None and (len(given) < _SHORTEST_BASE64 or _BASE64.fullmatch(given) is None):
        return None
    text = given[address.end() :] if address else given
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError as error:
        found = f"picture '{given:.40}...' is no base64 ({error})"
        raise RowError("broken image", found, remedy="Encode the file again, or give its path") from error


def _path_of_address(given: str) -> str:
    try:
        parts = urlsplit(given)
        path = unquote(parts.path, errors="strict")
    except ValueError as error:
        raise RowError("missing image", f"picture '{given:.80}' is no address ({error})") from error
    if parts.netloc not in ("", "localhost") or not path.startswith("/") or "\0" in path:
        remedy = "Write file:///folder/picture.png, or the path itself"
        raise RowError("missing image", f"picture '{given:.80}' is no address of a local file", remedy=remedy)
    return path


def _as_bytes(data: Any) -> bytes:
    if isinstance(data, str) and (decoded := _encoded(data)) is not None:
        return decoded
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    raise RowError(
        "broken image",
        f"the bytes of a picture are a {type(data).__name__}, {data!r:.40}",
        remedy="Store the encoded file (PNG, JPEG, ...) as bytes, or as base64",
    )


def _as_png(picture: Image.Image) -> bytes:
    """A picture in memory, upright: PNG files keep no EXIF orientation."""
    buffer = io.BytesIO()
    try:
        upright = ImageOps.exif_transpose(picture)
        storable = upright if upright.mode in _PNG_MODES else eight_bits(_checked(upright))
        storable.save(buffer, format="PNG")
    except DataError:
        raise
    except UNREADABLE as error:  # opened, and read only now
        found = f"the picture in memory cannot be read ({error})"
        raise RowError("broken image", found, remedy="Restore it, or leave the row out") from error
    return buffer.getvalue()


def _checked(picture: Image.Image) -> Image.Image:
    try:
        check_mode(picture)
    except DataError as error:
        raise RowError("broken image", error.found, remedy=error.remedy) from error
    return picture


def _extension(data: bytes) -> str:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return (image.format or "image").lower()
    except UNREADABLE as error:
        raise RowError(
            "broken image",
            f"the {len(data)} bytes of the picture are no image that Pillow can read",
            remedy="Store the encoded file (PNG, JPEG, ...), or leave the row out",
        ) from error
