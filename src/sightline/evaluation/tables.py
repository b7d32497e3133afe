"""Question files as they are published: JSON, JSON lines, parquet, TSV and CSV, and the pictures that go with them."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from sightline.data.readers.pictures import Pictures
from sightline.data.readers.rows import RowError, read_rows
from sightline.errors import DataError
from sightline.evaluation.bench import Answer, Benchmark
from sightline.evaluation.json_files import LONE_SURROGATES
from sightline.files import replace_file
from sightline.types import Prompt

PICTURE_COLUMNS: Final = ("image", "images")
"""Columns that hold encoded pictures in parquet and TSV files."""
_KINDS: Final = (".json", ".jsonl", ".parquet")
DOWNLOAD_AGAIN: Final = "Download the file again"
"""The remedy where a published file is broken."""
_DELIMITERS: Final = {".tsv": "\t", ".csv": ","}
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
            return found
    raise DataError(
        f"found none of {', '.join(patterns)}", source=f"{bench.name}: {data}", remedy=f"Needed: {bench.needs}"
    )


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
    delimiter = _DELIMITERS.get(path.suffix.lower())
    rows = _records(path) if delimiter is None else _delimited(path, delimiter)
    for row in rows:
        yield row if pictures else {name: _without_picture(name, value, delimiter) for name, value in row.items()}


def read_tables(paths: Iterable[Path], *, pictures: bool = True) -> Iterator[dict[str, Any]]:
    """The rows of several files (shards), one after another."""
    for path in paths:
        yield from read_table(path, pictures=pictures)


def field(row: Mapping[str, Any], name: str, source: str) -> Any:
    """A column that must be there.

    Raises:
        DataError: It is not; names the row and the columns that are.
    """
    if name in row and row[name] is None:
        raise DataError(f"'{name}' is null", source=source, remedy="Fill it in; an empty text is a value")
    if name not in row:
        raise DataError(
            f"has no '{name}'",
            source=source,
            remedy=f"Found {', '.join(map(str, row))}; expected the layout of the official release",
        )
    return row[name]


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
            if (place / name).is_file():
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
        if not value:
            return self.named(name)
        try:
            if not isinstance(value, str):
                return self._embedded.path(value)
            return self._base64(value, str(row.get("index", "")), source)
        except RowError as error:
            raise DataError(error.found, source=source, remedy="Download the file again") from error
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


def read_answers(path: Path, key: str, texts: Sequence[str]) -> list[Answer]:
    """Answers from rows that hold an id under ``key`` and the text under the first of ``texts`` that is there.

    Raises:
        DataError: A row lacks one of them.
    """
    return [
        Answer(id=answer_id(row, key, f"{path}:{number}"), text=answer_text(row, texts, f"{path}:{number}"))
        for number, row in enumerate(read_table(path), start=1)
    ]


def answer_id(row: Mapping[str, Any], key: str, source: str) -> str:
    """The id of a submitted row.

    Raises:
        DataError: There is none, or it is neither text nor a whole number.
    """
    id = field(row, key, source)
    if isinstance(id, bool) or not isinstance(id, str | int):
        raise DataError(f"'{key}' is {id!r}", source=source, remedy="An id is a text or a whole number")
    return str(id)


def answer_text(row: Mapping[str, Any], texts: Sequence[str], source: str) -> str:
    """The answer of a submitted row, under the first of ``texts`` that is there; a number is taken as its digits.

    Raises:
        DataError: There is none, or it is no text.
    """
    there = [name for name in texts if name in row] or texts
    name = next((name for name in there if row.get(name) is not None), there[0])
    text = field(row, name, source)
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        raise DataError(f"'{name}' is {text!r}", source=source, remedy="An answer is a text; no answer is an empty one")
    return str(text)


def _without_picture(name: str, value: Any, delimiter: str | None) -> Any:
    """In a TSV the column of pictures is text as well: base64."""
    encoded = isinstance(value, Mapping | list | bytes) or (isinstance(value, str) and delimiter is not None)
    return {} if name in PICTURE_COLUMNS and encoded else value


def _records(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        raise DataError("no such file", source=str(path), remedy="Correct the path")
    if path.suffix.lower() not in _KINDS:  # a name without one of these would be looked for on the hub
        kinds = ", ".join((*_KINDS, *_DELIMITERS))
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
    except (json.JSONDecodeError, UnicodeDecodeError):  # what is wrong is said where the rows are read
        return None
    return content if isinstance(content, dict) else None


def _delimited(path: Path, delimiter: str) -> Iterator[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", source=str(path), remedy="Correct the path") from error
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # base64 pictures exceed the limit of 131,072
    for row in csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter):
        # an empty cell is a missing value, as pandas reads it
        yield {name: value for name, value in row.items() if name is not None and value not in (None, "")}
