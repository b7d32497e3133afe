"""Where a sentence ends, told from its text alone: on any tokenizer, with a guard for decimals and abbreviations."""

from __future__ import annotations

import re
from typing import Final

CLOSERS: Final = "\"'”’»)]}*_"
"""What may stand between the mark that ends a sentence and its end."""
CLOSING: Final = CLOSERS + "」』）"
"""The same, with that of scripts without blanks."""
_UNSPACED: Final = "。！？｡"
MARKS: Final = f".!?…।॥؟۔{_UNSPACED}\n"
_END: Final = re.compile(
    rf"[.!?…।॥؟۔]+[{re.escape(CLOSERS)}]*$|[{_UNSPACED}][{re.escape(CLOSING)}]*$|\n$",
)
_LETTERS: Final = re.compile(r"(?:^|[^\w.]|[\d_])(?:(?:[A-Za-z]|Ph|Sc|Ed)\.)+$")
"""``U.S.``, ``e.g.``, ``J.``, ``Ph.D.``; not the end of ``camión.``, whose letters are not all of A to Z."""
_NUMBERED: Final = re.compile(r"\w No\.$")
"""``No. 5``, before its number is there; a sentence of its own is the answer no."""
_NUMBER: Final = re.compile(r"^\W*\d+\.$")
"""Of a list: ``1.``"""
_WORD: Final = re.compile(r"(?<![^\W\d_])([A-Za-z]+)\.$")
_ABBREVIATIONS: Final = re.compile(
    r"(mrs?|ms|dr|prof|st|rev|gen|col|capt|lt|sgt|sen|rep|hon|gov|vs|etc|approx|figs?|vol|dept|est|inc|ltd|co|corp|jr|sr|"
    r"mt|ft|cf|al|jan|feb|mar|apr|jun|jul|aug|sept|oct|nov|dec)",
    re.IGNORECASE,
)
_PRONOUN_I: Final = re.compile(r"\b(?:and|than|am|as) I\.$")


def may_end(text: str) -> bool:
    """Whether a sentence could end here, as far as it is known: what follows decides.

    Args:
        text: of the sentence so far.
    """
    told = text.rstrip(" \t\r")
    if not any(map(str.isalnum, told)) or _NUMBER.search(told.strip()):
        return False
    return bool(_END.search(told)) and not _guarded(told)


def ends(text: str, following: str) -> bool:
    """Whether the sentence ``text`` is over, given what the next token would add to it.

    >>> ends("It weighs 3.", "5"), ends("It weighs 3.", " It"), ends("Dr.", " No"), ends("Is it?", " Yes")
    (False, True, False, True)
    """
    if not may_end(text):
        return False
    if text[-1].isspace() or following[:1].isspace():
        return True
    return text.rstrip(CLOSING)[-1:] in _UNSPACED and following[:1] not in CLOSING + MARKS


def _guarded(told: str) -> bool:
    """A full stop that ends no sentence."""
    if _LETTERS.search(told) or _NUMBERED.search(told):
        return not _PRONOUN_I.search(told)
    word = _WORD.search(told)
    return word is not None and _ABBREVIATIONS.fullmatch(word[1]) is not None
