"""Submitted answers, read in one way whatever file they are in: JSON, JSON lines, parquet, TSV, CSV, .xlsx, or shards.

A row has an id, a text or a whole number, and an answer. An answer is a text; a number is taken as its digits, and an
empty cell of a table is an empty answer. What is null, not a number, a list or a truth value is refused, and so is a
missing column or an id that stands twice; file and row are named.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from sightline.errors import DataError
from sightline.evaluation.bench import Answer
from sightline.evaluation.spreadsheet import read_sheet
from sightline.evaluation.tables import DELIMITERS, KINDS, field, read_cells, read_table

_SUFFIXES: Final = (*KINDS, *DELIMITERS, ".xlsx")
_SAID: Final = ("prediction", "response", "output", "pred", "model_answer", "model_prediction", "model_output")
"""Columns under which tools of many kinds write what a model said."""
_QUOTED: Final = 100
"""Characters of a wrong value that a message quotes."""


def submitted_rows(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """The rows of a submission with where each stands, ``file:row``; a folder holds shards, in order of their names.

    Raises:
        DataError: A file cannot be read, or a folder holds none.
    """
    for file in submitted_files(path):
        yield from _rows(file)


def submitted_files(path: Path) -> list[Path]:
    """The file, or the shards of a folder.

    Raises:
        DataError: The folder holds none.
    """
    if not path.is_dir():
        return [path]
    files = sorted(one for one in path.iterdir() if one.is_file() and one.suffix.lower() in _SUFFIXES)
    if not files:
        kinds = ", ".join(_SUFFIXES)
        raise DataError(f"the folder holds no answers ({kinds})", source=str(path), remedy="Give their file or folder")
    return files


def _rows(file: Path) -> Iterator[tuple[dict[str, Any], str]]:
    kind = file.suffix.lower()
    if kind == ".xlsx":
        yield from ((row, f"{file}:{number}") for number, row in enumerate(read_sheet(file), start=2))
    elif kind in DELIMITERS:
        yield from ((row, f"{file}:{number}") for number, row in enumerate(read_cells(file), start=2))
    else:
        yield from ((row, f"{file}:{number}") for number, row in enumerate(read_table(file), start=1))


def read_answers(
    path: Path,
    key: str | Callable[[Mapping[str, Any], str], str],
    texts: Sequence[str],
    *,
    repeats: bool = False,
) -> list[Answer]:
    """The answers of a submission.

    Args:
        path: File or folder.
        key: Column of the id, or what makes the id of a row and where it stands.
        texts: Columns of the answer: the first of them that a row has.
        repeats: Whether an id may stand in several rows.

    Raises:
        DataError: See the module.
    """
    return answers_of(submitted_rows(path), key, texts, repeats=repeats)


def answers_of(
    rows: Iterable[tuple[dict[str, Any], str]],
    key: str | Callable[[Mapping[str, Any], str], str],
    texts: Sequence[str],
    *,
    repeats: bool = False,
) -> list[Answer]:
    """:func:`read_answers` of rows that are already read."""
    answers: list[Answer] = []
    places: dict[str, str] = {}
    for row, source in rows:
        id = answer_id(row, key, source) if isinstance(key, str) else key(row, source)
        if id in places and not repeats:
            found = f"the id {id!r:.{_QUOTED}} stands in {places[id]} as well: it stands twice"
            raise DataError(found, source=source, remedy="Keep one answer each")
        places[id] = source
        answers.append(Answer(id=id, text=answer_text(row, texts, source)))
    return answers


def answer_id(row: Mapping[str, Any], key: str, source: str) -> str:
    """The id of a submitted row.

    Raises:
        DataError: There is none, or it is neither text nor a whole number.
    """
    id = field(row, key, source)
    if isinstance(id, bool) or not isinstance(id, str | int) or id == "":
        found = f"'{key}' is {id!r:.{_QUOTED}}"
        raise DataError(found, source=source, remedy="An id is a text or a whole number")
    return str(id)


def answer_text(row: Mapping[str, Any], texts: Sequence[str], source: str) -> str:
    """The answer of a submitted row, under the first of ``texts`` that is there; a number is taken as its digits.

    Raises:
        DataError: There is none, it is no text, or another column may be it as well.
    """
    there = [name for name in texts if name in row] or texts
    name = next((name for name in there if row.get(name) is not None), there[0])
    text = field(row, name, source)
    rival = next((one for one in _rivals(row, name) if row.get(one) not in (None, text)), None)
    if rival is not None:
        found = f"'{name}' is {text!r:.{_QUOTED}} and '{rival}' is {row[rival]!r:.{_QUOTED}}"
        raise DataError(found, source=source, remedy=f"Keep the column of the model's answers, as '{name}'")
    number = isinstance(text, int | float) and not isinstance(text, bool) and math.isfinite(text)
    if not isinstance(text, str) and not number:
        found = f"'{name}' is {text!r:.{_QUOTED}}"
        raise DataError(found, source=source, remedy="An answer is a text; no answer is an empty one")
    return str(text)


def _rivals(row: Mapping[str, Any], name: str) -> list[str]:
    """Other columns that may hold what the model said: beside them an ``answer`` may be the true one."""
    named = [*_SAID, "text"] if name == "answer" and ("question" in row or "prompt" in row) else [*_SAID]
    return [one for one in named if one != name] if name in ("answer", *_SAID) else []
