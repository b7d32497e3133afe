"""The same answers under a masked picture: whether the picture mattered to them."""

from __future__ import annotations

from dataclasses import replace

from sightline.types import Edge, Group, Prompt


def with_masked(group: Group, masked: Prompt) -> Group:
    """The group with each of its answers a second time, under ``masked``, behind the others.

    An edge of kind ``image`` joins an answer, its winner, to the same answer under the masked picture. The second one
    keeps what was said of the first: it is the place where both are read, and nothing else is read of it.

    Args:
        group: answers to one prompt, without edges.
        masked: the same question about the masked picture.

    >>> prompt = Prompt(id="a", messages=(), images=("a.png",))
    >>> from sightline.types import Response
    >>> made = with_masked(Group(prompts=(prompt,), responses=(Response(text="yes"),)), replace(prompt, id="a/patches"))
    >>> [(r.text, r.prompt) for r in made.responses], [(e.winner, e.loser, e.kind) for e in made.edges]
    ([('yes', 0), ('yes', 1)], [(0, 1, 'image')])
    """
    assert len(group.prompts) == 1 and not group.edges, "answers to one prompt, not compared"
    count = len(group.responses)
    return replace(
        group,
        prompts=(*group.prompts, masked),
        responses=(*group.responses, *(replace(response, prompt=1) for response in group.responses)),
        edges=tuple(Edge(winner=place, loser=place + count, kind="image") for place in range(count)),
    )
