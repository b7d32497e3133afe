"""Conflicts between the fields of ``visual`` sections, each of them valid: an option that nothing reads is an error."""

from __future__ import annotations

from collections.abc import Iterator, Set

from sightline.recipes.preferences import UNCOMPARED
from sightline.recipes.schema import NegativeSpec, OnlineSpec, Recipe, VisualSpec
from sightline.recipes.source import KeyPath

Conflict = tuple[KeyPath, str]
"""The place, and the message."""

_DEFAULT = NegativeSpec()


def visual_conflicts(recipe: Recipe) -> list[Conflict]:
    """All conflicts of all sources of a recipe."""
    found: list[Conflict] = []
    parts = {} if recipe.data is None else {"train": recipe.data.train, "eval": recipe.data.eval}
    for part, specs in parts.items():
        for index, spec in enumerate(specs):
            found += _of_source(("data", part, index), spec.visual, spec.relation)
    online = recipe.online
    if online is not None:
        found += _of_source(("online",), online.visual, online.relation)
        if online.prompts.visual is not None:
            text = "online.prompts gives no answers to compare. Write visual under online itself."
            found.append((("online", "prompts", "visual"), text))
        for place, negative in _online_negatives(online):
            if negative.kind == "column":
                text = "found kind: column, but the rows of online bring prompts alone. Choose another kind."
                found.append(((*place, "kind"), text))
        found += _of_generated(online)
        if online.masked is not None:
            found += _of_negative(("online", "masked"), online.masked, {online.masked.kind})
    return found


def _of_generated(online: OnlineSpec) -> Iterator[Conflict]:
    if online.negatives is None:
        return
    here: KeyPath = ("online", "negatives")
    if online.visual is None:
        text = "pictures are made, and nothing compares them. Add online.visual: {relation: ovip}, or remove negatives."
        yield here, text
    elif online.visual.negative != _DEFAULT:
        text = "found online.negatives too, which takes its place. Remove one of the two."
        yield ("online", "visual", "negative"), text
    elif online.negatives.failed == "text" and online.visual.relation in ("svco", "svco_noref"):
        text = f"failed: text compares the answers, and relation {online.visual.relation} never does. Set drop or stop."
        yield (*here, "failed"), text
    if online.negatives.kind == "scenes" and online.prompts.format not in ("auto", "groups"):
        text = f"scenes are drawn from the facts of Groups, found format: {online.prompts.format}. Give a Group file."
        yield ("online", "prompts", "format"), text


def _online_negatives(online: OnlineSpec) -> Iterator[tuple[KeyPath, NegativeSpec]]:
    if online.visual is not None:
        yield ("online", "visual", "negative"), online.visual.negative
    if online.masked is not None:
        yield ("online", "masked"), online.masked


def _of_source(place: KeyPath, visual: VisualSpec | None, relation: str) -> Iterator[Conflict]:
    if visual is None:
        return
    here: KeyPath = (*place, "visual")
    if relation in (*UNCOMPARED, "mismatched"):
        text = f"visual starts from comparisons of answers, but relation is {relation}. Choose another relation."
        yield here, text
    kinds = {visual.negative.kind} | ({visual.between} if visual.relation in ("svco", "ovip") else set())
    yield from _of_negative((*here, "negative"), visual.negative, kinds)
    middle = visual.relation in ("svco", "ovip")
    if not middle and visual.between != "none":
        yield (*here, "between"), f"relation {visual.relation} has no picture in between. Remove between."
    if middle and visual.between == visual.negative.kind:
        text = (
            f"the negative picture and the one in between are the same ({visual.between}): comparing them teaches "
            "nothing. Choose another negative.kind or between."
        )
        yield (*here, "between"), text


def _of_negative(here: KeyPath, negative: NegativeSpec, kinds: Set[str]) -> Iterator[Conflict]:
    """``kinds``: of all pictures that are made by its options."""
    read_by = {"area": {"crop"}, "step": {"noise"}, "patch": {"patches"}, "share": {"patches"}, "size": {"blank"}}
    for name, readers in read_by.items():
        if vars(negative)[name] != vars(_DEFAULT)[name] and not kinds & readers:
            text = f"{name} is an option of kind {readers.pop()}, found kind: {negative.kind}. Remove it."
            yield (*here, name), text
    if negative.kind == "column" and negative.replace != "all":
        yield (*here, "replace"), "a column brings all pictures of the negative. Remove replace."
    least, most = negative.area
    if not (0 < least <= most <= 1 and least < 1):
        text = f"found {list(negative.area)}, expected shares of the area, 0 < least <= most <= 1 and least below 1."
        yield (*here, "area"), text
