"""Pictures in requests: bytes in base64, or paths below a root that cannot be left.

Whatever a request names, what is read is a plain file whose real place is below the root, and what is handed on is a
copy named by its content, which goes when its requests are answered.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import io
import os
import shutil
import stat
import threading
import urllib.parse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from PIL import Image

from sightline.data.picture import FORMATS, UNREADABLE
from sightline.errors import shortened
from sightline.services.batching import Refused
from sightline.services.bounds import Bounds

_DATA: Final = "data:"
_FILE: Final = "file://"


@dataclass(kw_only=True)
class Pictures:
    """Takes the pictures of requests in."""

    scratch: Path
    """Folder for copies."""
    root: Path | None
    """Below which paths may lead; None: pictures come as bytes alone."""
    bounds: Bounds
    _used: dict[Path, int] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """The folder for copies is there while it runs, for this user alone."""
        self.scratch.mkdir(mode=0o700, parents=True)
        try:
            yield
        finally:
            shutil.rmtree(self.scratch, ignore_errors=True)

    @contextlib.contextmanager
    def taken(self, named: Sequence[str]) -> Iterator[tuple[str, ...]]:
        """Paths of copies of what a request names, while it is worked on.

        Raises:
            Refused: 422; the message names the picture by its number.
        """
        if len(named) > self.bounds.pictures:
            raise Refused(422, f"{len(named)} pictures, expected {self.bounds.pictures} at most")
        kept: list[Path] = []
        try:
            for number, name in enumerate(named, start=1):
                kept.append(self._kept(number, name))
            yield tuple(map(str, kept))
        finally:
            self._released(kept)

    def inside(self, path: str) -> Path:
        """The real place of a path below the root, which need not be there yet.

        Raises:
            Refused: 422. It leads elsewhere, or there is no root.
        """
        if self.root is None:
            raise Refused(422, "the service reads and writes no paths; send bytes in base64, or start it with --root")
        if "\0" in path or len(path) > 4096:
            raise Refused(422, "a path holds a NUL character, or is longer than 4096")
        try:
            root = self.root.resolve()
            found = (root / path).resolve()
        except (OSError, ValueError, RuntimeError) as error:  # a circle of links, half a character
            raise Refused(422, f"the path {shortened(repr(path), 80)} cannot be followed") from error
        if found != root and root not in found.parents:
            raise Refused(422, f"the path {shortened(repr(path), 80)} is not below the root of the service")
        return found

    def _kept(self, number: int, name: str) -> Path:
        try:
            content = self._content(name)
            kind = self._kind(content)
        except Refused as refused:
            raise Refused(refused.status, f"picture {number}: {refused.message}") from refused
        path = self.scratch / (hashlib.sha256(content).hexdigest() + FORMATS[kind])
        with self._lock:
            if path not in self._used:
                with path.open("ab") as file:
                    file.truncate(0)
                    file.write(content)
            self._used[path] = self._used.get(path, 0) + 1
        return path

    def _released(self, paths: Sequence[Path]) -> None:
        with self._lock:
            for path in paths:
                self._used[path] -= 1
                if not self._used[path]:
                    del self._used[path]
                    path.unlink(missing_ok=True)

    def _content(self, name: str) -> bytes:
        if name.startswith(_DATA):
            head, _, coded = name.partition(",")
            if not head.endswith(";base64"):
                raise Refused(422, "a data URI is read with ;base64 alone")
            return self._decoded(coded)
        if name.startswith(_FILE):
            return self._file(urllib.parse.unquote(urllib.parse.urlsplit(name).path))
        if name.startswith(("http://", "https://")):
            raise Refused(422, "the service fetches nothing; send the bytes as data:image/png;base64,...")
        with contextlib.suppress(Refused):  # a path may be spelled in the letters of base64, but is no picture then
            content = self._decoded(name)
            self._kind(content)
            return content
        if len(name) > 4096:
            return self._decoded(name)
        return self._file(name)

    def _decoded(self, coded: str) -> bytes:
        if len(coded) * 3 // 4 > self.bounds.picture + 3:
            raise self._too_large()
        try:
            content = base64.b64decode(coded.encode("ascii"), validate=True)
        except (binascii.Error, UnicodeError) as error:
            raise Refused(422, "is no base64") from error
        if len(content) > self.bounds.picture:
            raise self._too_large()
        return content

    def _file(self, name: str) -> bytes:
        """The bytes of a file below the root. What is opened is looked at again: names may change in between."""
        path = self.inside(name)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise Refused(422, f"the path {shortened(repr(name), 80)} cannot be read ({error.strerror})") from error
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise Refused(422, f"the path {shortened(repr(name), 80)} is no file")
            if self.inside(_opened(descriptor, path)) != path:
                raise Refused(422, f"the path {shortened(repr(name), 80)} changed while it was read")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                content = file.read(self.bounds.picture + 1)
        finally:
            os.close(descriptor)
        if len(content) > self.bounds.picture:
            raise self._too_large()
        return content

    def _kind(self, content: bytes) -> str:
        try:
            with Image.open(io.BytesIO(content), formats=tuple(FORMATS)) as picture:
                pixels, kind = picture.width * picture.height, str(picture.format)
        except UNREADABLE as error:
            raise Refused(422, "is no picture that can be read (JPEG, PNG, GIF, WebP, BMP, TIFF)") from error
        if pixels > self.bounds.pixels:
            raise Refused(422, f"has {pixels} pixels, expected {self.bounds.pixels} at most")
        return "JPEG" if kind == "MPO" else kind

    def _too_large(self) -> Refused:
        return Refused(422, f"has more than {self.bounds.picture} bytes")


def _opened(descriptor: int, path: Path) -> str:
    """Where an open file really is; on systems that do not tell, where it was looked for."""
    link = f"/proc/self/fd/{descriptor}"
    return os.readlink(link) if os.path.islink(link) else str(path)  # noqa: PTH114, PTH115 (a name, no path)
