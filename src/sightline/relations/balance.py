"""Comparisons of a whole data set in which length says nothing on the whole (RLAIF-V, arXiv 2405.17220, its code)."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sightline.types import Edge, Group


@dataclass(frozen=True, kw_only=True)
class Balance:
    """What balancing came to."""

    shortening: float | None
    """A chosen answer is kept that is shorter than the rejected one by at most this share; None: nothing was asked."""
    pairs: int
    """Before."""
    kept: int
    chosen_words: float | None
    """Mean length of the chosen answers that are kept; None: there are none."""
    rejected_words: float | None


def drawn_pairs(group: Group, most: int | None, seed: int) -> Group:
    """At most so many of the comparisons to each prompt of a group, drawn by ``seed`` and the id of the group; those
    between answers of the same words are left out first."""
    by_prompt: dict[int, list[Edge]] = {}
    for edge in group.edges:
        winner, loser = group.responses[edge.winner], group.responses[edge.loser]
        if winner.text.strip() != loser.text.strip():
            by_prompt.setdefault(winner.prompt, []).append(edge)
    rng = random.Random(f"{seed}/{group.id}")
    kept: list[Edge] = []
    for edges in by_prompt.values():
        some = edges if most is None or len(edges) <= most else rng.sample(edges, most)
        kept += sorted(some, key=edges.index)
    return replace(group, edges=tuple(kept))


def balanced(groups: Sequence[Group], step: float | None) -> tuple[list[Group], Balance]:
    """The comparisons without those whose chosen answer is shorter by more than a share of the rejected one's words.

    The share is the one of 0, ``step``, 2 ``step``, ... below 1 at which the mean lengths of chosen and rejected
    answers differ least, as a share of the latter; of equal ones the smallest.

    Args:
        groups: with comparisons of answers.
        step: None: all comparisons are kept, and only measured.

    Returns:
        The groups, some without comparisons now; and what came of it.
    """
    lengths = [_lengths(group, edge) for group in groups for edge in group.edges]
    if step is None or not lengths:
        return list(groups), _measured(None, len(lengths), lengths)
    shares = [number * step for number in range(math.ceil(round(1 / step, 9)))]
    best = min(shares, key=lambda share: _apart(_kept(lengths, share)))
    left = [
        replace(group, edges=tuple(e for e in group.edges if _shortening(_lengths(group, e)) <= best))
        for group in groups
    ]
    return left, _measured(best, len(lengths), _kept(lengths, best))


def _lengths(group: Group, edge: Edge) -> tuple[int, int]:
    """Words of the chosen and of the rejected answer."""
    return len(group.responses[edge.winner].text.split()), len(group.responses[edge.loser].text.split())


def _shortening(words: tuple[int, int]) -> float:
    """By what share the chosen answer is shorter; below 0 where it is longer."""
    chosen, rejected = words
    return (rejected - chosen) / rejected if rejected else 0.0


def _kept(lengths: Sequence[tuple[int, int]], share: float) -> list[tuple[int, int]]:
    return [words for words in lengths if _shortening(words) <= share]


def _apart(lengths: Sequence[tuple[int, int]]) -> float:
    """How far the means are from each other. None kept, or nothing rejected but silence: as far as can be."""
    chosen, rejected = sum(one for one, _ in lengths), sum(other for _, other in lengths)
    return abs(chosen - rejected) / rejected if rejected else math.inf


def _measured(share: float | None, pairs: int, lengths: Sequence[tuple[int, int]]) -> Balance:
    count = len(lengths)
    return Balance(
        shortening=share,
        pairs=pairs,
        kept=count,
        chosen_words=sum(one for one, _ in lengths) / count if count else None,
        rejected_words=sum(other for _, other in lengths) / count if count else None,
    )
