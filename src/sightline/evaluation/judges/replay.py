"""Replies from a file: grading again, or grading offline, with what a judge once said."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
        for number, row in _rows(path):
            if "id" not in row or not isinstance(row.get("text"), (str, type(None))):
                raise DataError(
                    f"found keys {', '.join(row)}", source=f"{path}:{number}", remedy='Write {"id": ..., "text": ...}'
                )
            judges[str(row.get("judge", "unknown"))] = None
            reply = JudgeReply(text=row.get("text"), error=row.get("error", ""), cut=bool(row.get("cut", False)))
            key = (str(row["id"]), int(row.get("attempt", 0)))
            if reply.text is not None or key not in self._replies:
                self._replies[key] = reply
                self._asked[key] = str(row.get("asked", ""))
        self.name = "+".join(judges) or "unknown"

    def answer(self, requests: Sequence[JudgeRequest], on_reply: OnReply) -> None:
        """See ``judges.base.Backend``."""
        for number, request in enumerate(requests):
            on_reply(number, Outcome(reply=self._stored(request)))

    def _stored(self, request: JudgeRequest) -> JudgeReply:
        key = (request.id, request.attempt)
        if key not in self._replies:
            return JudgeReply(text=None, error="no reply is stored for this request")
        if self._asked[key] not in ("", asked(request)):
            return JudgeReply(text=None, error="the stored reply is to other words: another answer, or another rubric")
        return self._replies[key]


def _rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    try:
        # split("\n"), not splitlines(): a reply may hold other line ends of Unicode
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise DataError(
            f"cannot be read ({error.strerror})", source=str(path), remedy="Give --judge replay:FILE"
        ) from error
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line) if line.strip() else None
        except json.JSONDecodeError as error:
            raise DataError("is no JSON", source=f"{path}:{number}", remedy="One JSON object per line") from error
        if row is not None:
            rows.append((number, row))
    return rows
