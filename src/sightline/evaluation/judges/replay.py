"""Replies from a file: grading again, or grading offline, with what a judge once said."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sightline.data.readers.rows import RowError, parse_json
from sightline.errors import DataError
from sightline.evaluation.bench import JudgeReply, JudgeRequest
from sightline.evaluation.judges.base import OnReply, Outcome, asked


class ReplayBackend:
    """Stored replies by request id and attempt: JSON lines ``{"id", "text", "attempt": 0, "judge": "..."}``.

    A request without a stored reply fails, as it does with a judge that is away. The last of several lines for a
    request counts, so that a record with a failure and a later success replays the success. Where a line says what
    was ``asked``, as our records do, its reply counts for these words alone: a judgement of one model's answers is
    none of another's.
    """

    cached = False
    identity = ""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            DataError: The file is missing, or a line is no object with id and text.
        """
        self._replies: dict[tuple[str, int], JudgeReply] = {}
        self._asked: dict[tuple[str, int], str] = {}
        judges: dict[str, None] = {}
        for row, source in _rows(path):
            key, reply = _reply(row, source)
            judges[str(row.get("judge", "unknown"))] = None
            if reply.text is not None or key not in self._replies:
                self._replies[key] = reply
                self._asked[key] = str(row.get("asked", ""))
        self.name = "+".join(judges) or "unknown"

    def answer(self, requests: Sequence[JudgeRequest], on_reply: OnReply) -> None:
        """See ``judges.base.Backend``."""
        for number, request in enumerate(requests):
            on_reply(number, Outcome(reply=self._stored(request)))

    def give_up(self) -> None:
        """It waits for nobody."""

    def _stored(self, request: JudgeRequest) -> JudgeReply:
        key = (request.id, request.attempt)
        if key not in self._replies:
            return JudgeReply(text=None, error="no reply is stored for this request")
        if self._asked[key] not in ("", asked(request)):
            return JudgeReply(text=None, error="the stored reply is to other words: another answer, or another rubric")
        return self._replies[key]


def _reply(row: Mapping[str, Any], source: str) -> tuple[tuple[str, int], JudgeReply]:
    """Request id and attempt of a stored line, and its reply."""
    id, text, attempt = row.get("id"), row.get("text"), row.get("attempt", 0)
    remedy = 'Write {"id": ..., "text": ...}'
    if "id" not in row:
        raise DataError(f"found keys {', '.join(map(str, row))}", source=source, remedy=remedy)
    if isinstance(id, bool) or not isinstance(id, str | int):
        raise DataError(f"the id is {id!r:.100}", source=source, remedy="An id is a text or a whole number")
    if not isinstance(text, str | None):
        raise DataError(f"the text is {text!r:.100}", source=source, remedy="A reply is a text; null where it failed")
    if isinstance(attempt, bool) or not isinstance(attempt, int):
        raise DataError(f"the attempt is {attempt!r:.100}", source=source, remedy="Attempts are counted from 0")
    error, cut, told = row.get("error") or "", row.get("cut", False), row.get("probabilities")
    if told is not None and not _probabilities(told):
        remedy = "They are numbers from 0 to 1 by word"
        raise DataError(f"the probabilities are {told!r:.100}", source=source, remedy=remedy)
    return (str(id), attempt), JudgeReply(text=text, error=str(error), cut=cut is True, probabilities=told)


def _probabilities(told: Any) -> bool:
    """Whether it is what ``JudgeReply.probabilities`` holds."""
    return isinstance(told, dict) and all(
        isinstance(one, int | float) and not isinstance(one, bool) and 0 <= one <= 1.0001 for one in told.values()
    )


def _rows(path: Path) -> Iterator[tuple[Mapping[str, Any], str]]:
    try:
        # split(b"\n"), not splitlines(): a reply may hold other line ends of Unicode
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(
            f"cannot be read ({error.strerror})", source=str(path), remedy="Give --judge replay:FILE"
        ) from error
    for number, line in enumerate(lines, start=1):
        source = f"{path}:{number}"
        if not line.strip():
            continue
        try:
            row = parse_json(line, "One JSON object per line")
        except RowError as error:
            raise DataError(f"is {error.found}", source=source, remedy=error.remedy) from error
        if not isinstance(row, dict):
            raise DataError(f"is a {type(row).__name__}", source=source, remedy="One JSON object per line")
        yield row, source
