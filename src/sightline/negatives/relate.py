"""From a recipe's ``visual`` section to what it makes of a group."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from sightline.data.readers.rows import RowError
from sightline.errors import DataError, RecipeError
from sightline.negatives.generated import negative_of
from sightline.negatives.prompts import Negatives, counterparts
from sightline.recipes.schema import NegativeSpec, VisualSpec
from sightline.relations.visual import Contrast, compare_pictures, needs_between
from sightline.types import Edge, Group, Prompt, Response


@dataclass(frozen=True, kw_only=True)
class GeneratedRelation:
    """As :class:`VisualRelation`, of groups whose comparisons have negatives of their own (``Generated``)."""

    spec: VisualSpec
    between: Negatives | None
    bare: bool = False
    """Whether a comparison without its negative is one of the answers alone; else it is an error."""

    def __call__(self, group: Group) -> Group:
        """
        Raises:
            DataError: a comparison without its negative.
        """
        negatives = [negative_of(group, edge, bare=self.bare) for edge in group.edges]
        asked = [group.prompts[group.responses[edge.winner].prompt] for edge in group.edges]
        middle = {prompt.id: None if self.between is None else self.between.prompt(prompt) for prompt in asked}
        contrasts = [
            None if negative is None else Contrast(negative=negative, between=middle[prompt.id])
            for negative, prompt in zip(negatives, asked, strict=True)
        ]
        answered = max(response.prompt for response in group.responses) + 1
        # the negatives of comparisons that are not here stay behind: nobody would look at their pictures
        return compare_pictures(replace(group, prompts=group.prompts[:answered]), contrasts, self.spec)


@dataclass(frozen=True, kw_only=True)
class VisualRelation:
    """Turns groups with comparisons of answers into groups with comparisons of pictures. Thread-safe."""

    spec: VisualSpec
    negatives: Negatives
    between: Negatives | None

    def __call__(self, group: Group) -> Group:
        """
        Raises:
            RowError: a prompt without picture, or without the negative that its row is to bring.
            DataError: the group's own comparisons are not of answers to one prompt.
        """
        asked = {group.responses[edge.winner].prompt for edge in group.edges}
        answered = {response.prompt for response in group.responses}
        siblings = [prompt for index, prompt in enumerate(group.prompts) if index not in answered]
        contrasts = {index: self._contrast(group.prompts[index], siblings) for index in sorted(asked)}
        return compare_pictures(group, contrasts, self.spec)

    def make_ahead(self, groups: Sequence[Group]) -> None:
        """Makes the pictures of all groups, in as many threads as there are cores: a crop of a photograph takes 20 ms.

        A group that cannot be turned is left to the call for it, which says what is wrong.
        """
        if self.negatives.spec.kind not in ("crop", "noise", "patches"):
            return
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for _ in pool.map(self._make, groups):
                pass

    def _make(self, group: Group) -> None:
        with contextlib.suppress(DataError):
            self(group)

    def check(self, groups: Sequence[Group]) -> None:
        """Whether a negative can be made of every prompt: to know before answers are sampled.

        Raises:
            RowError: names the row.
        """
        for group in groups:
            try:
                for prompt in group.prompts:
                    self._contrast(prompt, ())
            except RowError as error:
                raise RowError(error.reason, error.found, source=group.source, remedy=error.remedy) from error

    def _contrast(self, prompt: Prompt, siblings: Sequence[Prompt]) -> Contrast:
        negative = self.negatives.prompt(prompt, siblings)
        return Contrast(negative=negative, between=None if self.between is None else self.between.prompt(prompt))


def visual_relation(spec: VisualSpec, groups: Sequence[Group], *, folder: Path, seed: int) -> VisualRelation:
    """The relation of a source.

    Args:
        spec: which comparisons, and which negatives.
        groups: all groups of the source: ``other`` takes its pictures from them.
        folder: where made pictures are written.
        seed: of all draws.

    Raises:
        RecipeError: ``other`` and no two different pictures.
    """
    negative = spec.negative
    others = counterparts(groups, seed) if negative.kind == "other" else {}
    between = None
    if needs_between(spec):
        # "column" replaces all pictures, and its ``replace`` is the default
        middle = replace(negative, kind=spec.between)
        between = Negatives(spec=middle, folder=folder, seed=seed)
    return VisualRelation(
        spec=spec, negatives=Negatives(spec=negative, folder=folder, seed=seed, others=others), between=between
    )


def generated_relation(spec: VisualSpec, *, folder: Path, seed: int, bare: bool) -> GeneratedRelation:
    """The relation of a run that makes its negatives; ``folder`` and ``seed`` are of the pictures in between."""
    if not needs_between(spec):
        return GeneratedRelation(spec=spec, between=None, bare=bare)
    middle = replace(spec.negative, kind=spec.between)
    return GeneratedRelation(spec=spec, between=Negatives(spec=middle, folder=folder, seed=seed), bare=bare)


def negative_prompts(kind: str, groups: Sequence[Group], *, folder: Path, seed: int) -> Negatives:
    """Negatives of one kind with default options, white pictures as large as those they replace."""
    spec = NegativeSpec(kind=kind, size="same")  # type: ignore[arg-type]
    others = counterparts(groups, seed) if kind == "other" else {}
    return Negatives(spec=spec, folder=folder, seed=seed, others=others)


def under_pictures(groups: Sequence[Group], *, folder: Path, seed: int) -> list[Group]:
    """Each group under its pictures, under white ones of their size, and under pictures of another group.

    The third is left out where all groups have the same picture. Prompts, responses and edges stand once for each of
    true, blank and other, in this order.

    Args:
        groups: every prompt has a picture.
        folder: where white pictures are written.
        seed: draws the other picture.
    """
    if not groups:
        return []
    makers = [negative_prompts("blank", groups, folder=folder, seed=seed)]
    with contextlib.suppress(RecipeError):  # there is no other picture
        makers.append(negative_prompts("other", groups, folder=folder, seed=seed))
    made = []
    for group in groups:
        prompts = [*group.prompts, *(maker.prompt(prompt) for maker in makers for prompt in group.prompts)]
        answers: list[Response] = []
        edges: list[Edge] = []
        for place in range(1 + len(makers)):
            edges += (replace(e, winner=e.winner + len(answers), loser=e.loser + len(answers)) for e in group.edges)
            answers += (replace(r, prompt=r.prompt + place * len(group.prompts)) for r in group.responses)
        made.append(replace(group, prompts=tuple(prompts), responses=tuple(answers), edges=tuple(edges)))
    return made
