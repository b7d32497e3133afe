"""An answer in sentences."""

from __future__ import annotations

import re


def sentences(text: str) -> list[str]:
    """Sentences: what stands between a full stop, a question or exclamation mark before a blank, or a line end.

    >>> sentences("A dog. It weighs 3.5 kg!\\nIs it old? Yes")
    ['A dog.', 'It weighs 3.5 kg!', 'Is it old?', 'Yes']
    """
    cut = re.split(r"(?<=[.!?])\s+|\n+", text)
    return [one.strip() for one in cut if any(map(str.isalnum, one))]
