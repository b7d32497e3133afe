"""Control tokens: what a tokenizer takes for a mark (of a turn, a picture, an end) wherever it stands, in texts too."""

from __future__ import annotations

from typing import Any


def control_tokens(tokenizer: Any, *others: str) -> tuple[str, ...]:
    """The control tokens of a tokenizer and ``others``, the longest first: of two that begin alike it counts."""
    added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    found = {*added, *tokenizer.all_special_tokens, *others} - {""}
    return tuple(sorted(found, key=lambda token: (-len(token), token)))
