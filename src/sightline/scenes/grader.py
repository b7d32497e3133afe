"""Reads free text back into objects and holds it against the facts of a scene.

The measures are those of CHAIR (Rohrbach et al. 2018, arXiv:1809.02156) and AMBER (Wang et al. 2023,
arXiv:2311.07397); here they are exact, since the scene is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sightline.scenes.language import NUMBERS, plural
from sightline.scenes.scene import COLOURS, SHAPES, SIZES, Scene

_WORD: Final = re.compile(r"[A-Za-z]+(?:['’][A-Za-z]+)?|\d+|[^\sA-Za-z\d]")
_SYNONYMS: Final = {
    "disc": "circle",
    "disk": "circle",
    "dot": "circle",
    "crescent": "moon",
    "rhombus": "diamond",
    "plus": "cross",
    "lightning": "bolt",
    "teardrop": "drop",
    "raindrop": "drop",
}
_COLOUR_SYNONYMS: Final = {"violet": "purple", "crimson": "red", "golden": "yellow", "gold": "yellow"}
_SIZE_SYNONYMS: Final = {"little": "small", "tiny": "small", "big": "large", "huge": "large"}
_NEGATIONS: Final = frozenset({"no", "not", "zero", "0", "neither", "nor", "without", "never", "none", "cannot"})
_ABSENCE: Final = frozenset({"lack", "lacks", "lacking", "missing", "absent"})
_BREAKS: Final = frozenset({".", ";", ":", "!", "?", "but", "however", "though", "although", "only", "instead"})
_DETERMINERS: Final = frozenset({"a", "an", "the", "some", "there", "i", "it", "its", "one", "another", *NUMBERS[2:]})
_LINKS: Final = frozenset({"is", "are", "that", "which", "was", "looks", "coloured", "colored", "very", "quite"})


def _forms(words: Collection[str], synonyms: dict[str, str]) -> dict[str, str]:
    """Every form of the words and their synonyms, plurals included, to the word."""
    singular = {**{word: word for word in words}, **synonyms}
    return {**singular, **{plural(form): word for form, word in singular.items()}}


_SHAPE_FORMS: Final = _forms(SHAPES, _SYNONYMS)
_COLOUR_WORDS: Final = {**{word: word for word in COLOURS}, **_COLOUR_SYNONYMS}
_SIZE_WORDS: Final = {**{word: word for word in SIZES}, **_SIZE_SYNONYMS}
_NUMBER_WORDS: Final = {**{word: k for k, word in enumerate(NUMBERS)}, "none": 0, "no": 0, "single": 1}


_MANY: Final = 20
"""A mention of more objects than this counts as this many."""


@dataclass(frozen=True, kw_only=True)
class Mention:
    """An object that a text says is there."""

    shape: str
    colour: str | None = None
    size: str | None = None
    number: int = 1
    """``two red stars`` is one mention of two objects."""
    start: int
    """Where it stands in the text, in characters, its adjectives included."""
    end: int


@dataclass(frozen=True)
class _Token:
    text: str
    word: str
    start: int
    end: int


def _tokens(text: str) -> list[_Token]:
    return [
        _Token(match.group(), match.group().lower().replace("’", "'"), match.start(), match.end())
        for match in _WORD.finditer(text)
    ]


def mentions(text: str) -> tuple[Mention, ...]:
    """The objects that ``text`` says are there, in order.

    Knows plurals, a few synonyms, colours and sizes before the noun or after it (``the star is red``), and
    negation: ``no moon``, ``not a star or a ring``, ``the moon is missing`` mention nothing. A negation reaches to
    the end of its clause, or to a comma or "and" with a new article: ``no star, but a ring``, ``no star, a ring``.
    """
    tokens = _tokens(text)
    found = []
    for index, token in enumerate(tokens):
        shape = _SHAPE_FORMS.get(token.word)
        if shape is None or _second_half(tokens, index) or _denied(tokens, index):
            continue
        first = _phrase_start(tokens, index)
        words = [t.word for t in tokens[first:index]] + _predicate(tokens, index)
        last = index + 1 if _second_half(tokens, index + 1) else index
        amount = _amount(tokens[first - 1].word) if first else None
        found.append(
            Mention(
                shape=shape,
                colour=next((_COLOUR_WORDS[w] for w in words if w in _COLOUR_WORDS), None),
                size=next((_SIZE_WORDS[w] for w in words if w in _SIZE_WORDS), None),
                number=amount or 1,
                start=tokens[first].start,
                end=tokens[last].end,
            )
        )
    return tuple(found)


def _second_half(tokens: Sequence[_Token], index: int) -> bool:
    """Whether this noun only ends the one before it, as in ``lightning bolt`` and ``crescent moon``."""
    if not 0 < index < len(tokens):
        return False
    word, before = tokens[index].word, tokens[index - 1].word
    return word in _SHAPE_FORMS and word != before and _SHAPE_FORMS[word] == _SHAPE_FORMS.get(before)


def _phrase_start(tokens: Sequence[_Token], index: int) -> int:
    """Index of the first adjective before the noun at ``index``."""
    first = index
    while first and (tokens[first - 1].word in _COLOUR_WORDS or tokens[first - 1].word in _SIZE_WORDS):
        first -= 1
    return first


def _predicate(tokens: Sequence[_Token], index: int) -> list[str]:
    """Adjectives after the noun: ``the star is red``, ``a star that is small``."""
    words = []
    for token in tokens[index + 1 : index + 6]:
        if token.word in _COLOUR_WORDS or token.word in _SIZE_WORDS:
            words.append(token.word)
        elif token.word not in _LINKS:
            break
    return words


def _negates(word: str) -> bool:
    return word in _NEGATIONS or word in _ABSENCE or word.endswith("n't")


def _denied(tokens: Sequence[_Token], index: int) -> bool:
    """Whether the noun at ``index`` stands under a negation, before it or after it."""
    for position in range(_phrase_start(tokens, index) - 1, -1, -1):
        word = tokens[position].word
        listed_anew = word in {",", "and"} and tokens[position + 1].word in _DETERMINERS
        if word in _BREAKS or listed_anew:
            break
        if _negates(word):
            return True
    for position in range(index + 1, min(index + 4, len(tokens))):
        word = tokens[position].word
        if _negates(word):
            # "The star is not red" says that there is a star.
            linked = word.endswith("n't") or tokens[position - 1].word in _LINKS
            after = tokens[position + 1].word if position + 1 < len(tokens) else ""
            return linked and after not in _COLOUR_WORDS and after not in _SIZE_WORDS
        if word not in _LINKS:
            break
    return False


def word_count(text: str) -> int:
    """Words and numbers of a text, without its punctuation."""
    return sum(token.text[0].isalnum() for token in _tokens(text))


def yes_no(text: str) -> bool | None:
    """The answer to a yes/no question; None where the text gives none. The first of the two words counts."""
    for token in _tokens(text):
        if token.word in {"yes", "yeah", "true", "correct"}:
            return True
        if token.word in {"false", "incorrect"} or _negates(token.word):
            return False
    return None


def number(text: str) -> int | None:
    """The first number of the text, in words or digits; None where there is none."""
    for token in _tokens(text):
        amount = _amount(token.word)
        if amount is not None:
            return amount
    return None


def _amount(word: str) -> int | None:
    # beyond its first digits a number is wrong in any case, and Python turns no more than 4300 into one
    return int(word[:18]) if word.isdecimal() else _NUMBER_WORDS.get(word)


def colour(text: str) -> str | None:
    """The first colour of the text; None where there is none."""
    return next((_COLOUR_WORDS[token.word] for token in _tokens(text) if token.word in _COLOUR_WORDS), None)


@dataclass(frozen=True, kw_only=True)
class CaptionGrade:
    """A caption held against its scene."""

    mentions: tuple[Mention, ...]
    hallucinated: tuple[Mention, ...]
    """Mentions of shapes that are not there."""
    cog: tuple[Mention, ...]
    """Those hallucinated mentions that the co-occurrence prior suggests."""
    repeated: tuple[Mention, ...]
    """Mentions of a shape beyond as many as are there."""
    miscoloured: tuple[Mention, ...]
    """Mentions of a shape that is there, in a colour that it does not have."""
    missed: tuple[str, ...]
    """Shapes that are there and not mentioned, sorted."""
    present: int
    """Distinct shapes that are there."""
    objects: int
    """Objects told rightly or in the wrong colour: each is counted once."""

    @property
    def covered(self) -> int:
        """Distinct shapes that are there and mentioned."""
        return self.present - len(self.missed)


def grade_caption(text: str, scene: Scene, tempting: Collection[str]) -> CaptionGrade:
    """Holds ``text`` against ``scene``; ``tempting`` are the absent shapes that the prior suggests."""
    found = mentions(text)
    hallucinated = tuple(m for m in found if m.shape not in scene.shapes)
    left = Counter((item.shape, item.colour) for item in scene.objects)
    repeated, miscoloured, unmatched, objects = [], [], [], 0
    for mention in (m for m in found if m.shape in scene.shapes for _ in range(min(m.number, _MANY))):
        if mention.colour is not None and left[mention.shape, mention.colour]:
            left[mention.shape, mention.colour] -= 1
            objects += 1
        else:
            unmatched.append(mention)
    # Exact matches are taken first, so that "a red star and a star" of a red and a blue one is right.
    for mention in unmatched:
        other = next((key for key, number in left.items() if number and key[0] == mention.shape), None)
        if other is None:
            repeated.append(mention)
            continue
        left[other] -= 1
        objects += 1
        if mention.colour is not None:
            miscoloured.append(mention)
    told = {mention.shape for mention in found}
    return CaptionGrade(
        mentions=found,
        hallucinated=hallucinated,
        cog=tuple(m for m in hallucinated if m.shape in tempting),
        repeated=tuple(repeated),
        miscoloured=tuple(miscoloured),
        missed=tuple(sorted(scene.shapes - told)),
        present=len(scene.shapes),
        objects=objects,
    )


def grade_answer(text: str, facts: Mapping[str, Any]) -> bool | None:
    """Whether a short answer is right; None where it cannot be read as an answer.

    ``facts`` holds ``kind`` (presence, relation, count or colour) and ``truth`` (yes, no, a number in words,
    a colour).
    """
    truth = facts["truth"]
    if facts["kind"] in ("presence", "relation"):
        said = yes_no(text)
        return None if said is None else said == (truth == "yes")
    if facts["kind"] == "count":
        amount = number(text)
        return None if amount is None else amount == NUMBERS.index(truth)
    told = colour(text)
    return None if told is None else told == truth
