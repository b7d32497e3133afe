"""VQA accuracy: an answer against ten human ones, after a normalisation that is part of the metric.

Antol et al. 2015 (arXiv:1505.00468), as the TextVQA evaluator (Singh et al. 2019, Facebook's ``m4c``) computes it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

_MARKS: Final = ';/[]"{}()=+\\_-><@`,?!'
_DIGITS: Final = {
    word: str(number)
    for number, word in enumerate("zero one two three four five six seven eight nine ten".split())  # noqa: SIM905
} | {"none": "0"}
_ARTICLES: Final = frozenset({"a", "an", "the"})
_CONTRACTIONS: Final = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd "
    "he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've "
    "needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've "
    "somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll "
    "that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've "
    "weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've "
    "why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're "
    "you've"
)
"""Restored where one apostrophe is missing: "dont" and "couldn'tve" become "don't" and "couldn't've"."""


def _contraction_table() -> dict[str, str]:
    table = {}
    for word in _CONTRACTIONS.split():
        for place, character in enumerate(word):
            if character == "'":
                table[word[:place] + word[place + 1 :]] = word
    # the published table has this one pair the wrong way round
    return table | {"somebody'd": "somebodyd"}


_RESTORED: Final = _contraction_table()
_COMMA_IN_NUMBER: Final = re.compile(r"\d,\d")
_STOP: Final = re.compile(r"\.(?!\d)")
_LONE_STOP: Final = re.compile(r"(?<!\d)\.(?!\d)")
_MOST_STOPS: Final = 32
"""Both scripts pass re.UNICODE (= 32) where re.sub takes the number of replacements."""


@lru_cache(maxsize=65536)
def normalize(text: str) -> str:
    """An answer as the TextVQA evaluator compares it.

    >>> normalize("The Cat's 1,000 dollars.")
    "cat 's 1000 dollars"
    """
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    # a digit-comma-digit cannot occur any more: the commas are gone
    return _words(_STOP.sub("", _without_marks(text, remove_all=False), count=_MOST_STOPS))


@lru_cache(maxsize=65536)
def normalize_vlmeval(text: str) -> str:
    """The same in VLMEvalKit: commas and 's stay until the marks go, and "1." keeps its full stop."""
    text = text.replace("\n", " ").replace("\t", " ").strip()
    cleaned = _without_marks(text, remove_all=_COMMA_IN_NUMBER.search(text) is not None)
    return _words(_LONE_STOP.sub("", cleaned, count=_MOST_STOPS))


def match_scores(answer: str, humans: Sequence[str], normalizer: Callable[[str], str] = normalize) -> list[float]:
    """For each human answer ``min(1, matches among the others / 3)``, in [0, 1]."""
    said = normalizer(answer)
    normal = [normalizer(human) for human in humans]
    matches = normal.count(said)
    return [min(1.0, (matches - (one == said)) / 3) for one in normal]


def vqa_score(answer: str, humans: Sequence[str], normalizer: Callable[[str], str] = normalize) -> float:
    """Mean of :func:`match_scores`, in [0, 1].

    With ten human answers, 1, 2, 3, 4 matches give 0.3, 0.6, 0.9, 1.
    """
    scores = match_scores(answer, humans, normalizer)
    return sum(scores) / len(scores)


def _without_marks(text: str, *, remove_all: bool) -> str:
    """Each mark is removed everywhere if it stands next to a blank anywhere, else replaced by a blank."""
    out = text
    for mark in _MARKS:
        beside_blank = f"{mark} " in text or f" {mark}" in text
        out = out.replace(mark, "" if remove_all or beside_blank else " ")
    return out


def _words(text: str) -> str:
    digits = (_DIGITS.get(word, word) for word in text.lower().split())
    return " ".join(_RESTORED.get(word, word) for word in digits if word not in _ARTICLES)
