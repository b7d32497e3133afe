"""Stored answers: one JSON line each, appended as they come, so that a killed evaluation goes on where it was."""

from __future__ import annotations

import codecs
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sightline.data.readers.rows import RowError, parse_json
from sightline.errors import CheckpointError, DataError
from sightline.evaluation.bench import Answer, Benchmark
from sightline.evaluation.submissions import answer_id, submitted_files
from sightline.evaluation.tables import DOWNLOAD_AGAIN
from sightline.files import replace_file

SETTINGS_SUFFIX: Final = ".settings.json"


@dataclass(frozen=True, kw_only=True)
class StoredAnswer:
    """An answer with what the harness knows about how it was made."""

    answer: Answer
    tokens: int | None = None
    """Tokens of the answer, end of turn included."""
    cut: bool = False
    """It reached the limit on new tokens."""
    error: str = ""
    """Why the question could not be answered (a broken picture, a prompt that is too long); its text is empty then."""


@dataclass(frozen=True, kw_only=True)
class AnswerFile:
    """The answers of one model to one benchmark, with the settings they were made with beside it."""

    path: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    """All that changes an answer. Going on with other settings would mix two models, and is refused."""

    def start(self, *, overwrite: bool = False) -> list[StoredAnswer]:
        """What is there already; a half-written last line is removed, and so are questions that failed.

        Raises:
            CheckpointError: The file was made with other settings.
            DataError: A line is no answer, or an answer stands twice.
        """
        if overwrite:
            self.path.unlink(missing_ok=True)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            self._check_settings()
            _drop_half_line(self.path)
        replace_file(self._settings_path, json.dumps(self.settings, indent=2) + "\n")
        stored = read_stored(self.path) if self.path.exists() else []
        if any(one.error for one in stored):  # asked again: the picture may be mended
            stored = [one for one in stored if not one.error]
            replace_file(self.path, "".join(map(_line, stored)))
        twice = [id for id, count in Counter(one.answer.id for one in stored).items() if count > 1]
        if twice:
            raise DataError(
                f"{len(twice)} answers stand twice ({twice[0]}): two commands wrote at once",
                source=str(self.path),
                remedy="Run one at a time; pass --overwrite (in Python overwrite=True) to start anew",
            )
        return stored

    def append(self, answers: Iterable[StoredAnswer]) -> None:
        """Writes whole lines and forces them to the disk: what was paid for is kept."""
        lines = "".join(map(_line, answers))
        with self.path.open("a", encoding="utf-8") as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())

    @property
    def _settings_path(self) -> Path:
        return self.path.with_name(self.path.name + SETTINGS_SUFFIX)

    def _check_settings(self) -> None:
        remedy = "Choose another --out, or pass --overwrite (in Python overwrite=True)."
        if not self._settings_path.exists():
            raise CheckpointError(f"{self.path} exists, and {self._settings_path.name} beside it does not. {remedy}")
        try:
            there = json.loads(self._settings_path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{self._settings_path} is no JSON. {remedy}") from error
        if not isinstance(there, dict):
            raise CheckpointError(f"{self._settings_path} is no object of settings. {remedy}")
        here = json.loads(json.dumps(self.settings))
        names = [name for name in {**there, **here} if there.get(name) != here.get(name)]
        if names:
            changes = "; ".join(f"{name}: {there.get(name)} there, {here.get(name)} here" for name in names)
            raise CheckpointError(f"{self.path} was made with other settings ({changes}). {remedy}")


def _line(one: StoredAnswer) -> str:
    told = {"id": one.answer.id, "text": one.answer.text, "tokens": one.tokens, "cut": one.cut}
    return json.dumps({**told, **({"error": one.error} if one.error else {})}) + "\n"


def failed_answers(stored: Iterable[StoredAnswer]) -> dict[str, str]:
    """Ids of the questions that could not be answered, with why."""
    return {one.answer.id: one.error for one in stored if one.error}


def read_stored(path: Path) -> list[StoredAnswer]:
    """Answers with their lengths, where the file has them.

    Raises:
        DataError: A line is no JSON object with ``id`` and ``text``.
    """
    stored = []
    for number, row in _rows(path):
        answer = _answer(row, f"{path}:{number}")
        tokens, error = row.get("tokens"), row.get("error") or ""
        if tokens is not None and (isinstance(tokens, bool) or not isinstance(tokens, int)):
            raise DataError(f"'tokens' is {tokens!r:.100}", source=f"{path}:{number}", remedy="Expected a whole number")
        cut = row.get("cut") is True
        stored.append(StoredAnswer(answer=answer, tokens=tokens, cut=cut, error=str(error)))
    return stored


def read_responses(bench: Benchmark, path: Path) -> list[Answer]:
    """Answers of any origin: our JSON lines, or the benchmark's official submission format.

    Raises:
        DataError: The file is missing, or neither of the two.
    """
    if not path.exists():
        raise DataError("the file does not exist", source=str(path), remedy="Correct the path")
    if path.is_file() and not path.stat().st_size:
        raise DataError("the file is empty", source=str(path), remedy="Answer the benchmark first")
    if _is_ours(path):
        return [stored.answer for file in submitted_files(path) for stored in read_stored(file)]
    try:
        return bench.read_export(path)
    except DataError as error:
        expected = f'Expected lines {{"id": ..., "text": ...}}, or the submission file of {bench.name}'
        own = error.remedy and error.remedy != DOWNLOAD_AGAIN  # answers are not downloaded
        remedy = f"{error.remedy}. {expected}" if own else expected
        raise DataError(error.found, source=error.source, remedy=remedy) from error


def write_answers(path: Path, answers: Sequence[Answer]) -> None:
    """Answers as JSON lines."""
    replace_file(path, "".join(json.dumps({"id": answer.id, "text": answer.text}) + "\n" for answer in answers))


def _is_ours(path: Path) -> bool:
    """Whether the first row has an id and a text; rows are lines, or items of a list, of a file or of the first shard.

    In a table they are no more than another submission.
    """
    try:
        row = next(iter(_values(submitted_files(path)[0])), (0, None))[1]
    except DataError:
        return False
    return isinstance(row, dict) and {"id", "text"} <= set(row)


def _rows(path: Path) -> Iterable[tuple[int, dict[str, Any]]]:
    for number, row in _values(path):
        if not isinstance(row, dict):
            raise DataError("no JSON object", source=f"{path}:{number}", remedy="One JSON object per line")
        yield number, row


def _values(path: Path) -> Iterator[tuple[int, Any]]:
    """The JSON values of the lines, with the numbers of the lines; or the items of the one list that a file is."""
    with path.open("rb") as file:
        head = file.readline().removeprefix(codecs.BOM_UTF8).lstrip()
        file.seek(0)
        if head.startswith(b"["):
            yield from enumerate(_value(file.read(), str(path), "Correct the file"), start=1)
            return
        for number, line in enumerate(file, start=1):
            if line.removeprefix(codecs.BOM_UTF8).strip():
                yield number, _value(line, f"{path}:{number}", "One JSON object per line")


def _value(text: bytes, source: str, expected: str) -> Any:
    try:
        return parse_json(text, expected, whole=False)
    except RowError as error:
        raise DataError(error.found, source=source, remedy=error.remedy) from error


def _answer(row: Mapping[str, Any], source: str) -> Answer:
    remedy = 'Write {"id": ..., "text": "..."}; no answer is an empty text'
    if not {"id", "text"} <= set(row):
        raise DataError(f"found keys {', '.join(row)}"[:200], source=source, remedy=remedy)
    if not isinstance(row["text"], str):
        raise DataError(f"the text is {row['text']!r:.100}", source=source, remedy=remedy)
    return Answer(id=answer_id(row, "id", source), text=row["text"])


def _drop_half_line(path: Path) -> None:
    """A kill in the middle of a write leaves a line without its end."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as file:
            file.truncate(whole)


def read_stored_or_plain(path: Path, answers: Sequence[Answer]) -> list[StoredAnswer]:
    """The answers with their lengths where the file is ours, without otherwise."""
    if not _is_ours(path):
        return [StoredAnswer(answer=answer) for answer in answers]
    return [stored for file in submitted_files(path) for stored in read_stored(file)]
