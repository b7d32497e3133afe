"""An answer in sentences."""

from __future__ import annotations

from typing import Final

from sightline.relations.sentence_end import CLOSING, MARKS, ends

_LAST: Final = MARKS + CLOSING
"""With what a sentence may end."""
_SEEN: Final = 200
"""Characters before an end that are looked at: a run of dots without end costs no more than others."""


def sentences(text: str) -> list[str]:
    """Sentences, told as the search of CSR tells them: by a full stop, a question or exclamation mark and what follows,
    or by a line end; abbreviations, decimals and the numbers of a list end none.

    >>> sentences("A dog. It weighs 3.5 kg!\\nIs Dr. No old? Yes")
    ['A dog.', 'It weighs 3.5 kg!', 'Is Dr. No old?', 'Yes']
    """
    cut, start = [], 0
    for place in range(1, len(text)):
        if text[place - 1] in _LAST and ends(text[max(start, place - _SEEN) : place], text[place]):
            cut.append(text[start:place])
            start = place
    return [one.strip() for one in (*cut, text[start:]) if any(map(str.isalnum, one))]
