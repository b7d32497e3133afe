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


def tar_records(path: str) -> Iterator[Any]:
    """The rows of a tar (``.tar``, ``.tar.gz``): the columns of ``KEY.json``, texts as columns named by their ending,
    and the pictures. A picture that the JSON names is put in the place of its name; pictures that it does not name are
    ``images``, in the order of their names.

    Raises:
        DataError: It is no tar, or is cut off.
    """
    if Path(path).suffix.lower() == ".zst":
        raise DataError("is a tar compressed with zstd", source=path, remedy="Store it as .tar or .tar.gz")
    try:
        with tarfile.open(path, "r:*") as tar:
            yield from _samples(tar)
    except tarfile.TarError as error:
        raise DataError(f"is no whole tar ({error})", source=path, remedy="Restore the file") from error


def _samples(tar: tarfile.TarFile) -> Iterator[Any]:
    key, files = "", dict[str, bytes]()
    for member in tar:
        if not member.isfile() or PurePosixPath(member.name).name.startswith("."):
            continue
        folder, name = PurePosixPath(member.name).parent, PurePosixPath(member.name).name
        stem, _, ending = name.partition(".")
        if files and str(folder / stem) != key:
            yield _row(key, files)
            files = {}
        key = str(folder / stem)
        content = tar.extractfile(member) if member.size <= _LARGEST else None
        files[ending.lower()] = b"" if content is None else content.read()
    if files:
        yield _row(key, files)


def _row(key: str, files: dict[str, bytes]) -> Any:
    """One row of the files of a key, by their endings."""
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
    return {"id": key, **row, **texts, **_pictures(row, list(pictures.values()))}


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
