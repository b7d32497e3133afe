"""Question files as they are published: JSON, JSON lines, parquet, TSV and CSV, and the pictures that go with them."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from sightline.data.readers.pictures import Pictures
from sightline.data.readers.rows import RowError
from sightline.data.readers.sources import read_rows
from sightline.errors import DataError
from sightline.evaluation.bench import Benchmark
from sightline.evaluation.json_files import LONE_SURROGATES
from sightline.files import replace_file
from sightline.types import Prompt

PICTURE_COLUMNS: Final = ("image", "images")
"""Columns that hold encoded pictures in parquet and TSV files."""
KINDS: Final = (".json", ".jsonl", ".parquet")
"""Endings of files of rows."""
_SHOWN: Final = 300
"""Characters of a list of names that a message quotes."""
DOWNLOAD_AGAIN: Final = "Download the file again"
"""The remedy where a published file is broken."""
DELIMITERS: Final = {".tsv": "\t", ".csv": ","}
"""Endings of tables of text, and what stands between their cells."""
_SHARD: Final = re.compile(r"(.*)-(\d{1,6})-of-(\d{1,6})")
_LONGEST_REFERENCE: Final = 64
"""A TSV of VLMEvalKit repeats a picture by the index of the row that holds it: a text this short is an index."""


def find_files(data: Path, patterns: Sequence[str], bench: Benchmark) -> list[Path]:
    """All files that the first fitting pattern matches, in order of their names.

    Args:
        data: The benchmark's folder, or the file itself.
        patterns: Globs below ``data``, the official name first.
        bench: Named in the error, with what it needs.

    Raises:
        DataError: None of the patterns matches a file.
    """
    if data.is_file():
        return [data]
    for pattern in patterns:
        found = sorted(path for path in data.glob(pattern) if path.is_file())
        if found:
            _check_shards(found)
            return found
    raise DataError(
        f"found none of {', '.join(patterns)}", source=f"{bench.name}: {data}", remedy=f"Needed: {bench.needs}"
    )


def _check_shards(paths: Sequence[Path]) -> None:
    """
    Raises:
        DataError: Shards say how many they are (``test-00000-of-00002``), and some are missing.
    """
    places = [match for path in paths if (match := _SHARD.fullmatch(path.stem))]
    for name, total in dict.fromkeys((place[1], place[3]) for place in places):
        there = {int(place[2]) for place in places if (place[1], place[3]) == (name, total)}
        if missing := sorted(set(range(int(total))) - there):
            found = f"{name}-{missing[0]:05}-of-{total} is missing, and others of these {int(total)} files are there"
            raise DataError(found, source=str(paths[0].parent), remedy="Download all of them")


def find_file(data: Path, patterns: Sequence[str], bench: Benchmark) -> Path:
    """The first file that :func:`find_files` finds."""
    return find_files(data, patterns, bench)[0]


def read_table(path: Path, *, pictures: bool = True) -> Iterator[dict[str, Any]]:
    """The rows of a .json (list, or lines), .jsonl, .parquet, .tsv or .csv file.

    Args:
        path: The file.
        pictures: False: encoded pictures become ``{}``, so that grading does not hold them.

    Raises:
        DataError: The file cannot be read; names file and row.
    """
    delimiter = DELIMITERS.get(path.suffix.lower())
    rows = _records(path) if delimiter is None else _delimited(path)
    for row in rows:
        yield row if pictures else {name: _without_picture(name, value, delimiter) for name, value in row.items()}


def read_tables(paths: Iterable[Path], *, pictures: bool = True) -> Iterator[tuple[dict[str, Any], str]]:
    """The rows of several files (shards), one after another, with where each stands: ``file:row``."""
    for path in paths:
        for number, row in enumerate(read_table(path, pictures=pictures), start=1):
            yield row, f"{path}:{number}"


def field(row: Mapping[str, Any], name: str, source: str) -> Any:
    """A column that must be there.

    Raises:
        DataError: It is not; names the row and the columns that are.
    """
    if name in row and row[name] is None:
        raise DataError(f"'{name}' is null", source=source, remedy="Fill it in; an empty text is a value")
    if name not in row:
        raise DataError(
            f"has no '{name:.100}'",
            source=source,
            remedy=f"Found {', '.join(map(str, row))[:_SHOWN]}; expected the layout of the official release",
        )
    return row[name]


def text_field(row: Mapping[str, Any], name: str, source: str) -> str:
    """A text that must be there; a number is taken as its digits.

    Raises:
        DataError: It is not there, or something else.
    """
    value = field(row, name, source)
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(f"'{name}' is {value!r:.100}", source=source, remedy=f"Expected a text. {DOWNLOAD_AGAIN}")
    return str(value)


def texts_field(row: Mapping[str, Any], name: str, source: str) -> list[str]:
    """A list of texts that must be there; numbers are taken as their digits.

    Raises:
        DataError: It is not there, or something else.
    """
    value = field(row, name, source)
    if not isinstance(value, list):
        raise DataError(
            f"'{name}' is {value!r:.100}", source=source, remedy=f"Expected a list of texts. {DOWNLOAD_AGAIN}"
        )
    return [text_field({name: one}, name, source) for one in value]


def optional_text(row: Mapping[str, Any], name: str, source: str) -> str:
    """A text, or nothing where the column is missing or null.

    Raises:
        DataError: It is something else.
    """
    return "" if row.get(name) is None else text_field(row, name, source)


def number_of(id: str) -> int:
    """An id as the number that an official file wants.

    Raises:
        DataError: It is none.
    """
    if not (id.isdecimal() and id.isascii() and len(id) < 19):
        raise DataError(f"the id {id!r:.100} is no number, as the official format wants it")
    return int(id)


def object_of(value: Any, source: str) -> dict[str, Any]:
    """An object of named columns.

    Raises:
        DataError: It is something else.
    """
    if not isinstance(value, dict):
        raise DataError(f"is {value!r:.100}", source=source, remedy=f"Expected an object. {DOWNLOAD_AGAIN}")
    return value


def check_ids(ids: Sequence[str], source: str) -> None:
    """Raises:
    DataError: An id stands twice among the questions.
    """
    if len(set(ids)) < len(ids):
        twice = next(id for id, count in Counter(ids).items() if count > 1)
        raise DataError(f"the id {twice!r:.100} stands twice", source=source, remedy=DOWNLOAD_AGAIN)


class PictureFiles:
    """Paths of the pictures of a benchmark; those that a parquet or TSV file embeds are written to ``data/images``."""

    def __init__(self, data: Path, folders: Sequence[str] = ("images", "image", ".")) -> None:
        """
        Args:
            data: The benchmark's folder, or a file in it.
            folders: Where named pictures may lie below it, the official place first.
        """
        root = data if data.is_dir() or not data.exists() else data.parent
        self._places = [root / folder for folder in folders]
        self._embedded = Pictures(
            image_dir=None, data_dir=str(root), cache_dir=self._places[0].absolute(), must_exist=False
        )
        self._by_index: dict[str, str] = {}

    def named(self, name: str) -> str:
        """The path of a picture by name, where it lies; where it lies nowhere, the official place."""
        for place in self._places:
            if is_file(place / name):
                return str(place / name)
        return str(self._places[0] / name)

    def of_row(self, row: Mapping[str, Any], name: str, source: str) -> str:
        """The picture that a row embeds (parquet, TSV), or names, or that has the given name.

        Raises:
            DataError: The embedded picture is broken or cannot be written.
        """
        value = row.get("image")
        if isinstance(value, str) and Path(value).suffix and len(value) < 260:
            return self.named(value)
        if value is None or value in ("", b"", {}):
            return self.named(name)
        try:
            if not isinstance(value, str):
                return self._embedded.path(value)
            return self._base64(value, str(row.get("index", "")), source)
        except (RowError, TypeError, ValueError) as error:
            found = error.found if isinstance(error, RowError) else f"'image' is no picture ({error})"
            raise DataError(found, source=source, remedy=DOWNLOAD_AGAIN) from error
        except OSError as error:
            raise DataError(
                f"a picture cannot be written ({error.strerror})", source=source, remedy="Make the folder writable"
            ) from error

    def _base64(self, value: str, index: str, source: str) -> str:
        if len(value) <= _LONGEST_REFERENCE:
            if value not in self._by_index:
                raise DataError(f"its picture is that of row {value!r}, which did not come before", source=source)
            return self._by_index[value]
        self._by_index[index] = self._embedded.path({"bytes": base64.b64decode(value)})
        return self._by_index[index]


def is_file(path: Path) -> bool:
    """Whether a file lies there; no name is too odd to be asked for."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, or with a zero byte
        return False


def picture_prompt(id: str, text: str, images: Sequence[str], facts: Mapping[str, Any] | None = None) -> Prompt:
    """One user turn: the pictures, then the text."""
    content = [*({"type": "image"} for _ in images), {"type": "text", "text": text}]
    return Prompt(
        id=id, messages=({"role": "user", "content": content},), images=tuple(images), facts=dict(facts or {})
    )


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """JSON lines, as most answer files are."""
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    replace_file(path, "".join(lines), errors=LONE_SURROGATES)


def _without_picture(name: str, value: Any, delimiter: str | None) -> Any:
    """In a TSV the column of pictures is text as well: base64."""
    encoded = isinstance(value, Mapping | list | bytes) or (isinstance(value, str) and delimiter is not None)
    return {} if name in PICTURE_COLUMNS and encoded else value


def _records(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        raise DataError("no such file", source=str(path), remedy="Correct the path")
    if path.suffix.lower() not in KINDS:  # a name without one of these would be looked for on the hub
        kinds = ", ".join((*KINDS, *DELIMITERS))
        raise DataError(f"is named as none of {kinds}", source=str(path), remedy="Name the file as what it is")
    if path.suffix.lower() == ".json" and (whole := _whole_object(path)) is not None:
        yield whole
        return
    for row in read_rows(str(path)):
        try:
            record = row.record()
        except RowError as error:
            # one object over many lines under the name .jsonl, as an official script writes it
            whole = _whole_object(path) if row.number == 1 else None
            if whole is None:
                raise DataError(error.found, source=row.source, remedy=DOWNLOAD_AGAIN) from error
            yield whole
            return
        yield record


def _whole_object(path: Path) -> dict[str, Any] | None:
    """The object that a .json file is; None where it is a list, or lines of objects."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError):  # what is wrong is said where the rows are read
        return None
    return content if isinstance(content, dict) else None


def read_cells(path: Path) -> list[dict[str, str]]:
    """The rows of a .tsv or .csv file under the names of its first row, empty cells as empty texts.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", source=str(path), remedy="Correct the path") from error
    except UnicodeDecodeError as error:
        found = f"not UTF-8 text (byte 0x{error.object[error.start]:02x})"
        raise DataError(found, source=str(path), remedy="Save the file as UTF-8") from error
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # base64 pictures exceed the limit of 131,072
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=DELIMITERS[path.suffix.lower()])
    try:
        rows = [row for row in reader if row]
    except csv.Error as error:
        raise DataError(f"is no table ({error})", source=f"{path}:{reader.line_num}", remedy=DOWNLOAD_AGAIN) from error
    names = rows[0] if rows else []
    check_columns(names, str(path))
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(names):  # cells would be lost, or stand under another name
            found = f"has {len(row)} cells, and the first row {len(names)}"
            remedy = "Quote cells that hold a tab, a comma or a line end; an empty cell stands as well"
            raise DataError(found, source=f"{path}:{number}", remedy=remedy)
    return [dict(zip(names, row, strict=True)) for row in rows[1:]]


def check_columns(names: Sequence[str], source: str) -> None:
    """Raises:
    DataError: A name stands over two columns of a table.
    """
    if len(set(names)) < len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise DataError(f"two columns are named {twice!r:.100}", source=source, remedy="Keep one")


def _delimited(path: Path) -> Iterator[dict[str, Any]]:
    for row in read_cells(path):
        # an empty cell is a missing value, as pandas reads it
        yield {name: value for name, value in row.items() if value}
