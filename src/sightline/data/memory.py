"""Rows that live in memory, written where a run finds them again: JSON lines, with pictures named by their content."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sightline.data.readers.pictures import Pictures
from sightline.data.readers.rows import Row, RowError, Unreadable, rows_of
from sightline.data.readers.sources import undecoded
from sightline.data.schema import group_to_json
from sightline.errors import DataError
from sightline.files import replacing
from sightline.types import Group

Rows = Iterable[Mapping[str, Any] | Group]
"""Rows of any layout that files may have, as dictionaries, or Groups: a list, a ``datasets.Dataset``, a generator.
Pictures are paths, bytes of files, ``{"bytes": ..., "path": ...}`` or PIL pictures."""


def records_of(rows: Rows, name: str) -> Iterator[Mapping[str, Any]]:
    """The columns of each row; pictures of a ``datasets.Dataset`` come as the bytes that they are stored in.

    Raises:
        DataError: What is given is no rows; ``name`` stands for the file.
    """
    pandas = sys.modules.get("pandas")
    if isinstance(rows, str | bytes | Mapping) or (pandas is not None and isinstance(rows, pandas.DataFrame)):
        kind = type(rows).__name__
        hints = {"DatasetDict": "one of its splits", "DataFrame": "its rows: frame.to_dict('records')"}
        remedy = f"Give {hints.get(kind, 'a list of dictionaries')}"
        raise DataError(f"found a {kind}, expected rows", source=name, remedy=remedy)
    if not isinstance(rows, Iterable):
        raise DataError(f"found {rows!r:.60}, expected rows", source=name, remedy="Give a list of dictionaries")
    datasets = sys.modules.get("datasets")  # whoever made a Dataset has imported it
    if datasets is not None and isinstance(rows, datasets.Dataset):
        rows = undecoded(rows)
    return (group_to_json(row) if isinstance(row, Group) else _without_numpy(row) for row in rows)


def _without_numpy(row: Any) -> Any:
    """A row with plain numbers and lists in the place of numpy's; one with an array that looks like a picture cannot
    be read."""
    try:
        return {key: _plain_numbers(value, key) for key, value in row.items()} if isinstance(row, Mapping) else row
    except RowError as error:
        return Unreadable(found=error.found, remedy=error.remedy)


def _plain_numbers(value: Any, where: str) -> Any:
    if isinstance(value, np.ndarray) and value.ndim == 3 and value.dtype == np.uint8:
        found = f"'{where}' is an array of {value.shape}, which looks like a picture"
        raise RowError("malformed", found, remedy="Give a picture: PIL.Image.fromarray(array)")
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {key: _plain_numbers(inner, f"{where}.{key}") for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_numbers(inner, f"{where}[{index}]") for index, inner in enumerate(value)]
    return value


def write_rows(rows: Rows, path: Path, *, name: str = "rows", pictures: Path) -> int:
    """Writes rows as JSON lines, row n in line n. Pictures that live in memory go to a folder, named by their content,
    and rows name them by where they lie beside the file: both may be moved. What is a path stays one.

    Args:
        rows: see :data:`Rows`.
        path: the file; what is there goes.
        name: stands for the file in messages.
        pictures: the folder, that of the file or one in it.

    Returns:
        How many rows were written.

    Raises:
        DataError: a row is none, a picture cannot be read, or a value is nothing that JSON has; names the row.
    """
    kept = Pictures(image_dir=None, data_dir=None, cache_dir=pictures, must_exist=False)
    count = 0

    def keep(picture: Any) -> str:
        return f"file:{Path(kept.path(picture)).relative_to(path.parent.absolute())}"

    with replacing(path) as aside, aside.open("a", encoding="utf-8") as out:
        for row in rows_of(records_of(rows, name), name):
            try:
                plain = {key: _plain(value, key, keep) for key, value in row.record().items()}
                out.write(json.dumps(plain, ensure_ascii=False, allow_nan=False) + "\n")
            except DataError as error:
                raise DataError(error.found, source=_place(row), remedy=error.remedy) from error
            except ValueError as error:  # a number that is not finite
                remedy = "Write None where there is no number"
                raise DataError(f"cannot be written as JSON ({error})", source=_place(row), remedy=remedy) from error
            count += 1
        if not count:
            raise DataError("there are no rows", source=name, remedy="Give some")
    return count


def _place(row: Row) -> str:
    return f"{row.file}, row {row.number} (counted from 1)"


def _plain(value: Any, where: str, keep: Callable[[Any], str]) -> Any:
    """A value as JSON has it, pictures as where they are kept."""
    if isinstance(value, Image.Image | bytes) or (isinstance(value, Mapping) and value.get("bytes") is not None):
        return keep(value)
    if isinstance(value, Mapping):
        if value.keys() == {"bytes", "path"}:
            return value["path"]
        return {key: _plain(inner, f"{where}.{key}", keep) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, f"{where}[{index}]", keep) for index, inner in enumerate(value)]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, str | int | float):
        return value
    found = f"'{where}' is a {type(value).__name__}, {value!r:.60}"
    raise RowError("malformed", found, remedy="Give texts, numbers, lists, dictionaries and pictures alone")
