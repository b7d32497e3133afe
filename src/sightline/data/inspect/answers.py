"""What answers give away without being read: their lengths, their doubles, their labels and scores."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from sightline.data.inspect.figures import (
    Estimate,
    Finding,
    Found,
    Spread,
    clustered_mean,
    clustered_share,
    spread,
)
from sightline.types import Edge, Group

Unit = Literal["tokens", "words"]


@dataclass(frozen=True, kw_only=True)
class LengthBias:
    """Chosen against rejected answers by length alone."""

    unit: Unit
    pairs: int
    longer: int
    """Pairs whose chosen answer is the longer one."""
    shorter: int
    share: Estimate
    """Of pairs that "the longer answer is better" gets right; equal lengths count half."""
    difference: Estimate
    """Length of the chosen answer minus that of the rejected one, in the mean."""

    @property
    def rule(self) -> float:
        """Accuracy of the better of two rules: the longer, or the shorter answer is better."""
        return max(self.share.value, 1 - self.share.value)

    @property
    def certain(self) -> bool:
        """Whether the interval leaves out a coin."""
        return self.share.low > 0.5 or self.share.high < 0.5


@dataclass(frozen=True, kw_only=True)
class AnswerFigures:
    """Of all answers of a part of the data."""

    bias: LengthBias | None = None
    """None: no answers are compared."""
    same: Found = field(default_factory=Found)
    """Comparisons of answers that are the same but for white space and case."""
    both_sides: Found = field(default_factory=Found)
    """Comparisons with an answer that another row has on the other side."""
    shared_answers: int = 0
    """Distinct answers that are chosen in one row and rejected in another."""
    desirable: int = 0
    undesirable: int = 0
    scores: Spread | None = None
    """Of answers with a reward; None: there are none."""
    against_scores: Found = field(default_factory=Found)
    """Comparisons whose chosen answer has the lower reward."""


_SEVERAL = -1
"""In place of a row: there are others."""


class AnswerCounter:
    """Takes groups one by one; keeps digests of answers, not their texts."""

    def __init__(self, unit: Unit) -> None:
        self._unit: Unit = unit
        self._rows = 0
        self._gaps: list[int] = []
        self._of_row: list[int] = []
        self._pairs: list[tuple[bytes, bytes, str]] = []
        self._chosen: dict[bytes, int] = {}
        """By digest of an answer, the row that chose it."""
        self._rejected: dict[bytes, int] = {}
        self._same, self._against = Finding(), Finding()
        self._labels = {True: 0, False: 0}
        self._scores: list[float] = []

    def add(self, group: Group, lengths: Sequence[int] | None = None) -> None:
        """
        Args:
            group: as the data have it, without comparisons of pictures.
            lengths: of each answer, in tokens; None: words are counted.
        """
        counts = lengths if lengths is not None else [len(response.text.split()) for response in group.responses]
        for response in group.responses:
            if response.label is not None:
                self._labels[response.label] += 1
            if response.reward is not None:
                self._scores.append(response.reward)
        edges = [edge for edge in group.edges if edge.kind == "text"]
        for edge in edges:
            self._add(group, edge, counts)
        self._rows += bool(edges)

    def figures(self) -> AnswerFigures:
        both, shared = Finding(), set[bytes]()
        for chosen, rejected, source in self._pairs:
            found = {one for one in (chosen, rejected) if self._on_both(one)}
            shared |= found
            if found:
                both.add(source)
        return AnswerFigures(
            bias=self._bias(),
            same=self._same.found(),
            both_sides=both.found(),
            shared_answers=len(shared),
            desirable=self._labels[True],
            undesirable=self._labels[False],
            scores=spread(self._scores),
            against_scores=self._against.found(),
        )

    def _add(self, group: Group, edge: Edge, counts: Sequence[int]) -> None:
        chosen, rejected = group.responses[edge.winner], group.responses[edge.loser]
        self._gaps.append(counts[edge.winner] - counts[edge.loser])
        self._of_row.append(self._rows)
        if plain(chosen.text) == plain(rejected.text) and chosen.prompt == rejected.prompt:
            self._same.add(f"{group.source}: {chosen.text.strip()!r:.60}")
        if chosen.reward is not None and rejected.reward is not None and chosen.reward < rejected.reward:
            self._against.add(f"{group.source}: {chosen.reward:g} over {rejected.reward:g}")
        digests = [_digest(response.text) for response in (chosen, rejected)]
        for digest, rows in zip(digests, (self._chosen, self._rejected), strict=True):
            if rows.setdefault(digest, self._rows) != self._rows:
                rows[digest] = _SEVERAL
        self._pairs.append((digests[0], digests[1], group.source))

    def _on_both(self, digest: bytes) -> bool:
        """Whether an answer is chosen in one row and rejected in another."""
        sides = {self._chosen.get(digest), self._rejected.get(digest)}
        return None not in sides and (len(sides) == 2 or _SEVERAL in sides)

    def _bias(self) -> LengthBias | None:
        if not self._gaps:
            return None
        right = [1.0 if gap > 0 else 0.5 if gap == 0 else 0.0 for gap in self._gaps]
        return LengthBias(
            unit=self._unit,
            pairs=len(self._gaps),
            longer=sum(gap > 0 for gap in self._gaps),
            shorter=sum(gap < 0 for gap in self._gaps),
            share=clustered_share(right, self._of_row),
            difference=clustered_mean(self._gaps, self._of_row),
        )


def plain(text: str) -> str:
    """A text without what white space and case say."""
    return " ".join(text.split()).casefold()


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.strip().encode("utf-8", "surrogatepass"), digest_size=12).digest()
