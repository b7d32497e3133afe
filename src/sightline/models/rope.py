"""Rotary embeddings that depend on the length of what is computed together.

``dynamic`` and ``longrope`` turn all positions of a call otherwise once one sequence in it is longer than the model
was first trained for; then a row's numbers depend on the rows beside it, and a token's on those that come later. Up to
that length they are the same for every sequence, and nothing depends on anything.
"""

from __future__ import annotations

from typing import Any

from sightline.errors import RecipeError


def steady_length(config: Any) -> int | None:
    """Longest sequence, in tokens, whose rotary embedding does not depend on the length; None: any.

    Args:
        config: of a model, with or without a vision part.
    """
    text = config.get_text_config()
    own = getattr(text, "rope_parameters", None) or {}
    kinds = [own, *(value for value in own.values() if isinstance(value, dict))]  # one for all layers, or by type
    limits = []
    for kind in kinds:
        if "dynamic" in str(kind.get("rope_type")):
            limits.append(text.max_position_embeddings)
        elif kind.get("rope_type") == "longrope":
            limits.append(kind["original_max_position_embeddings"])
    return min(limits, default=None)


def check_length(config: Any, length: int, key: str) -> None:
    """
    Args:
        config: of the model.
        length: longest sequence that may come.
        key: of the recipe, that says so.

    Raises:
        RecipeError: numbers would depend on which rows share a micro-batch.
    """
    limit = steady_length(config)
    if limit is not None and length > limit:
        raise RecipeError(
            f"{key} is {length}, and the rotary embedding of this model changes for all rows of a micro-batch once one "
            f"is longer than {limit} tokens, so that numbers would depend on which rows come together. Set {key} to "
            f"{limit} or less"
        )
