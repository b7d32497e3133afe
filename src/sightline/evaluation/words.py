"""Words of a text with their places, cut as the hallucination benchmarks cut them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple


class Word(NamedTuple):
    """A token and where it stands: ``text[start:end]``."""

    text: str
    start: int
    end: int


_SEPARATE: Final = re.compile(r"\.{2,}|--|''|[:,](?!\d)|[;@#$%&*?!\[\](){}<>\"“”«»‘’„`\u2012-\u2015]")
"""Marks that the Treebank rules make tokens of their own wherever they stand."""
_CLITIC: Final = re.compile(r"(?<=.)(?:'(?:s|m|d|ll|re|ve)|n't|')$", re.IGNORECASE)
_CHUNK: Final = re.compile(r"\S+")


def treebank_words(text: str) -> list[Word]:
    """Tokens by the Penn Treebank rules, as NLTK's ``word_tokenize`` gives them.

    Commas and colons before a digit, slashes, hyphens and full stops inside a chunk do not cut (``cat/dog`` is one
    token); ``'s``, ``n't`` and the full stop that ends a chunk are tokens of their own. Unlike NLTK no sentences
    are sought, so an abbreviation in the middle of a sentence loses its full stop; quotation marks stay as written.
    """
    return [word for chunk in _CHUNK.finditer(text) for word in _chunk(chunk.group(), chunk.start())]


def _chunk(chunk: str, offset: int) -> Iterator[Word]:
    end = 0
    for mark in _SEPARATE.finditer(chunk):
        yield from _word(chunk[end : mark.start()], offset + end)
        yield Word(mark.group(), offset + mark.start(), offset + mark.end())
        end = mark.end()
    yield from _word(chunk[end:], offset + end)


def _word(piece: str, start: int) -> Iterator[Word]:
    """A piece without separate marks: a full stop at its end and a clitic come off."""
    stop = len(piece) > 1 and piece.endswith(".")
    body = piece[:-1] if stop else piece
    clitic = _CLITIC.search(body)
    cut = clitic.start() if clitic else len(body)
    for first, last in ((0, cut), (cut, len(body)), (len(body), len(piece))):
        if first < last:
            yield Word(piece[first:last], start + first, start + last)
