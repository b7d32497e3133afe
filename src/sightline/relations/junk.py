"""Sentences that are no language: what CSR's release throws away before it scores."""

from __future__ import annotations

import re
from typing import Final

LEAST: Final = 4
"""Characters of a sentence."""
_RULES: Final = (
    ("korean", r"[\u1100-\u11ff\u3130-\u318f\uac00-\ud7af]"),
    ("japanese", r"[\u3040-\u30ff]"),
    ("cyrillic", r"[\u0400-\u04ff]"),
    ("emoji", r"[\u2600-\u27bf\U0001f1e6-\U0001f1ff\U0001f300-\U0001faff]"),
    ("nbsp", r"(?:&nbsp;\s*){2}"),
    ("repeated word", r"\b(\w+)(?:\W+\1\b){5}"),
    ("repeated character", r"(\S)(?:\s*\1){10}"),
    ("run", r"t{4}|s{4}|(?:,\s*){3}|[\"'`“”‘’]{3}"),
    ("line ends", r"(?:[^\n]*\n){6}"),
)
_COMPILED: Final = tuple((name, re.compile(rule, re.IGNORECASE)) for name, rule in _RULES)


def junk(text: str) -> str | None:
    """Name of the first rule that a sentence breaks; None: it is kept.

    Args:
        text: of the sentence, blanks at both ends included.

    >>> junk("There is a red red red red red red ball."), junk("A ball."), junk("A.")
    ('repeated word', None, 'short')
    """
    for name, rule in _COMPILED:
        if rule.search(text):
            return name
    return "short" if len(plain(text)) < LEAST or not any(map(str.isalnum, text)) else None


def plain(text: str) -> str:
    """What of a sentence is held against the picture: words and common punctuation.

    >>> plain("A *red* ball → here.")
    'A red ball here.'
    """
    return " ".join(re.sub(r"[^\w\s.,;:!?'\"()%$/&+-]", "", text).split())
