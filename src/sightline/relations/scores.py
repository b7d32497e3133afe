"""Edges from scores: which sampled answers are preferred over which.

Only answers to the same prompt are compared, and only those that have a reward.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from sightline.types import Edge, Group

Relation = Callable[[Group, float], Group]
"""(scored group, least gap) -> the group with its edges."""


def best_worst(group: Group, min_gap: float = 0.0) -> Group:
    """One edge per prompt, from the response with the highest reward to the one with the lowest.

    Of equal rewards the first counts. No edge where the gap is below ``min_gap`` or zero (a tie).

    >>> prompt = Prompt(id="a", messages=())
    >>> answers = tuple(Response(text=str(r), reward=r) for r in (0.5, 1.0, 0.0))
    >>> best_worst(Group(prompts=(prompt,), responses=answers)).edges
    (Edge(winner=1, loser=2, kind='text', weight=1.0),)
    """
    edges = []
    for members in _by_prompt(group):
        best = max(members, key=lambda i: (members[i], -i))
        worst = min(members, key=lambda i: (members[i], i))
        edges += _edge(members, best, worst, min_gap)
    return replace(group, edges=tuple(edges))


def ranked(group: Group, min_gap: float = 0.0) -> Group:
    """An edge between any two responses of a prompt whose rewards differ by at least ``min_gap``, and differ."""
    edges = []
    for members in _by_prompt(group):
        order = sorted(members, key=lambda i: (-members[i], i))
        for place, winner in enumerate(order):
            for loser in order[place + 1 :]:
                edges += _edge(members, winner, loser, min_gap)
    return replace(group, edges=tuple(edges))


def extremes(group: Group) -> Group:
    """Of a group whose answers are compared in one order, the best over the worst alone: the first answer that loses
    no edge over the first that wins none. Answers in between are left out.

    >>> prompt = Prompt(id="a", messages=())
    >>> answers = tuple(Response(text=text) for text in ("good", "fair", "bad"))
    >>> edges = (Edge(winner=0, loser=1), Edge(winner=0, loser=2), Edge(winner=1, loser=2))
    >>> extremes(Group(prompts=(prompt,), responses=answers, edges=edges)).edges
    (Edge(winner=0, loser=1, kind='text', weight=1.0),)
    """
    if not group.edges:
        return group
    win, lose = {edge.winner for edge in group.edges}, {edge.loser for edge in group.edges}
    edge = replace(group.edges[0], winner=min(win - lose), loser=min(lose - win))
    return only_compared(replace(group, edges=(edge,)))


def unrelated(group: Group, min_gap: float = 0.0) -> Group:
    """No edges: rewards are used as they are."""
    return replace(group, edges=())


RELATIONS: Mapping[str, Relation] = {"best_worst": best_worst, "ranked": ranked, "none": unrelated}
"""By the names of ``online.relation``."""


def only_compared(group: Group) -> Group:
    """The group without the responses that no edge touches: they would be computed for nothing.

    Prompts stay as they are.
    """
    kept = sorted({end for edge in group.edges for end in (edge.winner, edge.loser)})
    place = {old: new for new, old in enumerate(kept)}
    return replace(
        group,
        responses=tuple(group.responses[old] for old in kept),
        edges=tuple(replace(edge, winner=place[edge.winner], loser=place[edge.loser]) for edge in group.edges),
    )


def _by_prompt(group: Group) -> list[dict[int, float]]:
    """Rewards of each prompt's responses, by index of the response."""
    prompts: dict[int, dict[int, float]] = {}
    for index, response in enumerate(group.responses):
        if response.reward is not None:
            prompts.setdefault(response.prompt, {})[index] = response.reward
    return list(prompts.values())


def _edge(rewards: Mapping[int, float], winner: int, loser: int, min_gap: float) -> list[Edge]:
    gap = rewards[winner] - rewards[loser]
    return [Edge(winner=winner, loser=loser)] if gap > 0 and gap >= min_gap else []
