"""Rules: rewards that are formulas on the answer, its end and a fact. See ``recipes.rewards`` for each."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, Final

from sightline.errors import DataError, RecipeError
from sightline.evaluation.choices import lmms_letter, mmstar_hit, ovip_hit
from sightline.evaluation.vqa import normalize, vqa_score
from sightline.evaluation.yes_no import cambrian_word, pope_yes, vlmeval_yes_no
from sightline.recipes.terms import (
    AnswerSpec,
    ExactSpec,
    FormatSpec,
    LengthSpec,
    MultipleChoiceSpec,
    NoEndSpec,
    NumericSpec,
    OverlongSpec,
    RepetitionSpec,
    SymbolicSpec,
    YesNoSpec,
)
from sightline.rewards.length import overlong_penalty
from sightline.rewards.terms import Rule, Value, fact, wrong_fact
from sightline.types import Prompt, Response

Verdict = Callable[[Prompt, str], float | bool | None]
"""Whether an answer is right, or what share of it; None: it is unread."""


def multiple_choice(spec: MultipleChoiceSpec) -> Rule:
    """The letter of an option against the fact, which is a letter, alone or in brackets."""

    def truth(prompt: Prompt) -> str:
        expected = f"one of the letters {', '.join(spec.letters)}"
        value = fact(prompt, spec.fact, expected)
        letter = value.strip().strip("().").upper() if isinstance(value, str) else ""
        if len(letter) != 1 or letter not in spec.letters:
            raise wrong_fact(prompt, spec.fact, f"{expected}; more of them under 'letters'")
        return letter

    def verdict(prompt: Prompt, text: str) -> bool | None:
        if spec.reader != "lmms":
            return {"mmstar": mmstar_hit, "ovip": ovip_hit}[spec.reader](text, truth(prompt))
        letter = lmms_letter(text, spec.letters)
        return letter == truth(prompt) if letter else None

    return _short(spec, truth, verdict)


def yes_no(spec: YesNoSpec) -> Rule:
    """Yes or no against the fact, alike in both directions."""

    def truth(prompt: Prompt) -> bool:
        value = fact(prompt, spec.fact, "yes or no")
        said = {"yes": True, "no": False}.get(value.strip().lower().rstrip(".")) if isinstance(value, str) else value
        if not isinstance(said, bool):
            raise wrong_fact(prompt, spec.fact, "yes or no, true or false")
        return said

    def verdict(prompt: Prompt, text: str) -> bool | None:
        if spec.reader == "pope":
            return pope_yes(text) == truth(prompt)
        word = cambrian_word(text).rstrip("!;") if spec.reader == "first_word" else vlmeval_yes_no(text)
        return (word == "yes") == truth(prompt) if word in ("yes", "no") else None

    return _short(spec, truth, verdict)


def exact(spec: ExactSpec) -> Rule:
    """The text of the answer against one text or several."""
    same = normalize if spec.normalize == "vqa" else str.strip

    def truth(prompt: Prompt) -> list[str]:
        value = fact(prompt, spec.fact, "a text or a list of texts")
        texts = [value] if isinstance(value, str | int | float) and not isinstance(value, bool) else value
        if not isinstance(texts, list) or not texts or not all(isinstance(one, str | int | float) for one in texts):
            raise wrong_fact(prompt, spec.fact, "a text, or a list of texts that is not empty")
        return [str(one) for one in texts]

    def verdict(prompt: Prompt, text: str) -> float | bool | None:
        if not text.strip():
            return None
        if spec.score == "vqa":
            return vqa_score(text, truth(prompt), same)
        return same(text) in map(same, truth(prompt))

    return _short(spec, truth, verdict)


_NUMBER: Final = re.compile(
    r"(?<![\w.])[-+]?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?", re.ASCII
)


def numbers(text: str) -> list[float]:
    """The numbers of a text: signs, thousands in commas, decimals and exponents; none inside a word.

    >>> numbers("From -3 to 1,250.5 (2e3), not A4.")
    [-3.0, 1250.5, 2000.0]
    """
    found = [match[0].replace(",", "") for match in _NUMBER.finditer(text)]
    return [number for number in map(float, found) if math.isfinite(number)]


def numeric(spec: NumericSpec) -> Rule:
    """The first or last number of the answer against the fact."""

    def truth(prompt: Prompt) -> float:
        value = fact(prompt, spec.fact, "a number")
        if isinstance(value, str):
            told = numbers(value.strip())
            value = told[0] if len(told) == 1 and _NUMBER.fullmatch(value.strip()) else None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise wrong_fact(prompt, spec.fact, "a finite number")
        return float(value)

    def verdict(prompt: Prompt, text: str) -> bool | None:
        said, true = numbers(text), truth(prompt)
        if not said:
            return None
        difference = abs(said[0 if spec.take == "first" else -1] - true)
        return difference <= max(spec.absolute, spec.relative * abs(true))

    return _short(spec, truth, verdict)


def _short(spec: AnswerSpec, truth: Callable[[Prompt], Any], verdict: Verdict) -> Rule:
    tag = re.compile(rf"<{re.escape(spec.within)}>(.*?)</{re.escape(spec.within)}>", re.DOTALL) if spec.within else None

    def judge(prompt: Prompt, response: Response) -> Value:
        truth(prompt)
        told = [response.text] if tag is None else tag.findall(response.text)
        right = verdict(prompt, told[-1]) if told else None
        return spec.unread if right is None else spec.wrong + (spec.right - spec.wrong) * float(right)

    return Rule(judge=judge, reads=truth)


def form(spec: FormatSpec) -> Rule:
    """1 where the whole answer has the form."""
    pattern = re.compile(spec.pattern if spec.pattern is not None else _tagged(spec.tags), re.DOTALL)
    return Rule(judge=lambda _, response: float(pattern.fullmatch(response.text) is not None), reads=_nothing)


def _tagged(tags: tuple[str, ...]) -> str:
    inside = rf"(?:(?!</?(?:{'|'.join(tags)})>).)*"
    return r"\s*" + r"\s*".join(f"<{tag}>{inside}</{tag}>" for tag in tags) + r"\s*"


def length(spec: LengthSpec, max_new_tokens: int | None) -> Rule:
    """``m * length / limit``; LLaVA-RLHF's ``m`` is a fact of the prompt."""
    limit = _limit("length", spec.limit, max_new_tokens)

    def sign(prompt: Prompt) -> float:
        value = prompt.facts.get(spec.fact, 1.0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise wrong_fact(prompt, spec.fact, "a finite number")
        return float(value)

    def judge(prompt: Prompt, response: Response) -> Value:
        measure = {"words": lambda: len(response.text.split()), "characters": lambda: len(response.text)}
        size = measure.get(spec.unit, lambda: _tokens(prompt, response))()
        return sign(prompt) * size / limit

    return Rule(judge=judge, reads=sign)


def repetition(spec: RepetitionSpec) -> Rule:
    """``distinct / all - 1`` over n-grams of words, case ignored."""

    def judge(_: Prompt, response: Response) -> Value:
        words = response.text.lower().split()
        grams = [tuple(words[start : start + spec.n]) for start in range(len(words) - spec.n + 1)]
        return len(set(grams)) / len(grams) - 1 if grams else 0.0

    return Rule(judge=judge, reads=_nothing)


def no_end(spec: NoEndSpec) -> Rule:
    """-1 for an answer that was cut at its limit, or holds one of the texts."""

    def judge(prompt: Prompt, response: Response) -> Value:
        if response.finish_reason is None:
            raise DataError(
                f"an answer to prompt {prompt.id!r} has no 'finish_reason', which the term no_end reads",
                remedy="Sample answers with `sightline sample`, or remove the term",
            )
        return -float(response.finish_reason == "length" or any(text in response.text for text in spec.texts))

    return Rule(judge=judge, reads=_nothing)


def overlong(spec: OverlongSpec, max_new_tokens: int | None) -> Rule:
    """DAPO's soft penalty, equation 13."""
    limit, cache = _limit("overlong", spec.limit, max_new_tokens), spec.cache
    if cache > limit:
        raise RecipeError(
            f"the reward overlong has cache {cache} and limit {limit}. Make cache no larger than the limit."
        )

    def judge(prompt: Prompt, response: Response) -> Value:
        return overlong_penalty(_tokens(prompt, response), limit, cache)

    return Rule(judge=judge, reads=_nothing)


def symbolic(spec: SymbolicSpec) -> Rule:
    """Correctness c of LLaVA-RLHF's reward shaping."""

    def kind(prompt: Prompt) -> int:
        value = fact(prompt, spec.fact, "a whole number from 1 to 7")
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 7:
            raise wrong_fact(prompt, spec.fact, "a whole number from 1 to 7")
        return value

    def judge(prompt: Prompt, response: Response) -> Value:
        number, text = kind(prompt), response.text
        if 2 <= number <= 5:
            option = f"{'ABCD'[number - 2]}."
            return float(text.startswith(option) or f"the correct option is {option}" in text)
        if number == 6 or (number == 7 and spec.both):
            no = 0.5 if number == 6 else -0.5
            return no if text.startswith("No") else -no if text.startswith("Yes") else 0.0
        return 0.0

    return Rule(judge=judge, reads=kind)


def _tokens(prompt: Prompt, response: Response) -> int:
    if response.tokens is None:
        raise DataError(
            f"an answer to prompt {prompt.id!r} has no 'tokens', which the reward counts",
            remedy="Sample answers with `sightline sample`, or measure length with unit: words and a limit",
        )
    return len(response.tokens)


def _limit(name: str, limit: int | None, max_new_tokens: int | None) -> int:
    found = limit or max_new_tokens
    if found is None:
        raise RecipeError(
            f"the reward {name} has no limit, and no sampling sets one here. Add limit: a number of tokens."
        )
    return found


def _nothing(prompt: Prompt) -> None:
    """A rule that needs no fact."""
