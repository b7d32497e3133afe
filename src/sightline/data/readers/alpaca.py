"""Rows as Alpaca files write them: ``instruction``, ``input``, ``output``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sightline.data.readers.conversation import Reading
from sightline.data.readers.rows import RowError
from sightline.data.readers.trl import read_trl
from sightline.types import Group

_USED = ("instruction", "input", "output", "history", "system")


def read_alpaca(row: Mapping[str, Any], reading: Reading) -> Group:
    """A Group from ``instruction``, ``input`` (added on a line of its own), and ``output`` or ``chosen`` and
    ``rejected``; before them ``history`` (pairs of question and answer) and ``system``.

    Raises:
        RowError: What is wrong with the row.
    """
    for name in ("prompt", "question", "completion", "messages"):
        if row.get(name) is not None:
            raise RowError("malformed", f"found both 'instruction' and '{name}'", remedy="Remove one of the two")
    parts = [text(row, name) for name in ("instruction", "input")]
    rest = {name: value for name, value in row.items() if name not in _USED}
    rest["prompt"] = conversation(row, "\n".join(part for part in parts if part))
    if row.get("output") is not None:
        if row.get("chosen") is not None:
            raise RowError("malformed", "found both 'output' and 'chosen'", remedy="Remove one of the two columns")
        rest["completion"] = text(row, "output")
    return read_trl(rest, reading)


def conversation(row: Mapping[str, Any], question: str) -> list[dict[str, str]]:
    """The messages before an answer: ``system``, the pairs of ``history``, and the question.

    Raises:
        RowError: ``history`` is no list of pairs of texts.
    """
    system = text(row, "system")
    messages = [{"role": "system", "content": system}] if system else []
    history = row.get("history") if row.get("history") is not None else []
    for pair in history if isinstance(history, list | tuple) else [history]:
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(side, str) for side in pair):
            found = f"'history' holds {pair!r:.60}, expected pairs of a question and an answer"
            raise RowError("malformed", found, remedy="Give a list of [question, answer]")
        messages += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    return [*messages, {"role": "user", "content": question}]


def text(row: Mapping[str, Any], name: str) -> str:
    """A column that holds a text or nothing.

    Raises:
        RowError: It holds something else.
    """
    value = row.get(name)
    if value is not None and not isinstance(value, str):
        raise RowError("malformed", f"'{name}' is {value!r:.60}, expected a text", remedy="Correct or remove it")
    return value or ""
