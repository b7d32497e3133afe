"""A language or vision-language model as a reward, through the judges of the benchmarks."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sightline.errors import DataError
from sightline.evaluation.bench import JudgeReply, JudgeRequest
from sightline.evaluation.judge import JudgeClient, load_judge
from sightline.evaluation.rubric import Rubric, load_rubric
from sightline.evaluation.verdicts import ask_each
from sightline.evaluation.yes_no import cambrian_word, vlmeval_yes_no
from sightline.recipes.terms import JudgeSpec
from sightline.rewards.rules import numbers
from sightline.rewards.terms import Failure, Value, fact, within
from sightline.types import Group, Prompt, Response

_POINTS: Final = r"([-+]?(?:\d+(?:\.\d+)?|(?<![.\w])\.\d+))"
_KEYED: Final = re.compile(rf"""["'](?:(?:overall|final|total)[_ ])?(?:score|rating)["']\s*:\s*["']?{_POINTS}""", re.I)
"""In JSON, whatever its other texts say of scores."""
_LABELLED: Final = re.compile(
    r"(?<!/)(?<!max[_ ])(?<!maximum[_ ])(?<!highest[_ ])(?<!possible )(?<!perfect )"
    rf"(?:score|rating)\b[^\d\n+-]*?(?:-[ \t]+)?{_POINTS}",
    re.IGNORECASE,
)
_OTHER: Final = re.compile(
    r"\s*(?:(?:/|(?:out\s+)?of|to|or)\s*\d|%)|[-–—,]\d|[eE]\d|\s+[-–—]\s+\d+(?:\.\d+)?\s*(?:[.\n]|$)"
)
"""Behind a number: it is one of another scale, or the beginning of a range."""
_ASKED: Final = re.compile(r"[(\[]\s*yes\s*(?:/|or)\s*no\s*[)\]]", re.IGNORECASE)
"""What the question offered, said again."""
_BOTH: Final = re.compile(r"\byes\s*(?:/|\\|and|or)\s*no\b", re.IGNORECASE)
_YES, _NO = "yes", "no"


@dataclass(frozen=True, kw_only=True)
class JudgeTerm:
    """Asks a judge about each answer. What it does not answer, or not with a verdict, is a failure."""

    spec: JudgeSpec
    judge: JudgeClient
    rubric: Rubric
    remote: bool = True

    def check(self, groups: Sequence[Group]) -> None:
        for group in groups:
            for prompt in group.prompts:
                within(group, self._facts, prompt)

    def values(self, groups: Sequence[Group]) -> list[list[Value]]:
        requests = [
            within(group, self._request, group, index, response)
            for group in groups
            for index, response in enumerate(group.responses)
        ]
        rounds = [self._verdicts(requests, sample) for sample in range(self.spec.samples)] if requests else []
        found = iter([_mean(verdicts) for verdicts in zip(*rounds, strict=True)])
        return [[next(found) for _ in group.responses] for group in groups]

    def give_up(self) -> None:
        self.judge.give_up()

    def _verdicts(self, requests: Sequence[JudgeRequest], sample: int) -> list[Value]:
        if self.spec.logprobs:
            return [_probability(reply) for reply in self.judge.ask(requests)]
        attempts = self.spec.attempts
        told = ask_each(
            self.judge, requests, lambda _, reply: self._read(reply), attempts=attempts, first=sample * attempts
        )
        return [Failure(reason=one.problem) if one.verdict is None else one.verdict for one in told]

    def _read(self, reply: str) -> float | None:
        if self.spec.asks == "yes_no":
            return read_yes_no(reply)
        score = read_score(reply, self.spec.lowest, self.spec.highest)
        return None if score is None else (score - self.spec.lowest) / (self.spec.highest - self.spec.lowest)

    def _request(self, group: Group, index: int, response: Response) -> JudgeRequest:
        prompt, spec = group.prompts[response.prompt], self.spec
        values = {
            "question": conversation(prompt),
            "answer": response.text,
            "facts": self._facts(prompt) or "nothing",
            "lowest": f"{spec.lowest:g}",
            "highest": f"{spec.highest:g}",
        }
        return JudgeRequest(
            id=f"{group.id}/{index}",
            messages=self.rubric.messages(values),
            images=prompt.images if spec.pictures else (),
            temperature=spec.temperature,
            max_tokens=1 if spec.logprobs else spec.max_tokens,
            choices=(_YES, _NO) if spec.logprobs else (),
        )

    def _facts(self, prompt: Prompt) -> str:
        told = []
        for key in self.spec.facts:
            value = fact(prompt, key, "what the judge is told")
            told.append(f"{key}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}")
        return "\n".join(told)


def read_score(reply: str, lowest: float, highest: float) -> float | None:
    """The number behind the last ``score`` or ``rating``, or the only number; None where it is out of range, of another
    scale (``4/5`` of 10) or not one number (``7-8``).

    >>> read_score("Two errors. Score: 7/10", 0, 10), read_score("8 out of 10", 0, 10), read_score("3 or 4", 0, 10)
    (7.0, 8.0, None)
    """
    text = _without_scale(reply, highest)
    labelled = list(_KEYED.finditer(text)) or list(_LABELLED.finditer(text))
    if labelled:
        told = [] if _OTHER.match(text, labelled[-1].end()) else numbers(labelled[-1][1])
    else:
        told = [] if "%" in text else numbers(text)
    return told[0] if len(told) == 1 and lowest <= told[0] <= highest else None


def _without_scale(reply: str, highest: float) -> str:
    """A reply without emphasis, and without what it says of the scale itself: ``(0-10)``, ``out of 10``."""
    text, most = re.sub(r"[*`]", "", reply), rf"{highest:g}(?:\.0+)?(?![\d.]*\d)"
    text = re.sub(rf"(?:\bscale\W*(?:of|from)?\W*|[(\[]\s*)\d+\s*(?:-|–|—|to)\s*{most}\s*[)\]]?", "", text, flags=re.I)
    possible = r"(?:a\s+(?:possible|maximum|total)\s+(?:of\s+)?)?"
    text = re.sub(rf"\s*(?:/|(?:out\s+)?of)\s*{possible}{most}", "", text, flags=re.I)
    return text.replace("%", "") if highest == 100 else text


def read_yes_no(reply: str) -> float | None:
    """1 for yes, 0 for no: the first word, or the only one of the two that the reply holds; None for yes and no."""
    reply = _ASKED.sub("", reply)
    if _BOTH.search(reply):
        return None
    first = cambrian_word(reply.replace("*", "")).rstrip("!;")
    word = first if first in (_YES, _NO) else vlmeval_yes_no(reply)
    return {_YES: 1.0, _NO: 0.0}.get(word)


def _probability(reply: JudgeReply) -> Value:
    if reply.text is None:
        return Failure(reason=reply.error or "no reply")
    if reply.probabilities is None:
        return Failure(reason="the judge tells no log-probabilities")
    yes, no = reply.probabilities[_YES], reply.probabilities[_NO]
    if not yes + no:
        return Failure(
            reason=f"neither yes nor no is among the likeliest first tokens, the reply is {reply.text!r:.40}"
        )
    return yes / (yes + no)


def _mean(verdicts: Sequence[Value]) -> Value:
    """Over samples; one that failed fails all: a mean over fewer would be another estimate."""
    failed = next((one for one in verdicts if isinstance(one, Failure)), None)
    return failed or sum(one for one in verdicts if not isinstance(one, Failure)) / len(verdicts)


def conversation(prompt: Prompt) -> str:
    """The question, and what was said before it."""
    if len(prompt.messages) == 1:
        return _told(prompt.messages[0]["content"])
    return "\n".join(f"{message['role']}: {_told(message['content'])}" for message in prompt.messages)


def _told(content: object) -> str:
    if isinstance(content, str):
        return content
    assert isinstance(content, Sequence)
    return "\n".join(part["text"] for part in content if part.get("type") == "text")


def judge(spec: JudgeSpec) -> JudgeTerm:
    """The judge of a recipe.

    Raises:
        DataError: The judge, one of its options or the template cannot be used.
    """
    rubric = load_rubric(f"reward_{spec.asks}", spec.template)
    if spec.facts and "facts" not in rubric.fields:
        raise DataError(
            "the template does not name {{facts}}, and the judge is to be told facts",
            source=rubric.source,
            remedy="Write {{facts}} where they are to stand, or remove the facts of the reward",
        )
    return JudgeTerm(
        spec=spec,
        judge=load_judge(spec.judge, spec.options, cache=None if spec.cache is None else Path(spec.cache)),
        rubric=rubric,
    )
