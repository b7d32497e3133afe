"""Whether picture files can be read: looked at once, and remembered by path, size and time over runs and sources."""

from __future__ import annotations

import hashlib
import os
import stat
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import PIL
from PIL import Image

from sightline.data.picture import UNREADABLE, check_mode, unreadable
from sightline.data.readers.rows import Reason, RowError
from sightline.errors import DataError
from sightline.files import replacing

_FORMAT = 1
"""Of the files of verdicts; another number makes others."""
_MOST_PARTS = 8
"""Files of verdicts that are read one by one before they become one."""
_ENDS = 4096
"""Bytes at both ends of a file that tell it from others of its size."""

ABSENT = (-1, -1)
"""Stands for size and time where there is no file."""


class Verdict(NamedTuple):
    """What was seen of a picture file."""

    size: int
    time: int
    """Of :func:`stamp`."""
    content: bytes
    """Digest of its size and both its ends: files of equal bytes have equal ones."""
    fault: tuple[Reason, str, str] | None = None
    """Reason, what was found and the remedy; None: it can be read."""


class PictureFiles:
    """Tells whether pictures can be read; every file is looked at once."""

    def __init__(self, known: Mapping[str, Verdict] | None = None) -> None:
        """
        Args:
            known: verdicts of other runs; one holds while size and time of its file are the same.
        """
        self._known = known or {}
        self.seen: dict[str, Verdict] = {}
        """Verdicts by path."""

    def check(self, path: str) -> None:
        """
        Raises:
            RowError: No such file, no picture, or only part of one.
        """
        fault = self.verdict(path).fault
        if fault is not None:
            reason, found, remedy = fault
            raise RowError(reason, found, remedy=remedy)

    def verdict(self, path: str) -> Verdict:
        """What is to be said of a file."""
        if path not in self.seen:
            self.seen[path] = self.remembered(path) or look_at(path)
        return self.seen[path]

    def remembered(self, path: str) -> Verdict | None:
        """What another run saw of the file as it is now."""
        known = self._known.get(path)
        return known if known is not None and known[:2] == stamp(path) else None

    def fresh(self) -> dict[str, Verdict]:
        """Verdicts of this run that no other has given; of missing files there are none."""
        return {
            path: verdict
            for path, verdict in self.seen.items()
            if verdict[:2] != ABSENT and self._known.get(path) != verdict
        }


def stamp(path: str) -> tuple[int, int]:
    """Size of a file and the sum of the times, in nanoseconds, at which its content and its entry last changed.

    Copies that keep the first time (``cp -p``, ``rsync -t``, unpacked archives) have another second one.
    """
    try:
        found = os.stat(path)  # noqa: PTH116 (a million paths: pathlib is 5x slower)
    except (OSError, ValueError):
        return ABSENT
    return (found.st_size, found.st_mtime_ns + found.st_ctime_ns) if stat.S_ISREG(found.st_mode) else ABSENT


def look_at(path: str) -> Verdict:
    """Looks at a file without decoding it where that is enough."""
    size, time = stamp(path)
    fault = _fault(path)
    content = b"" if (size, time) == ABSENT else content_digest(path, size)
    return Verdict(size, time, content, fault)


def content_digest(path: str, size: int) -> bytes:
    """Of a file's size and both its ends; of its path where it cannot be read."""
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            digest.update(file.read(_ENDS))
            if size > _ENDS:
                file.seek(max(_ENDS, size - _ENDS))
                digest.update(file.read(_ENDS))
    except OSError:
        digest.update(os.fsencode(path))
    return digest.digest()


def _fault(path: str) -> tuple[Reason, str, str] | None:
    """What is wrong with a picture file, if anything: the reason, what was found, the remedy."""
    try:
        if not _is_whole(path):
            with Image.open(path) as image:
                image.load()
    except FileNotFoundError:
        return "missing image", f"picture {path} is missing", "Put the file there, or leave the row out"
    except DataError as error:
        return "broken image", f"{path}: {error.found}", f"{error.remedy}, or leave the row out"
    except UNREADABLE as error:
        told = unreadable(path, error)
        return "broken image", told.found, told.remedy
    return None


def _is_whole(path: str) -> bool:
    """Whether a picture is seen to be whole without decoding it, which is much slower.

    A cut-off JPEG lacks its end marker; the chunks of a PNG carry check sums. False settles nothing.
    """
    with Image.open(path) as image:
        check_mode(image)
        if image.format == "JPEG":
            return _ends_as_jpeg(path)
        if image.format != "PNG":
            return False
        try:
            image.verify()
        except (OSError, SyntaxError, ValueError):
            return False
    return True


def _ends_as_jpeg(path: str) -> bool:
    with Path(path).open("rb") as file:
        file.seek(-2, os.SEEK_END)
        return file.read() == b"\xff\xd9"


# --- over runs ------------------------------------------------------------------------------------


class Verdicts:
    """Verdicts on disk: every run adds a file, and many files become one. Runs may add at the same time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / f"pictures-{_FORMAT}-{PIL.__version__}"

    def load(self) -> dict[str, Verdict]:
        """All of them, by path."""
        parts, known = self._parts(), dict[str, Verdict]()
        for part in parts:
            known |= _read(part)
        if len(parts) > _MOST_PARTS:
            self.add(known)
            for part in parts:
                part.unlink(missing_ok=True)
        return known

    def add(self, verdicts: Mapping[str, Verdict]) -> None:
        """Keeps some; none: no file."""
        if verdicts:
            _write(self._folder / f"{uuid.uuid4().hex}.arrow", verdicts.items())

    def _parts(self) -> list[Path]:
        """The files, the oldest first."""
        found = []
        for path in self._folder.glob("*.arrow"):
            seen = stamp(str(path))
            found += [(seen[1], path)] if seen != ABSENT else []
        return [path for _, path in sorted(found)]


def _write(path: Path, verdicts: Iterable[tuple[str, Verdict]]) -> None:
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.feather  # type: ignore[import-untyped]

    rows = [(os.fsencode(name), *seen[:3], *(seen.fault or ("", "", ""))) for name, seen in verdicts]
    columns = list(zip(*rows, strict=True))
    texts = [pyarrow.array([_bytes(text) for text in column]) for column in columns[4:]]
    arrays = [pyarrow.array(column) for column in columns[:4]]
    table = pyarrow.table([*arrays, *texts], names=["path", "size", "time", "content", "reason", "found", "remedy"])
    with replacing(path) as aside:
        pyarrow.feather.write_feather(table, str(aside), compression="uncompressed")


def _read(path: Path) -> dict[str, Verdict]:
    import pyarrow
    import pyarrow.feather

    try:
        table = pyarrow.feather.read_table(str(path), memory_map=True)
    except (OSError, pyarrow.ArrowException):  # another run made one file of many meanwhile
        return {}
    found: dict[str, Verdict] = {}
    for batch in table.to_batches(max_chunksize=65536):
        for name, size, time, content, *told in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            reason, what, remedy = (text.decode(errors="surrogatepass") for text in told)
            fault = (reason, what, remedy) if reason else None
            found[os.fsdecode(name)] = Verdict(size, time, content, fault)
    return found


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")
