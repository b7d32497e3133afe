"""Edges from scores: which sampled answers are preferred over which.

Only answers to the same prompt are compared, and only those that have a reward. A prompt with one such answer, and one
whose answers all have the same reward, has no edge; nor has an answer with itself, whatever two asks of it gave.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final, Protocol

from sightline.types import Edge, Group, Response

_ROUNDING: Final = 1e-9
"""Relative difference of rewards that is none: of sums in another order, and of 0.7 - 0.4 from 0.3."""
_CANCELLED: Final = 1e-14
"""Of the largest part of a reward, what is none: it is left of parts that cancel each other, as 0.1 + 0.2 - 0.3."""


class Relation(Protocol):
    """Gives a scored group its edges, of ``min_gap`` in reward at least."""

    def __call__(self, group: Group, min_gap: float = 0.0) -> Group: ...


def best_worst(group: Group, min_gap: float = 0.0) -> Group:
    """One edge per prompt, from the response with the highest reward to the one with the lowest.

    Of equal rewards the first counts. No edge where the gap is below ``min_gap`` or zero (a tie).

    >>> prompt = Prompt(id="a", messages=())
    >>> answers = tuple(Response(text=str(r), reward=r) for r in (0.5, 1.0, 0.0))
    >>> best_worst(Group(prompts=(prompt,), responses=answers)).edges
    (Edge(winner=1, loser=2, kind='text', weight=1.0),)
    """
    edges = []
    for members in by_prompt(group).values():
        best = max(members, key=lambda i: (members[i], -i))
        worst = min(members, key=lambda i: (members[i], i))
        edges += _edge(group, members, best, worst, min_gap)
    return replace(group, edges=tuple(edges))


def ranked(group: Group, min_gap: float = 0.0) -> Group:
    """An edge between any two responses of a prompt whose rewards differ by at least ``min_gap``, and differ: with a
    gap the margin rule."""
    edges = []
    for members in by_prompt(group).values():
        order = sorted(members, key=lambda i: (-members[i], i))
        for place, winner in enumerate(order):
            for loser in order[place + 1 :]:
                edges += _edge(group, members, winner, loser, min_gap)
    return replace(group, edges=tuple(edges))


def length_balanced(group: Group, min_gap: float = 0.0) -> Group:
    """Two edges per prompt: of the pairs whose winner is longer the one of the largest gap, and of those whose winner
    is shorter; both or none, so that length says nothing about which answer is chosen. Where there are not both, the
    pair of the largest gap among answers of equal length.

    Length is tokens where all answers to the prompt bring theirs, else words. Of equal gaps the first counts.

    >>> prompt = Prompt(id="a", messages=())
    >>> answers = (("a long one", 3.0), ("short", 2.0), ("a bad long one", 0.0), ("bad", 1.0))
    >>> scored = tuple(Response(text=text, reward=reward) for text, reward in answers)
    >>> made = length_balanced(Group(prompts=(prompt,), responses=scored))
    >>> [(edge.winner, edge.loser) for edge in made.edges]
    [(0, 3), (0, 2)]
    """
    edges: list[Edge] = []
    for members in by_prompt(group).values():
        answers = {i: group.responses[i] for i in members}
        whole = all(answer.tokens is not None for answer in answers.values())
        length = {i: len(a.tokens or ()) if whole else len(a.text.split()) for i, a in answers.items()}
        widest: dict[int, Edge] = {}
        for edge in sorted(
            (edge for winner in members for loser in members for edge in _edge(group, members, winner, loser, min_gap)),
            key=lambda edge: (members[edge.loser] - members[edge.winner], edge.winner, edge.loser),
        ):
            longer, shorter = length[edge.winner], length[edge.loser]
            widest.setdefault((longer > shorter) - (longer < shorter), edge)
        edges += [widest[1], widest[-1]] if {1, -1} <= widest.keys() else [widest[0]] if 0 in widest else []
    return replace(group, edges=tuple(edges))


def best(group: Group, min_gap: float = 0.0) -> Group:
    """The answer with the highest reward to each prompt alone, without edges: what best-of-n and RAFT train on.

    Of equal rewards the first counts. None where it is above the worst by less than ``min_gap``; with 0 there is always
    one, also of answers that are all equal.

    >>> prompt = Prompt(id="a", messages=())
    >>> answers = tuple(Response(text=str(r), reward=r) for r in (0.5, 1.0, 0.0))
    >>> [response.text for response in best(Group(prompts=(prompt,), responses=answers)).responses]
    ['1.0']
    """
    kept = [
        max(members, key=lambda i: (members[i], -i))
        for members in by_prompt(group).values()
        if not min_gap or apart(max(members.values()), min(members.values()), min_gap)
    ]
    return replace(group, responses=tuple(group.responses[i] for i in sorted(kept)), edges=())


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


RELATIONS: Mapping[str, Relation] = {
    "best_worst": best_worst,
    "ranked": ranked,
    "length_balanced": length_balanced,
    "best": best,
    "none": unrelated,
}
"""By the names of ``online.relation``; all but ``ovip`` (``relations.selection``), which has options of its own."""


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


def by_prompt(group: Group) -> dict[int, dict[int, float]]:
    """Rewards of each prompt's responses, by index of the prompt and of the response; those that differ by rounding
    alone are made equal."""
    prompts: dict[int, dict[int, float]] = {}
    for index, response in enumerate(group.responses):
        if response.reward is not None:
            prompts.setdefault(response.prompt, {})[index] = response.reward
    for rewards in prompts.values():
        level, dust = min(rewards.values()), rounding(group.responses[index] for index in rewards)
        for index in sorted(rewards, key=lambda i: rewards[i]):
            level = rewards[index] = rewards[index] if apart(rewards[index], level, dust=dust) else level
    return prompts


def rounding(responses: Iterable[Response]) -> float:
    """How far rewards may be apart by rounding alone, whatever they are themselves: it follows from their parts."""
    parts = (part for response in responses for part in response.rewards.values() if part is not None)
    return _CANCELLED * max(map(abs, parts), default=0.0)


def apart(higher: float, lower: float, least: float = 0.0, *, dust: float = 0.0) -> bool:
    """Whether a reward is above another one, and by ``least`` at least, in the numbers that were meant; ``dust``: of
    :func:`rounding`.

    >>> apart(0.7, 0.4, 0.3), apart(0.1 + 0.2, 0.3), apart(0.7, 0.4, 0.31)
    (True, False, False)
    """
    slack = max(dust, _ROUNDING * max(abs(higher), abs(lower), least))
    return higher - lower > slack and higher - lower >= least - slack


def _edge(group: Group, rewards: Mapping[int, float], winner: int, loser: int, min_gap: float) -> list[Edge]:
    better, worse = group.responses[winner], group.responses[loser]
    same = (better.text, better.tokens) == (worse.text, worse.tokens)
    wins = not same and apart(rewards[winner], rewards[loser], min_gap)
    return [Edge(winner=winner, loser=loser)] if wins else []
