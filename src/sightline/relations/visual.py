"""Visual preferences: comparisons of pictures, made from the comparison of two answers.

Every relation is a table of edges between answers under pictures. What it is called in the literature is a loss is,
edge by edge, the loss of whichever algorithm scores them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from sightline.errors import DataError
from sightline.recipes.schema import VisualSpec
from sightline.types import Edge, EdgeKind, Group, Prompt, Response

Picture = Literal["true", "negative", "between"]


class Side(NamedTuple):
    """One of the two answers, under one of the pictures."""

    answer: Literal["chosen", "rejected"]
    picture: Picture


class Comparison(NamedTuple):
    """``winner`` over ``loser``."""

    winner: Side
    loser: Side
    weight: float = 1.0

    @property
    def kind(self) -> EdgeKind:
        """``text`` under one picture, else ``image``."""
        return "text" if self.winner.picture == self.loser.picture else "image"


_CT, _CB, _CN = Side("chosen", "true"), Side("chosen", "between"), Side("chosen", "negative")
_RT, _RB, _RN = Side("rejected", "true"), Side("rejected", "between"), Side("rejected", "negative")

TABLE: Mapping[tuple[str, bool], tuple[Comparison, ...]] = {
    ("mdpo", False): (Comparison(_CT, _RT), Comparison(_CT, _CN)),
    ("mdpo", True): (
        Comparison(_CT, _RT, 0.5),
        Comparison(_RN, _CN, 0.5),
        Comparison(_CT, _CN, 0.5),
        Comparison(_RN, _RT, 0.5),
    ),
    ("svco_noref", False): (Comparison(_CT, _RN),),
    ("svco_noref", True): (Comparison(_CT, _CN, 0.5), Comparison(_RN, _RT, 0.5)),
    ("svco", False): (Comparison(_CT, _CB, 0.5), Comparison(_CB, _CN, 0.5)),
    ("svco", True): (Comparison(_CT, _CB), Comparison(_CB, _CN), Comparison(_RN, _RB), Comparison(_RB, _RT)),
    ("ovip", False): (Comparison(_CT, _RT), Comparison(_CT, _CB), Comparison(_CB, _CN)),
    ("ovip", True): (
        Comparison(_CT, _RT, 0.5),
        Comparison(_CT, _CB, 0.5),
        Comparison(_CB, _CN, 0.5),
        Comparison(_RN, _CN, 0.5),
        Comparison(_RN, _RB, 0.5),
        Comparison(_RB, _RT, 0.5),
    ),
}
"""By relation and whether it is symmetric. mDPO: arXiv 2406.11839, equations 3 and 4; S-VCO: 2502.13928, whose
symmetric form is a plain sum; OViP: 2505.15963. The other factors of one half are those of OViP's code, where the
symmetric form is the mean of both directions."""


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """The same question about other pictures."""

    negative: Prompt
    between: Prompt | None = None
    """The question without its picture, or with a white one; None where the relation has no use for it."""


def needs_between(spec: VisualSpec) -> bool:
    """Whether a relation compares with a picture in between."""
    table = TABLE[spec.relation, spec.symmetric]
    return any("between" in (c.winner.picture, c.loser.picture) for c in table)


def _needs_none(comparison: Comparison) -> bool:
    return comparison.winner.picture == comparison.loser.picture == "true"


def compare_pictures(
    group: Group, contrasts: Mapping[int, Contrast] | Sequence[Contrast | None], spec: VisualSpec
) -> Group:
    """The group with the comparisons of ``spec`` in the place of each of its comparisons of answers.

    The weight of an edge is that of the comparison of answers it comes from, times that of the relation, times
    ``image_weight`` where it compares pictures; edges that coincide become one that has their weights' sum.
    Prompts are added behind those that are there. Responses stay that take part in a comparison; one that hangs on
    another prompt than the one it was sampled for or scored under keeps its tokens, and neither reward nor
    label nor the sampler's log-probabilities.

    Args:
        group: with edges between answers to the same prompt.
        contrasts: for each prompt that a winner hangs on, by its index; or one for each edge, in their order, None
            where there is none: then the answers are compared under the true picture alone.
        spec: which comparisons.

    Raises:
        DataError: no comparison of answers, one that is not of answers to one prompt, or comparisons of pictures.

    >>> question, white = Prompt(id="a", messages=(), images=("a.png",)), Prompt(id="a/negative", messages=())
    >>> pair = Group(
    ...     prompts=(question,), responses=(Response(text="yes"), Response(text="no")), edges=(Edge(winner=0, loser=1),)
    ... )
    >>> made = compare_pictures(pair, {0: Contrast(negative=white)}, VisualSpec(relation="mdpo"))
    >>> [(r.text, r.prompt) for r in made.responses], [(e.winner, e.loser, e.kind) for e in made.edges]
    ([('yes', 0), ('no', 0), ('yes', 1)], [(0, 1, 'text'), (0, 2, 'image')])
    """
    _check(group, spec)
    builder = _Builder(group=group, prompts=list(group.prompts))
    for place, edge in enumerate(group.edges):
        prompt = group.responses[edge.winner].prompt
        contrast = contrasts[prompt if isinstance(contrasts, Mapping) else place]
        answers = {"chosen": edge.winner, "rejected": edge.loser}
        table = TABLE[spec.relation, spec.symmetric]
        for comparison in table if contrast is not None else filter(_needs_none, table):
            winner, loser = (
                builder.response(answers[side.answer], builder.place(prompt, side.picture, contrast))
                for side in (comparison.winner, comparison.loser)
            )
            factor = spec.image_weight if comparison.kind == "image" else 1.0
            builder.add(winner, loser, comparison.kind, edge.weight * comparison.weight * factor)
    return builder.built()


@dataclass(kw_only=True)
class _Builder:
    group: Group
    prompts: list[Prompt]
    responses: dict[tuple[int, int], int] = field(default_factory=dict)
    """(response of the group, prompt) to index."""
    weights: dict[tuple[int, int, EdgeKind], float] = field(default_factory=dict)

    def place(self, prompt: int, picture: Picture, contrast: Contrast | None) -> int:
        if picture == "true":
            return prompt
        assert contrast is not None, "comparisons that need another picture were left out"
        other = contrast.negative if picture == "negative" else contrast.between
        assert other is not None, "the relation compares with a picture in between"
        if other not in self.prompts:
            self.prompts.append(other)
        return self.prompts.index(other)

    def response(self, answer: int, prompt: int) -> int:
        return self.responses.setdefault((answer, prompt), len(self.responses))

    def add(self, winner: int, loser: int, kind: EdgeKind, weight: float) -> None:
        self.weights[winner, loser, kind] = self.weights.get((winner, loser, kind), 0.0) + weight

    def built(self) -> Group:
        edges = tuple(
            Edge(winner=winner, loser=loser, kind=kind, weight=weight)
            for (winner, loser, kind), weight in self.weights.items()
        )
        responses = tuple(_hung(self.group.responses[answer], prompt) for answer, prompt in self.responses)
        return replace(self.group, prompts=tuple(self.prompts), responses=responses, edges=edges)


def _hung(response: Response, prompt: int) -> Response:
    """The response on a prompt; what was said of it under its own does not hold under another."""
    if response.prompt == prompt:
        return response
    return replace(response, prompt=prompt, reward=None, rewards={}, label=None, rollout_logprobs=None, columns={})


def _check(group: Group, spec: VisualSpec) -> None:
    if not group.edges:
        raise DataError(
            f"there is no comparison of answers that visual.relation {spec.relation} could start from",
            source=group.source,
            remedy="Give the row a chosen and a rejected answer, or remove visual",
        )
    for edge in group.edges:
        winner, loser = group.responses[edge.winner], group.responses[edge.loser]
        if edge.kind != "text" or winner.prompt != loser.prompt:
            raise DataError(
                f"answers {edge.winner + 1} and {edge.loser + 1} are compared under different prompts, and "
                f"visual.relation {spec.relation} starts from comparisons of answers under one",
                source=group.source,
                remedy="Remove visual for rows that bring comparisons of pictures of their own",
            )
