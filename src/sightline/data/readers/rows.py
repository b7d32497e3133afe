"""Raw rows of a data source, each with the place it came from."""

from __future__ import annotations

import codecs
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from sightline.errors import DataError

Reason = Literal[
    "malformed",
    "unknown role",
    "empty prompt",
    "empty answer",
    "no answer",
    "no comparison",
    "no score",
    "chosen equals rejected",
    "placeholders",
    "missing image",
    "broken image",
    "options",
    "too long",
    "control token",
    "unread image",
]
"""Why a row cannot be used: the heading it is counted under."""

REASONS = get_args(Reason)

_LARGEST = 3.4e38


class RowError(DataError):
    """What is wrong with one row, filed under a reason. Whoever reads the rows adds file and row."""

    def __init__(self, reason: Reason, found: str, *, source: str = "", remedy: str = "") -> None:
        super().__init__(found, source=source, remedy=remedy)
        self.reason: Reason = reason


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row as it was found; the text of a JSON line is parsed only by :meth:`record`."""

    file: str
    """File, folder or datasets name."""
    number: int
    """Counted from 1; in a .jsonl file the line."""
    content: bytes | Mapping[str, Any]

    @property
    def source(self) -> str:
        """``file:row``."""
        return f"{self.file}:{self.number}"

    def record(self) -> dict[str, Any]:
        """The columns of the row.

        Raises:
            RowError: The line is not a JSON object in UTF-8, a key stands in it twice, or a text holds half of a
                character.
        """
        content: Any = self.content
        if isinstance(content, bytes):
            content = parse_json(content, "Every line is one JSON object")
        elif isinstance(content, KeyTwice):
            raise _stands_twice(content)
        elif isinstance(content, NotText):
            raise RowError("malformed", f"not UTF-8 text ({content.byte})", remedy="Store texts as UTF-8")
        else:
            check_characters(content)
        if not isinstance(content, Mapping):
            raise RowError("malformed", f"is a {type(content).__name__}, expected an object with named columns")
        return dict(content)


@dataclass(frozen=True)
class KeyTwice:
    """Stands for a JSON object in which a key stands twice: a plain parser keeps the last value in silence."""

    key: str


@dataclass(frozen=True)
class NotText:
    """Stands for a row of a table that cannot be read: a text in it is no UTF-8."""

    byte: str


def parse_json(text: bytes, expected: str, *, whole: bool = True) -> Any:
    """What a line or a file of JSON holds. A list has a :class:`KeyTwice` for each object with a key that stands twice,
    so that its other rows can be read.

    Args:
        text: UTF-8; a byte order mark is passed over.
        expected: The remedy where it is no JSON.
        whole: Refuse half characters. What a model wrote may end in one, and nobody tokenizes it.

    Raises:
        RowError: Not UTF-8, not JSON, nested too deeply, a key stands twice, or a text holds half of a character.
    """
    twice: list[KeyTwice] = []

    def made(pairs: list[tuple[str, Any]]) -> dict[str, Any] | KeyTwice:
        found = dict(pairs)
        if len(found) == len(pairs):
            return found
        counts = Counter(key for key, _ in pairs)
        twice.append(KeyTwice(next(key for key, count in counts.items() if count > 1)))
        return twice[-1]

    try:
        found = json.loads(text.decode("utf-8-sig"), object_pairs_hook=made)
    except UnicodeDecodeError as error:
        before = text.count(b"\n", 0, error.start)
        place = f"byte {text[error.start]:#04x}" + (f" in line {before + 1}" if before else "")
        raise RowError("malformed", f"not UTF-8 text ({place})", remedy="Store the file as UTF-8") from error
    except RecursionError as error:
        raise RowError("malformed", "not JSON (nested too deeply)", remedy=expected) from error
    except ValueError as error:  # JSONDecodeError, or a whole number of thousands of digits
        raise RowError("malformed", f"not JSON ({error})", remedy=expected) from error
    if isinstance(found, list):  # of rows, which are looked at one by one
        return found
    if twice:
        raise _stands_twice(twice[0])
    if whole and b"\\u" in text:  # nothing else makes half a character in UTF-8
        check_characters(found)
    return found


def check_characters(content: Any) -> None:
    """
    Raises:
        RowError: A key or a text holds half of a character (a lone surrogate): an emoji that was cut in two. No
            tokenizer takes it and no file.
    """
    pending: list[tuple[str, Any]] = [("", content)]
    while pending:
        place, value = pending.pop()
        if isinstance(value, str):
            _check_whole(value, place)
        elif isinstance(value, Mapping):
            for key in value:
                _check_whole(key, f"a key of {place}")
            pending += [(f"{place}.{key}" if place else key, inner) for key, inner in value.items()]
        elif isinstance(value, list | tuple):
            pending += [(f"{place}[{i}]", inner) for i, inner in enumerate(value) if not isinstance(inner, int | float)]


def is_finite(value: Any) -> bool:
    """Whether a value is a number, and one that 32 bits hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -_LARGEST <= value <= _LARGEST


def _check_whole(text: Any, place: str) -> None:
    if not isinstance(text, str):
        raise RowError("malformed", f"{place!a} is {text!r:.40}, expected a text", remedy="Keys are texts")
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"half of a character ({text[error.start]!a}), as of an emoji that was cut in two"
        remedy = "Write the whole character, or remove the half"
        raise RowError("malformed", f"{place!a} holds {half}", remedy=remedy) from error


def _stands_twice(twice: KeyTwice) -> RowError:
    return RowError("malformed", f"the key '{twice.key}' stands twice", remedy="Keep one")


def read_rows(path: str, *, split: str = "train", limit: int | None = None) -> Iterator[Row]:
    """The rows of a .json, .jsonl or .parquet file, a folder saved by ``datasets``, or a datasets name.

    Pictures that a parquet file or a dataset embeds come as ``{"bytes": ..., "path": ...}``, undecoded.

    Args:
        path: File, folder, or name on the hub.
        split: Split of a folder or name.
        limit: First rows only.

    Raises:
        DataError: Nothing readable is there.
    """
    return itertools.islice(_all_rows(path, split), limit)


def rows_of(records: Iterable[Mapping[str, Any]], name: str) -> Iterator[Row]:
    """Rows that are already in memory; ``name`` takes the place of the file in messages."""
    for number, record in enumerate(records, start=1):
        yield Row(file=name, number=number, content=record)


def _all_rows(path: str, split: str) -> Iterator[Row]:
    kind = Path(path).suffix.lower()
    if Path(path).is_dir():
        return _intact(lambda: _saved_rows(path, split), path)
    if kind not in (".json", ".jsonl", ".parquet"):
        return rows_of(_hub_dataset(path, split), path)
    if not Path(path).is_file():
        raise DataError("no such file", source=path, remedy="Relative paths start from the working directory")
    if kind == ".parquet":
        return _intact(lambda: rows_of(_parquet_records(path), path), path)
    return _json_rows(path)


def _intact(rows: Callable[[], Iterator[Row]], path: str) -> Iterator[Row]:
    """The rows of a table; damage that is found only on the way through it is told like other faults of data."""
    import pyarrow  # type: ignore[import-untyped]

    try:
        yield from rows()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"is damaged ({error})", source=path, remedy="Restore the file") from error


def _json_rows(path: str) -> Iterator[Row]:
    """Rows of a JSON list, or of JSON lines, whatever the file is called."""
    with Path(path).open("rb") as file:
        start = file.read(4096).removeprefix(codecs.BOM_UTF8).lstrip()
        file.seek(0)
        if start.startswith(b"["):
            yield from rows_of(_listed(file.read(), path), path)
            return
        lines = ((number, line) for number, line in enumerate(file, start=1) if line.strip())
        yield from (Row(file=path, number=number, content=line) for number, line in lines)


def _listed(text: bytes, path: str) -> list[Any]:
    try:
        found: list[Any] = parse_json(text, "Expected a list of objects, or one object on every line")
    except RowError as error:
        raise DataError(error.found, source=path, remedy=error.remedy) from error
    return found


def _parquet_records(path: str) -> Iterator[Any]:
    import pyarrow
    import pyarrow.parquet  # type: ignore[import-untyped]

    try:
        table = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"not a parquet file ({error})", source=path) from error
    for batch in table.iter_batches(batch_size=64):
        try:
            yield from batch.to_pylist()
        except UnicodeDecodeError:  # in one of them
            yield from (_record_of(batch.slice(index, 1)) for index in range(batch.num_rows))


def _record_of(row: Any) -> Any:
    try:
        return row.to_pylist()[0]
    except UnicodeDecodeError as error:
        return NotText(f"byte {error.object[error.start]:#04x}")


def _saved_rows(path: str, split: str) -> Iterator[Row]:
    import datasets

    try:
        loaded = datasets.load_from_disk(path)
    except FileNotFoundError as error:
        raise DataError(
            "is a folder, but not one that datasets saved",
            source=path,
            remedy="Name a .json, .jsonl or .parquet file in it, or a folder written by save_to_disk",
        ) from error
    if isinstance(loaded, datasets.DatasetDict):
        if split not in loaded:
            raise DataError(f"has no split '{split}'", source=path, remedy=f"Set split to one of {', '.join(loaded)}")
        loaded = loaded[split]
    return rows_of(_undecoded(loaded), path)


def _hub_dataset(name: str, split: str) -> Iterable[Mapping[str, Any]]:
    import datasets

    try:
        loaded = datasets.load_dataset(name, split=split)
    except (OSError, ValueError) as error:  # not found, no connection, offline mode, unknown split
        raise DataError(
            f"is no .json, .jsonl or .parquet file, and as a datasets name it cannot be loaded ({error})",
            source=name,
            remedy="Check the name, the split and the connection",
        ) from error
    return _undecoded(loaded)


def _undecoded(dataset: Any) -> Iterable[Mapping[str, Any]]:
    """The dataset with its pictures as the bytes they were stored in."""
    import datasets

    for name, feature in dataset.features.items():
        if isinstance(feature, datasets.Image):
            dataset = dataset.cast_column(name, datasets.Image(decode=False))
        elif isinstance(feature, datasets.List) and isinstance(feature.feature, datasets.Image):
            dataset = dataset.cast_column(name, datasets.List(datasets.Image(decode=False)))
    return dataset
