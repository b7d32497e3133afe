"""Answers to other questions, beside the labelled answers of a group: what KTO measures the policy's drift with."""

from __future__ import annotations

import bisect
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from sightline.errors import DataError
from sightline.types import Edge, Group, Prompt, Response

_LOOKED_AT = 1000
"""Answers that are looked through before a second best is taken."""


def mismatched(
    groups: Sequence[Group], *, seed: int = 0, counts: Sequence[int] | None = None
) -> Callable[[Group], Group]:
    """What gives each group of a source a mismatched answer.

    The group keeps its answers, each with a label: its own, or desirable for the winner and undesirable for the
    loser of a comparison. One answer to another question is added for each prompt that is answered, and an edge of
    kind ``mismatched`` from every answer to that prompt; the comparisons themselves are dropped. Rows that ask the same
    about the same picture ask one question. The added answer has other words than the group's own wherever the source
    has such. In the tree layout it costs its own tokens only.

    Args:
        groups: all groups of the source.
        seed: The added answer is a function of it, of the group's id and of the source.
        counts: Answers of each group, where they are known: groups may be made when they are asked for.

    Raises:
        DataError: No other question and no other answer in the source; an answer without label or comparison, or one
            that both wins and loses; a comparison with a weight.

    >>> def row(name, text):
    ...     question = ({"role": "user", "content": name},)
    ...     return Group(prompts=(Prompt(id=name, messages=question),), responses=(Response(text=text, label=True),))
    >>> made = mismatched([row("a", "yes"), row("b", "two")])(row("a", "yes"))
    >>> made.responses[1].text, made.edges
    ('two', (Edge(winner=0, loser=1, kind='mismatched', weight=1.0),))
    """
    pool = _Answers(groups, [len(group.responses) for group in groups] if counts is None else counts)

    def relate(group: Group) -> Group:
        labelled = _labelled(group)
        draw = random.Random(f"{seed}:{group.id}")
        edges: list[Edge] = []
        added: list[Response] = []
        for prompt in sorted({response.prompt for response in labelled}):
            loser = len(labelled) + len(added)
            added.append(_other_answer(group, prompt, pool, draw))
            winners = [i for i, response in enumerate(labelled) if response.prompt == prompt]
            edges += [Edge(winner=winner, loser=loser, kind="mismatched") for winner in winners]
        return replace(group, responses=(*labelled, *added), edges=tuple(edges))

    return relate


class _Answers:
    """The answers of all groups, each with its prompt, one behind the other."""

    def __init__(self, groups: Sequence[Group], counts: Sequence[int]) -> None:
        self._groups, self._ends = groups, list(itertools.accumulate(map(int, counts)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, place: int) -> tuple[Prompt, Response]:
        number = bisect.bisect_right(self._ends, place)
        group = self._groups[number]
        response = group.responses[place - (self._ends[number - 1] if number else 0)]
        return group.prompts[response.prompt], response


def _other_answer(group: Group, prompt: int, pool: _Answers, draw: random.Random) -> Response:
    """The first answer to another question, from a random place on, that this group does not give itself.

    Where the next thousand answers hold none, the best of them: an answer to another question in the group's own words
    (pairs of yes and no), else an answer to the same question in other words.
    """
    own = {response.text.strip() for response in group.responses}
    questions = [(asked.messages, asked.images) for asked in group.prompts]
    start = draw.randrange(len(pool))
    spare: dict[bool, Response] = {}
    for step in range(len(pool)):
        asked, other = pool[(start + step) % len(pool)]
        elsewhere, otherwise = (asked.messages, asked.images) not in questions, other.text.strip() not in own
        if elsewhere or otherwise:
            added = Response(prompt=prompt, text=other.text, tokens=other.tokens, trained=other.trained, label=False)
            if elsewhere and otherwise:
                return added
            spare.setdefault(elsewhere, added)
        if step >= _LOOKED_AT and spare:
            break
    if spare:
        return spare.get(True) or spare[False]
    raise DataError(
        "no row of this source has an answer that this row does not have itself, so none can be mismatched",
        remedy="Give more rows, or use an algorithm that needs no mismatched answers",
    )


def _labelled(group: Group) -> list[Response]:
    wins, loses = {edge.winner for edge in group.edges}, {edge.loser for edge in group.edges}
    if any(edge.weight != 1 for edge in group.edges):
        raise DataError(
            "a comparison has a weight, which single labelled answers cannot keep",
            remedy="Remove the weight, or use an algorithm that compares",
        )
    labelled = []
    for i, response in enumerate(group.responses):
        label = response.label
        if label is None and (i in wins) == (i in loses):
            found = "both wins and loses" if i in wins else "has neither a label nor a comparison"
            raise DataError(
                f"answer {i + 1} {found}, so it is neither desirable nor undesirable",
                remedy="Give it a label (true or false), or leave it out",
            )
        labelled.append(replace(response, label=i in wins if label is None else label))
    if not labelled:
        raise DataError("the row has no answer", remedy="Add one with a label, or chosen and rejected")
    return labelled
