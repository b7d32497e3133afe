"""Raw rows of a data source, each with the place it came from."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
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
    content: bytes | Element | Mapping[str, Any]

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
        plain = isinstance(content, Element) and "\\u" not in content.text  # holds no half of a character
        if isinstance(content, Element):
            content = content.parsed()
        if isinstance(content, bytes):
            content = parse_json(content, "Every line is one JSON object")
        elif isinstance(content, KeyTwice):
            raise _stands_twice(content)
        elif isinstance(content, NotText):
            raise RowError("malformed", f"not UTF-8 text ({content.byte})", remedy="Store texts as UTF-8")
        elif isinstance(content, Unreadable):
            raise RowError("malformed", content.found, remedy=content.remedy)
        elif not plain:
            check_characters(content)
        if not isinstance(content, Mapping):
            raise RowError("malformed", f"is a {type(content).__name__}, expected an object with named columns")
        return dict(content)


@dataclass(frozen=True)
class Element:
    """Stands for an element of a JSON list, as text: parsed when its row is looked at."""

    text: str

    def parsed(self) -> Any:
        """Its value, as :func:`parse_json` has it among the others."""
        return _parse(self.text)[0]


@dataclass(frozen=True)
class KeyTwice:
    """Stands for a JSON object in which a key stands twice: a plain parser keeps the last value in silence."""

    key: str


@dataclass(frozen=True)
class NotText:
    """Stands for a row of a table that cannot be read: a text in it is no UTF-8."""

    byte: str


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """Stands for a row that cannot be read, while the rows beside it can."""

    found: str
    remedy: str


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
    try:
        found, twice = _parse(text.decode("utf-8-sig"))
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


def _parse(text: str) -> tuple[Any, list[KeyTwice]]:
    """What a text of JSON holds, with a stand-in for each object in which a key stands twice, and these."""
    twice: list[KeyTwice] = []

    def made(pairs: list[tuple[str, Any]]) -> dict[str, Any] | KeyTwice:
        found = dict(pairs)
        if len(found) == len(pairs):
            return found
        counts = Counter(key for key, _ in pairs)
        twice.append(KeyTwice(next(key for key, count in counts.items() if count > 1)))
        return twice[-1]

    return json.loads(text, object_pairs_hook=made), twice


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


def rows_of(records: Iterable[Mapping[str, Any]], name: str) -> Iterator[Row]:
    """Rows that are already in memory; ``name`` takes the place of the file in messages."""
    for number, record in enumerate(records, start=1):
        yield Row(file=name, number=number, content=record)
