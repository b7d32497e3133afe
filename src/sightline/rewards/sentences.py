"""An answer in sentences."""

from __future__ import annotations

from sightline.relations.sentence_end import CLOSING, MARKS, ends


def sentences(text: str) -> list[str]:
    """Sentences, told as the search of CSR tells them: by a full stop, a question or exclamation mark and what follows,
    or by a line end; abbreviations, decimals and the numbers of a list end none.

    >>> sentences("A dog. It weighs 3.5 kg!\\nIs Dr. No old? Yes")
    ['A dog.', 'It weighs 3.5 kg!', 'Is Dr. No old?', 'Yes']
    """
    cut, start = [], 0
    for place in range(1, len(text)):
        if text[place - 1] in (*MARKS, *CLOSING) and ends(text[start:place], text[place]):
            cut.append(text[start:place])
            start = place
    return [one.strip() for one in (*cut, text[start:]) if any(map(str.isalnum, one))]
