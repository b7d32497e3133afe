"""What a negative picture is to show, in the words of a language model."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sightline.errors import ServiceError
from sightline.evaluation.bench import JudgeRequest
from sightline.evaluation.judge import JudgeClient
from sightline.evaluation.rubric import Rubric
from sightline.evaluation.verdicts import Said, ask
from sightline.negatives.pairs import Lost, Pair
from sightline.recipes.negatives import DescribeSpec
from sightline.rewards.judge import conversation

_LABEL: Final = re.compile(
    r"^(?:(?:sure|certainly|of course|ok(?:ay)?|absolutely)(?: thing)?[!,.:]\s+)?"
    r"(?:here(?: is|'s) .{0,60}?:\s*)?"
    r"(?:(?:the |final )?(?:image |picture |edit(?:ing)? )?"
    r"(?:description|picture|instruction|caption|prompt)\s*[:：]\s*)?",
    re.IGNORECASE,
)
_HEADING: Final = re.compile(r"^\W*(?:image |picture )?(?:description|caption|instruction|prompt)\W*$", re.IGNORECASE)
"""A line above the description."""
_REFUSAL: Final = re.compile(
    r"^(?:unfortunately,? )?(?:i'?m sorry|i am sorry|sorry|i can(?:'|no)t|i(?: a|')m (?:unable|not able)|as an ai)\b",
    re.I,
)
_NOTHING: Final = ("none", "n/a", "nothing", "no description", "not applicable")
_KEYS: Final = ("description", "picture", "instruction", "caption", "prompt", "image")
_QUOTES: Final = {'"': '"', "'": "'", "“": "”", "«": "»", "`": "`"}
_LONGEST: Final = 4000
"""Characters of the longest description: beyond it a model talks to itself."""


@dataclass(frozen=True, kw_only=True)
class Describer:
    """Asks for a description of the picture that shows the rejected answer of each pair."""

    spec: DescribeSpec
    judge: JudgeClient
    rubric: Rubric

    def __call__(self, pairs: Sequence[Pair]) -> list[str | Lost]:
        """
        Raises:
            DataError: the judge refuses all requests (a wrong key, address or model).
        """
        try:
            told = ask(
                self.judge,
                [self._request(pair) for pair in pairs],
                read_description,
                wanted="description",
                attempts=self.spec.attempts,
            )
        except ServiceError as away:
            return [Lost(outcome="undescribed", reason=str(away))] * len(pairs)
        return [_description(one) for one in told]

    def give_up(self) -> None:
        """Called from another thread: nothing is waited for any more."""
        self.judge.give_up()

    def _request(self, pair: Pair) -> JudgeRequest:
        """The picture is to fit the rejected answer, and to contradict the chosen one: OViP's roles."""
        values = {
            "question": conversation(pair.prompt),
            "answer_shown": pair.rejected,
            "answer_denied": pair.chosen,
        }
        return JudgeRequest(
            id=pair.key,
            messages=self.rubric.messages(values),
            temperature=self.spec.temperature,
            max_tokens=self.spec.max_tokens,
        )


def read_description(reply: str) -> str | None:
    """The description that a reply holds: without its label, quotes, marks of code or JSON; None where there is none.

    >>> read_description('**Description:** "A red kite on a beach."'), read_description("I'm sorry, I cannot help.")
    ('A red kite on a beach.', None)
    """
    text = _of_json(reply)
    if text is None:
        lines = [line for line in reply.strip().splitlines() if not line.strip().startswith("```")]
        lines = lines[1:] if lines and _HEADING.match(lines[0]) else lines
        text = " ".join(" ".join(lines).replace("**", "").split())
    text = _LABEL.sub("", text.strip().replace("’", "'"), count=1).strip()
    if len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and text[-1] not in text[1:-1]:
        text = text[1:-1].strip()
    spoken = any(map(str.isalpha, text)) and len(text) <= _LONGEST and text.lower().strip(" .") not in _NOTHING
    return text if spoken and not _REFUSAL.match(text) else None


def _of_json(reply: str) -> str | None:
    found = re.search(r"\{.*\}", reply, re.DOTALL)
    if found is None:
        return None
    try:
        values = json.loads(found[0])
    except (ValueError, RecursionError):
        return None
    return next((values[key] for key in _KEYS if isinstance(values.get(key), str)), None)


def _description(one: Said[str]) -> str | Lost:
    if one.verdict is None:
        return Lost(outcome="undescribed", reason=one.problem)
    whole = one.verdict
    if one.reply.cut and (ends := [match.end() for match in re.finditer(r"[.!?](?=\s)", whole)]):
        return whole[: ends[-1]]  # half a sentence would be painted as one
    return whole
