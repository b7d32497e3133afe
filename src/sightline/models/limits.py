"""How far a model reaches: what no row may exceed."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Of one language model."""

    context: int = sys.maxsize
    """Most tokens of a prompt with its answer: positions beyond were never trained."""
    vocabulary: int = sys.maxsize
    """Token ids are below it."""

    @classmethod
    def of(cls, config: Any) -> Limits:
        """Of a model's config, vision-language or text."""
        text = config.get_text_config()
        return cls(context=getattr(text, "max_position_embeddings", None) or sys.maxsize, vocabulary=text.vocab_size)
