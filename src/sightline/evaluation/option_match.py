"""Which option an answer means, as VLMEvalKit finds out: by its own inference, and where that fails by a judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from sightline.errors import DataError
from sightline.evaluation.accuracy import Row
from sightline.evaluation.bench import Answer, Judge, JudgeRequest
from sightline.evaluation.choices import vlmeval_option
from sightline.evaluation.rubric import load_rubric
from sightline.evaluation.verdicts import ask_each, need_verdicts, verdict_notes

TRIES: Final = 3
"""How often VLMEvalKit asks its judge about one answer."""


@dataclass(frozen=True, kw_only=True)
class OptionMatch:
    """What :func:`match_options` found."""

    letters: Mapping[str, str]
    """By id: a letter, "Z" for none of the options, "" where nobody could tell."""
    notes: tuple[str, ...]
    failed: Mapping[str, str] = field(default_factory=dict)
    """Ids of the answers about which the judge gave no letter, with why; they are in no figure."""

    @property
    def failures(self) -> int:
        """How many they are; without a judge 0."""
        return len(self.failed)

    def graded(self, rows: Sequence[Row], answers: Sequence[Answer]) -> tuple[list[Row], list[Answer]]:
        """Questions and answers without those that failed."""
        kept = [pair for pair in zip(rows, answers, strict=True) if pair[0].id not in self.failed]
        return [row for row, _ in kept], [answer for _, answer in kept]


def match_options(
    rows: Sequence[Row], answers: Sequence[Answer], judge: Judge | None = None, template: str | None = None
) -> OptionMatch:
    """The option of each answer.

    Where the judge gives no letter either, VLMEvalKit draws one at random; here the answer is left out and counted.

    Args:
        rows: [n] questions with options.
        answers: [n] in the same order.
        judge: None: VLMEvalKit's policy of exact matching.
        template: A rubric of one's own.

    Raises:
        DataError: The judge was asked, and named a letter for none; or there is a template and no judge.
    """
    pairs = {row.id: (row, answer.text) for row, answer in zip(rows, answers, strict=True)}
    letters = {id: vlmeval_option(text, row.options or {}) for id, (row, text) in pairs.items()}
    open_ids = [id for id, letter in letters.items() if not letter]
    if judge is None and template is not None:
        raise DataError("template is given, and no judge that reads it", remedy="Pass --judge, or leave it out")
    if judge is None:
        note = f"exact matching without a judge: {len(open_ids)} answers named no option and count as wrong"
        return OptionMatch(letters=letters, notes=(note,))
    rubric = load_rubric("match_option", template)
    # VLMEvalKit asks at its client's temperature of 0; trying again only helps with another sample
    requests = [JudgeRequest(id=id, messages=rubric.messages(_values(*pairs[id])), max_tokens=None) for id in open_ids]

    def letter(request: JudgeRequest, reply: str) -> str | None:
        return vlmeval_option(reply, pairs[request.id][0].options or {}) or None

    told = ask_each(judge, requests, letter, wanted="letter", attempts=TRIES, warmer=0.5)
    need_verdicts("option match", told)
    letters |= {one.id: one.verdict or "" for one in told}
    failed = {one.id: one.problem for one in told if one.problem}
    asked = f"judge {judge.name}, wording {rubric.source}: asked about {len(open_ids)} answers"
    notes = (f"{asked}, {len(failed)} without a letter", *verdict_notes(told, wanted="letter"))
    return OptionMatch(letters=letters, notes=notes, failed=failed)


NOTHING: Final = OptionMatch(letters={}, notes=())
"""For protocols that read the letter themselves."""


def _values(row: Row, answer: str) -> dict[str, str]:
    options = "\n".join(f"{letter}. {text}" for letter, text in (row.options or {}).items())
    return {"question": row.text, "options": options, "answer": answer}
