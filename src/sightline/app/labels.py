"""Labels given by a person: which of some answers is the best, or what the answer should have been.

Every label is a preference Group, on the disk before the next question is shown. A session that was killed goes on
where it was: what the file of labels holds is not asked again.
"""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from sightline.data.identity import made_from
from sightline.data.schema import append_groups, complete_lines, lines_of, read_groups
from sightline.errors import DataError
from sightline.files import replace_file
from sightline.types import Edge, Group, Response

SUFFIX: Final = ".labels.jsonl"
MOST: Final = 9
"""Answers that are shown: a key each."""


class Passed(DataError):
    """What a page judged is not asked any more."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A group to be judged."""

    group: Group
    answers: tuple[int, ...]
    """Places of its distinct answers, in the order they are shown: drawn from the id of the group, so that neither
    place nor file tells which model wrote one, and that a session that goes on shows the same."""

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(self.group.responses[place].text for place in self.answers)


@dataclass(kw_only=True)
class Labels:
    """One session of labelling, shared by all pages that show it."""

    source: Path
    out: Path
    questions: Sequence[Question]
    passed: int
    """Groups with nothing to choose from: fewer than two distinct answers, or several prompts."""
    done: list[str]
    """Ids of labelled groups, in their order."""
    size: int = 0
    """Bytes of the file of labels, as this session left it."""
    skipped: list[str] = field(default_factory=list)
    """Ids that were passed over in this session: they come again when all others are labelled."""
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def now(self) -> Question | None:
        """What is to be judged next; None: all are labelled."""
        done, later = set(self.done), set(self.skipped)
        left = [question for question in self.questions if question.group.id not in done]
        fresh = [question for question in left if question.group.id not in later]
        if not fresh and left:
            order = {id: place for place, id in enumerate(self.skipped)}
            fresh = sorted(left, key=lambda question: order[question.group.id])
        return fresh[0] if fresh else None

    def choose(self, id: str, place: int) -> None:
        """The answer that is shown at ``place`` is better than every other one.

        Raises:
            DataError: ``id`` is not the question of now (``Passed``), or has no such answer.
        """
        with self.lock:
            question = self._asked(id)
            if not 0 <= place < len(question.answers):
                raise DataError(f"there is no answer {place + 1}", remedy=f"Choose 1 to {len(question.answers)}")
            responses = tuple(question.group.responses[index] for index in question.answers)
            others = [index for index in range(len(responses)) if index != place]
            self._write(question, responses, [(place, index) for index in others])

    def correct(self, id: str, place: int, text: str) -> None:
        """A text of the labeller is better than the answer shown at ``place``, which it corrects.

        Raises:
            DataError: as :meth:`choose`; or the text is empty, or says what the answer says.
        """
        with self.lock:
            question = self._asked(id)
            if not 0 <= place < len(question.answers):
                raise DataError(f"there is no answer {place + 1}", remedy=f"Correct 1 to {len(question.answers)}")
            wrong = question.group.responses[question.answers[place]]
            if not text.strip():
                raise DataError("the correction is empty", remedy="Write what the answer should have been")
            if text.split() == wrong.text.split():
                raise DataError("the correction says what the answer says", remedy="Change it, or choose the answer")
            self._write(question, (Response(text=text.strip()), wrong), [(0, 1)])

    def skip(self, id: str) -> None:
        """Passes a question over. Nothing is written.

        Raises:
            DataError: ``id`` is not the question of now.
        """
        with self.lock:
            self._asked(id)
            if id in self.skipped:
                self.skipped.remove(id)
            self.skipped.append(id)

    def check_asked(self, id: str) -> None:
        """
        Raises:
            Passed: ``id`` is not the question of now; "": that all are labelled.
        """
        question = self.now()
        if id != ("" if question is None else question.group.id):
            raise Passed(
                f"{id or 'that all are labelled'} is not what is asked now: another page went on, or it was sent twice",
                remedy="Nothing was written. Look at the question that the page shows now",
            )

    def undo(self, id: str) -> str | None:
        """Takes the last label back, in the file too; its question is asked again.

        Args:
            id: Of the question of now: who sees another one does not know what is taken back. "": all are labelled.

        Returns:
            The id of what was labelled; None: there is no label.

        Raises:
            Passed: something else is asked now.
        """
        with self.lock:
            self.check_asked(id)
            if not self.done:
                return None
            self._check_unchanged()
            lines = [line for line, _ in lines_of(self.out)]
            replace_file(self.out, b"".join(lines[:-1]))
            self.size = size_of(self.out)
            id = self.done.pop()
            if id in self.skipped:
                self.skipped.remove(id)
            return id

    def _asked(self, id: str) -> Question:
        self.check_asked(id)
        question = self.now()
        if question is None:
            raise Passed("all are labelled", remedy="There is nothing to judge")
        return question

    def _write(self, question: Question, responses: tuple[Response, ...], pairs: list[tuple[int, int]]) -> None:
        edges = tuple(Edge(winner=winner, loser=loser) for winner, loser in pairs)
        self._check_unchanged()
        append_groups(self.out, [replace(question.group, responses=responses, edges=edges)])
        self.size = size_of(self.out)
        self.done.append(question.group.id)
        if question.group.id in self.skipped:
            self.skipped.remove(question.group.id)

    def _check_unchanged(self) -> None:
        if size_of(self.out) != self.size:
            raise DataError(
                "was changed by another program since it was opened, so nothing was written",
                source=str(self.out),
                remedy="Open the file again: what it holds now is not asked again",
            )


def size_of(path: Path) -> int:
    """Bytes of a file; 0 where there is none."""
    return path.stat().st_size if path.is_file() else 0


def open_labels(source: Path, out: Path) -> Labels:
    """The session of a Group file, from its beginning or from where its labels end.

    Raises:
        DataError: nothing in it to choose from, an id twice, or labels of other rows.
    """
    if out.resolve() == source.resolve():
        raise DataError("labels would be written into the file that is labelled", source=str(out), remedy="Rename it")
    groups = list(read_groups(source))
    by_id: dict[str, Group] = {}
    for group in groups:
        if group.id in by_id:
            raise DataError(f"the id {group.id!r} stands twice", source=str(source), remedy="Give each row its own")
        by_id[group.id] = group
    questions = [question for group in groups if (question := _question(group)) is not None]
    if not questions:
        raise DataError(
            f"none of {len(groups)} groups has two different answers to one prompt",
            source=str(source),
            remedy="Sample several: sightline sample MODEL PROMPTS -n 2 -o FILE",
        )
    _labelled(out, source, by_id, growing=True)  # before anything is cut off: it may be no file of labels
    complete_lines(out)
    done = _labelled(out, source, by_id)
    passed = len(groups) - len(questions)
    return Labels(source=source, out=out, questions=questions, passed=passed, done=done, size=size_of(out))


def _labelled(out: Path, source: Path, by_id: Mapping[str, Group], *, growing: bool = False) -> list[str]:
    """Ids of the rows that a file of labels holds."""
    done = []
    for group in read_groups(out, growing=growing) if out.is_file() else ():
        asked = by_id.get(group.id)
        if asked is None or made_from(asked, answers=False) != made_from(group, answers=False):
            raise DataError(
                f"holds a label of {group.id!r}, which is no row of {source.name}, or was another one",
                source=str(out),
                remedy="Name another file for the labels, or label the file that it belongs to",
            )
        done.append(group.id)
    return done


def _question(group: Group) -> Question | None:
    if len(group.prompts) > 1:
        return None
    texts: dict[str, int] = {}
    for place, response in enumerate(group.responses):
        if response.text.strip() and response.finish_reason != "error":
            texts.setdefault(" ".join(response.text.split()), place)
    places = list(texts.values())[:MOST]
    if len(places) < 2:
        return None
    random.Random(hashlib.sha256(group.id.encode("utf-8", "surrogatepass")).digest()).shuffle(places)
    return Question(group=group, answers=tuple(places))
