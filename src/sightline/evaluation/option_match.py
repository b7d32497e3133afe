"""Which option an answer means, as VLMEvalKit finds out: by its own inference, and where that fails by a judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sightline.evaluation.accuracy import Row
from sightline.evaluation.bench import Answer, Judge, JudgeRequest
from sightline.evaluation.choices import vlmeval_option
from sightline.evaluation.rubric import load_rubric

TRIES: Final = 3
"""How often VLMEvalKit asks its judge about one answer."""


@dataclass(frozen=True, kw_only=True)
class OptionMatch:
    """What :func:`match_options` found."""

    letters: Mapping[str, str]
    """By id: a letter, "Z" for none of the options, "" where nobody could tell."""
    notes: tuple[str, ...]
    failures: int
    """Answers about which the judge gave no letter; without a judge 0."""


def match_options(
    rows: Sequence[Row], answers: Sequence[Answer], judge: Judge | None = None, template: str | None = None
) -> OptionMatch:
    """The option of each answer.

    Where the judge gives no letter either, VLMEvalKit draws one at random; here the answer counts as wrong.

    Args:
        rows: [n] questions with options.
        answers: [n] in the same order.
        judge: None: VLMEvalKit's policy of exact matching.
        template: A rubric of one's own.
    """
    pairs = {row.id: (row, answer.text) for row, answer in zip(rows, answers, strict=True)}
    letters = {id: vlmeval_option(text, row.options or {}) for id, (row, text) in pairs.items()}
    open_ids = [id for id, letter in letters.items() if not letter]
    if judge is None:
        note = f"exact matching without a judge: {len(open_ids)} answers named no option and count as wrong"
        return OptionMatch(letters=letters, notes=(note,), failures=0)
    rubric = load_rubric("match_option", template)
    left = open_ids
    for attempt in range(TRIES):
        requests = [_request(*pairs[id], rubric.messages(_values(*pairs[id])), attempt) for id in left]
        for id, reply in zip(left, judge.ask(requests) if requests else [], strict=True):
            letters[id] = vlmeval_option(reply.text or "", pairs[id][0].options or {})
        left = [id for id in left if not letters[id]]
    asked = f"judge {judge.name}, wording {rubric.source}: asked about {len(open_ids)} answers"
    return OptionMatch(letters=letters, notes=(f"{asked}, {len(left)} without a letter",), failures=len(left))


NOTHING: Final = OptionMatch(letters={}, notes=(), failures=0)
"""For protocols that read the letter themselves."""


def _values(row: Row, answer: str) -> dict[str, str]:
    options = "\n".join(f"{letter}. {text}" for letter, text in (row.options or {}).items())
    return {"question": row.text, "options": options, "answer": answer}


def _request(row: Row, answer: str, messages: Sequence[Mapping[str, str]], attempt: int) -> JudgeRequest:
    # VLMEvalKit asks at its client's temperature of 0; trying again only helps with another sample
    temperature = 0.5 if attempt else 0.0
    return JudgeRequest(id=row.id, messages=messages, temperature=temperature, max_tokens=16, attempt=attempt)
