"""Conflicts of what is taken of sources and of what is held out of them, each of the options valid by itself."""

from __future__ import annotations

from collections.abc import Iterator

from sightline.recipes.schema import Recipe
from sightline.recipes.source import KeyPath

Conflict = tuple[KeyPath, str]
"""The place, and the message."""


def mixture_conflicts(recipe: Recipe) -> Iterator[Conflict]:
    """All of a recipe's."""
    if recipe.online is not None and recipe.online.prompts.weight != 1:
        text = "prompts come from one source, whose weight says nothing. Remove weight."
        yield ("online", "prompts", "weight"), text
    data = recipe.data
    if data is None:
        return
    for index, spec in enumerate(data.eval):
        if spec.weight != 1:
            text = f"found weight: {spec.weight:g}, but an evaluation takes every row once. Remove weight."
            yield ("data", "eval", index, "weight"), text
    here: KeyPath = ("data", "validation")
    if data.validation and data.eval:
        text = f"found validation: {data.validation:g} and data.eval, expected one. Remove one of them."
        yield here, text
    if data.validation and not data.train:
        text = f"found validation: {data.validation:g}, but no rows are trained. Name held-out rows under data.eval."
        yield here, text
    others = [spec.path for spec in data.train if spec.visual is not None and spec.visual.negative.kind == "other"]
    if data.validation and others:
        text = (
            f"the negatives of {others[0]} are pictures of other rows (kind: other), which would stand on both sides. "
            "Choose another kind, or name held-out rows under data.eval."
        )
        yield here, text
