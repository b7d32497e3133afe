"""The comparison of answers that a group stands for: of two answers under one prompt with a picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from sightline.types import Edge, Group


def first_pair(group: Group) -> Group | None:
    """The prompt and the two answers of the first comparison that is under one prompt with a picture.

    Labelled answers (KTO) are compared as their labels say: the first desirable with the first undesirable one of a
    prompt, or a single one with the answer to another question that stands beside it.
    """
    for winner, loser in _comparisons(group):
        better, worse = group.responses[winner], group.responses[loser]
        prompt = group.prompts[better.prompt]
        if better.prompt == worse.prompt and prompt.images:
            answers = (replace(better, prompt=0), replace(worse, prompt=0))
            return Group(prompts=(prompt,), responses=answers, edges=(Edge(winner=0, loser=1),), source=group.source)
    return None


def _comparisons(group: Group) -> Iterator[tuple[int, int]]:
    """(winner, loser) of every comparison of answers, and of what labels say."""
    yield from ((edge.winner, edge.loser) for edge in group.edges if edge.kind != "mismatched")
    beside = {edge.winner: edge.loser for edge in group.edges if edge.kind == "mismatched"}
    good, bad = ([i for i in beside if group.responses[i].label is label] for label in (True, False))
    yield from ((i, j) for i in good for j in bad)
    yield from ((i, beside[i]) for i in good)
    yield from ((beside[i], i) for i in bad)
