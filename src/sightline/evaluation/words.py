"""Words of a text with their places, cut as the hallucination benchmarks cut them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple


class Word(NamedTuple):
    """A token and where it stands: ``text[start:end]``."""

    text: str
    start: int
    end: int


_CHUNK: Final = re.compile(r"[^ \t\n\r\f\v]+")
_SEPARATE: Final = re.compile(r"\s|\.{2,}|--|''|`+|[;@#$%&*?!\[\](){}<>\"“”«»‘’„\u2012-\u2015]")
"""Marks that are tokens of their own wherever they stand; and blanks beyond ASCII, where no sentence is sought."""
_COMMA: Final = re.compile(r"[:,](?:\D|$)")
"""A comma or colon is cut off unless a digit follows; the character after it is used up, so of two only one is."""
_OPENING: Final = re.compile(r"(?<!\w)'(?!(?:re|ve|ll|[mtsdn])\b)(?=\w)", re.IGNORECASE)
"""A quotation mark before a word, but no clitic."""
_CLITICS: Final = (re.compile(r"(?<=[^'])'[sSmMdD]$"), re.compile(r"(?<=[^'])(?:'(?:ll|LL|re|RE|ve|VE)|n't|N'T)$"))
_LATE: Final = "*[](){}<>\"”»’-'"
_SENTENCE_END: Final = re.compile(r"[.?!](?=[)\";}\]*:@'({\[‘’“”«»?!]|\s|$)")
"""A mark that ends a sentence: before a blank, or before another mark that cannot be part of a word."""
_REALIGNED: Final = re.compile(r"[\"')\]}‘’“”«»]+$")
"""Closing marks that belong to the sentence before them."""
_LAST_STOP: Final = re.compile(r"(?<!\.)\.(?=[\])}>\"'»”’]*$)")


def treebank_words(text: str) -> list[Word]:
    """Tokens by the Penn Treebank rules, as ``word_tokenize`` of NLTK 3.10 gives them.

    Hyphens, slashes, and commas and colons before a digit do not cut (``cat/dog`` is one token); ``'s`` and ``n't``
    are tokens of their own. A full stop is cut off at the end of a sentence only: ``dog.The``, ``dog.,`` and
    ``dog.?`` keep it. Unlike NLTK this knows no abbreviations, so that ``Mr.`` loses its full stop, and ``cannot`` is
    one token; quotation marks stay as written. (Before 3.10 NLTK did not cut off an opening ``'`` or a long dash.)
    """
    chunks = list(_CHUNK.finditer(text))
    words: list[Word] = []
    for chunk in chunks:
        words += _chunk(chunk.group(), chunk.start(), last=chunk is chunks[-1])
    return words


def as_written(text: str, words: Sequence[Word]) -> list[Word]:
    """Words that were found in the text in lower case, with their places in the text as it is: ``İ`` becomes two
    characters."""
    if len(text.lower()) == len(text):
        return list(words)
    starts = [index for index, character in enumerate(text) for _ in character.lower()]
    ends = [0, *(index + 1 for index in starts)]
    starts.append(len(text))
    return [Word(word.text, starts[word.start], max(starts[word.start], ends[word.end])) for word in words]


def _chunk(chunk: str, offset: int, *, last: bool) -> Iterator[Word]:
    if chunk.isalnum():
        yield Word(chunk, offset, offset + len(chunk))
        return
    start = 0
    for end in sorted({*_cuts(chunk, last=last), len(chunk)}):
        if chunk[start:end].strip():
            late = last if end == len(chunk) else chunk[end] in _LATE
            yield from _piece(chunk[start:end], offset + start, late=late)
        start = end


def _cuts(chunk: str, *, last: bool) -> Iterator[int]:
    """Where tokens begin or end, clitics aside."""
    for mark in _SEPARATE.finditer(chunk):
        yield from mark.span()
    for pattern in (_COMMA, _OPENING):
        for mark in pattern.finditer(chunk):
            yield from (mark.start(), mark.start() + 1)
    for stop in _stops(chunk, last=last):
        yield from (stop, stop + 1)


def _stops(chunk: str, *, last: bool) -> Iterator[int]:
    """Full stops at the end of a sentence. Of several possible ends in a chunk only the last one counts."""
    ends = [mark.end() for mark in _SENTENCE_END.finditer(chunk) if not last or mark.end() < len(chunk)]
    cut = ends[-1] if ends else 0
    if _REALIGNED.fullmatch(chunk, cut):
        cut = len(chunk)
    for start, end in ((0, cut), (cut, len(chunk) if last else cut)):
        if found := _LAST_STOP.search(chunk[start:end]):
            yield start + found.start()


def _piece(piece: str, start: int, *, late: bool) -> Iterator[Word]:
    """A piece without separate marks: a quotation mark at its end comes off, then clitics.

    ``late``: what follows is cut off after quotation marks were; of ``'s'`` only the mark comes off then.
    """
    ends = [len(piece)]
    if piece.endswith("'") and piece not in ("'", "''"):
        ends.append(len(piece) - 1)
    for pattern in _CLITICS[len(ends) - 1 :] if late else _CLITICS:
        if found := pattern.search(piece, 0, ends[-1]):
            ends.append(found.start())
    begin = 0
    for end in reversed(ends):
        yield Word(piece[begin:end], start + begin, start + end)
        begin = end
