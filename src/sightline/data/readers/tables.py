"""Rows of CSV and TSV files: texts in cells, turned into what the columns mean."""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from sightline.data.readers.rows import RowError, Unreadable, parse_json
from sightline.errors import DataError

_STRUCTURED = frozenset(
    {"images", "rejected_images", "conversations", "rejected_conversations", "messages", "rejected_messages", "history"}
    | {"completions", "labels", "prompts", "responses", "edges", "facts", "conversation"}
)
"""Columns that never hold a plain text: a cell that begins like JSON is JSON."""
_CONVERSATIONS = frozenset({"prompt", "chosen", "rejected", "completion", "output_1", "output_2"})
"""Columns that hold a text or messages: a cell is JSON only where it holds messages."""
_TRUE_OR_FALSE = frozenset({"label"})
_NUMBERS = frozenset(
    {"score", "preference", "chosen_score", "rejected_score", "score_chosen", "score_rejected"}
    | {"chosen_rating", "rejected_rating"}
)


def table_rows(lines: Iterable[str], delimiter: str, path: str) -> Iterator[Any]:
    """The rows of a table whose first line names the columns. An empty cell is no value.

    Raises:
        DataError: The first line names a column twice or not at all.
        csv.Error: A quote is not closed.
    """
    csv.field_size_limit(sys.maxsize)  # of the whole process: pictures in base64 are longer than its 131,072
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header = next(reader, [])
    twice = [name for name, count in Counter(header).items() if count > 1 or not name.strip()]
    if twice:
        found = f"the first line names the column '{twice[0]}' {header.count(twice[0])} times"
        remedy = "The first line holds the names of the columns, each once"
        raise DataError(found, source=path, remedy=remedy)
    for cells in reader:
        if cells:
            yield _row(header, cells)


def _row(header: list[str], cells: list[str]) -> Any:
    if len(cells) != len(header):
        found = f"has {len(cells)} cells, expected {len(header)}, one for each column of the first line"
        return Unreadable(found=found, remedy="Quote cells that hold the separator or a line break")
    try:
        return {name: _value(name, cell) for name, cell in zip(header, cells, strict=True) if cell != ""}
    except RowError as error:
        return Unreadable(found=error.found, remedy=error.remedy)


def _value(name: str, cell: str) -> Any:
    start = cell.lstrip()[:1]
    if name in _STRUCTURED and start in ("[", "{"):
        return _parsed(name, cell)
    if name in _CONVERSATIONS and start in ("[", "{") and _holds_messages(cell):
        return _parsed(name, cell)
    if name in _TRUE_OR_FALSE and cell.lower() in ("true", "false"):
        return cell.lower() == "true"
    return _number(cell) if name in _NUMBERS else cell


def _parsed(name: str, cell: str) -> Any:
    try:
        # in a list, so that a key that stands twice is told for a list of messages as well
        return parse_json(b'{"cell": ' + cell.encode(errors="surrogatepass") + b"}", "Write JSON into the cell")["cell"]
    except RowError as error:
        raise RowError("malformed", f"column '{name}': {error.found}", remedy=error.remedy) from error


def _holds_messages(cell: str) -> bool:
    try:
        found = json.loads(cell)
    except (ValueError, RecursionError):
        return False
    messages = found if isinstance(found, list) else [found]
    return bool(messages) and all(isinstance(one, dict) and ({"role", "from"} & one.keys()) for one in messages)


def _number(cell: str) -> Any:
    """The number of a cell; a text that is none stays, and the reader says what it expected."""
    try:
        number = float(cell)
    except ValueError:
        return cell
    return int(number) if number.is_integer() else number
