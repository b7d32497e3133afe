"""Rows of WebDataset tars: files that share a name up to its first dot are one row."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from sightline.data.readers.rows import RowError, Unreadable, parse_json
from sightline.errors import DataError

_PICTURES = frozenset({"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "jfif", "avif"})
_TEXTS = frozenset({"txt", "text", "cls"})
_LARGEST = 1 << 30
"""Bytes of one file in a tar: more is damage, or no picture."""
_MOVING = frozenset({"mp4", "avi", "mov", "mkv", "webm", "mpg", "mpeg", "m4v", "wav", "mp3", "flac", "ogg", "m4a"})
_CHUNK = 1 << 20


def tar_records(path: str) -> Iterator[Any]:
    """The rows of a tar (``.tar``, ``.tar.gz``): the columns of ``KEY.json``, texts as columns named by their ending,
    and the pictures. A picture that the JSON names is put in the place of its name; pictures that it does not name are
    ``images``, in the order of their names. Of a file of any other kind its name is a column.

    Raises:
        DataError: It is no tar, or is cut off; or something stands behind its end, or a row in two places.
    """
    if Path(path).suffix.lower() == ".zst":
        raise DataError("is a tar compressed with zstd", source=path, remedy="Store it as .tar or .tar.gz")
    try:
        with tarfile.open(path, "r:*") as tar:
            yield from _samples(tar, path)
            _check_end(tar, path)
    except tarfile.TarError as error:
        found = f"is no whole tar ({str(error).splitlines()[-1].strip('- ')})"
        raise DataError(found, source=path, remedy="Restore the file") from error


def _samples(tar: tarfile.TarFile, path: str) -> Iterator[Any]:
    key, files, done = "", dict[str, bytes | None](), set[str]()
    twice = ""
    for member in tar:
        folder, name = PurePosixPath(member.name).parent, PurePosixPath(member.name).name
        if not (member.isfile() or member.islnk() or member.issym()) or name.startswith("."):
            continue
        stem, _, ending = name.partition(".")
        if files and str(folder / stem) != key:
            yield _row(key, files, twice)
            done.add(key)
            files, twice = {}, ""
        key = str(folder / stem)
        if key in done:  # each of its parts would be a row, and the pictures of one part lost to the other
            found = f"files of '{key}' stand in two places of it, with files of other rows between them"
            raise DataError(found, source=path, remedy="Write the files of a row behind each other (tar --sort=name)")
        twice = twice or (ending if ending.lower() in files else "")
        files[ending.lower()] = _content(tar, member)
    if files:
        yield _row(key, files, twice)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | None:
    """The bytes of a file, or of the one that a link leads to; None: a link that leads to none in the tar."""
    if member.size > _LARGEST:
        return b""
    try:
        content = tar.extractfile(member)
    except KeyError:
        content = None
    return None if content is None else content.read()


def _check_end(tar: tarfile.TarFile, path: str) -> None:
    """A tar ends with blocks of zeros, and nothing behind them: ``tarfile`` takes any end for one.

    Raises:
        DataError: It is cut off between two files, or another tar stands behind it.
    """
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    rest = tar.fileobj.read(tarfile.BLOCKSIZE)
    if len(rest) < tarfile.BLOCKSIZE:
        raise DataError("is no whole tar (it has no end mark: it is cut off)", source=path, remedy="Restore the file")
    while rest:
        if rest.strip(b"\0"):
            found = "is no whole tar (something stands behind its end: another tar, or damage)"
            raise DataError(found, source=path, remedy="Join tars with tar --concatenate, or restore the file")
        rest = tar.fileobj.read(_CHUNK)


def _row(key: str, stored: dict[str, bytes | None], twice: str) -> Any:
    """One row of the files of a key, by their endings."""
    if twice:
        return Unreadable(found=f"'{key}.{twice}' stands in the tar twice", remedy="Keep one of the two")
    if lost := [ending for ending, data in stored.items() if data is None]:
        return Unreadable(found=f"'{key}.{lost[0]}' is a link to no file of the tar", remedy="Store the file itself")
    if moving := [ending for ending in stored if ending.rpartition(".")[2] in _MOVING]:
        return Unreadable(
            found=f"'{key}.{moving[0]}' is a video or a sound, which are not read yet", remedy="Leave the row out"
        )
    files = {ending: data for ending, data in stored.items() if data is not None}
    try:
        row: dict[str, Any] = parse_json(files["json"], "KEY.json holds one object") if "json" in files else {}
        texts = {ending: data.decode() for ending, data in files.items() if ending in _TEXTS}
    except RowError as error:
        return Unreadable(found=f"{key}.json: {error.found}", remedy=error.remedy)
    except UnicodeDecodeError:
        return Unreadable(found=f"a text of {key} is not UTF-8", remedy="Store texts as UTF-8")
    if not isinstance(row, dict) or row.keys() & texts.keys():
        found = f"{key}.json holds no object, or a column that stands beside it as a file too"
        return Unreadable(found=found, remedy="KEY.json holds one object with the columns of the row")
    pictures = {
        ending: {"bytes": data, "path": f"{PurePosixPath(key).name}.{ending}"}
        for ending, data in sorted(files.items())
        if ending.rpartition(".")[2] in _PICTURES
    }
    known = {"json", *texts, *pictures}
    others = {ending: f"{PurePosixPath(key).name}.{ending}" for ending in sorted(files.keys() - known)}
    return {"id": key, **others, **row, **texts, **_pictures(row, list(pictures.values()))}


def _pictures(row: dict[str, Any], pictures: list[dict[str, Any]]) -> dict[str, Any]:
    """The columns of a row that hold its pictures."""
    column = next((name for name in ("images", "image") if row.get(name) is not None), None)
    if column is None or not pictures:
        return {"images": pictures} if pictures else {}
    named = row[column] if isinstance(row[column], list) else [row[column]]
    if len(named) == 1 and len(pictures) == 1:
        return {column: pictures}
    by_name = {picture["path"]: picture for picture in pictures}
    found = [by_name.get(PurePosixPath(name).name, name) if isinstance(name, str) else name for name in named]
    return {column: found}
