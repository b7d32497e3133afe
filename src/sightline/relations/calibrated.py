"""CSR's scores: the model's own and the picture's, mixed sentence by sentence, and the pair that they choose.

Source: Zhou et al. 2024, arXiv 2405.14622, and its code; ``docs/guides/csr.md`` has the formulas, and where the two
differ.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from sightline.recipes.csr import CalibrationSpec, CsrPairSpec
from sightline.relations.scores import apart
from sightline.relations.tree import Sentence, SentenceTree, response_of
from sightline.types import Edge, Group, Response

NEUTRAL: Final = 0.5
"""Place of a sentence without siblings."""
ANY_PAIR: Final = CsrPairSpec()
EQUAL, NEAR = "equal texts", "scores too near"
ALIKE: Final = frozenset((EQUAL, NEAR))
"""Reasons of prompts whose best and worst answer were compared; all others had no two to compare."""
_SAME: Final = 1e-6
"""Relative difference of scores that rounding makes: the same sentence twice has the same place."""
_DIGITS: Final = 9
"""Of an answer's score that count: sums of the same places in other company differ in the last."""


def own_score(sentence: Sentence, spec: CalibrationSpec) -> float:
    """What the model itself says of a sentence."""
    total = math.fsum(sentence.logprobs)
    if spec.lm_term == "prob":
        return math.exp(total)
    return total / len(sentence.logprobs) if spec.lm_term == "mean_logprob" else total


def cumulative_own(tree: SentenceTree, node: int, spec: CalibrationSpec) -> float:
    """The model's own scores of all sentences up to a node, summed: what the release prunes by."""
    return math.fsum(own_score(one, spec) for one in tree.path(node))


def sentence_scores(tree: SentenceTree, spec: CalibrationSpec) -> dict[int, float]:
    """Score of every sentence that counts, by its id; **higher is better**: in mode ``rank`` minus the mixed place.

    All of them have their relevance.
    """
    counted = [node for node in tree.nodes if node.counts]
    own = {node.id: own_score(node, spec) for node in counted}
    seen = {node.id: _relevance(node, spec) for node in counted}
    if spec.mode == "zscore":
        own, seen = _standardised(own), _standardised(seen)
    elif spec.mode == "rank":
        own, seen = ({key: -place for key, place in _places(counted, one, spec).items()} for one in (own, seen))
    return {key: (1 - spec.weight) * own[key] + spec.weight * seen[key] for key in own}


def path_score(path: Sequence[Sentence], scores: Mapping[int, float], spec: CalibrationSpec) -> float:
    """Of an answer, from those of its sentences; an end of turn by itself is none. 0 for one without a sentence."""
    told = [scores[node.id] for node in path if node.counts]
    if not told:
        return 0.0
    count = {"sum": 1, "mean_sentences": len(told), "mean_nodes": len(told) + 1}[spec.path_reduce]
    return math.fsum(told) / count


def kept(order: Sequence[int], width: int) -> list[int]:
    """Of sentences from the best to the worst, those that go on: all of fewer than ``width``, otherwise the best
    ``width // 2 - 1`` and the worst ``width // 2``.

    >>> kept(list(range(15)), 5), kept([7, 8, 9, 10], 5)
    ([0, 13, 14], [7, 8, 9, 10])
    """
    if len(order) < width:
        return list(order)
    return [*order[: width // 2 - 1], *order[-(width // 2) :]]


@dataclass(frozen=True, kw_only=True)
class Unpaired:
    """A prompt whose tree gave no pair."""

    id: str
    reason: str


def pair_of(tree: SentenceTree, score: CalibrationSpec, spec: CsrPairSpec = ANY_PAIR) -> Group | Unpaired:
    """The best answer over the worst, with their scores as rewards (higher is better).

    Answers that say nothing are left out. No pair: without an answer that reached an end, with one alone, where the
    best and the worst say the same, or where their scores are equal or nearer than ``min_gap``.
    """
    scores = sentence_scores(tree, score)
    paths = list(tree.answers())
    if not paths:
        return Unpaired(id=tree.id, reason="no answer that reached an end")
    whole = [path for path in paths if spec.cut == "keep" or path[-1].final == "stop"]
    if not whole:
        return Unpaired(id=tree.id, reason="every answer was cut")
    told = [path for path in whole if any(node.counts for node in path) and path[-1].answer]
    if not told:
        return Unpaired(id=tree.id, reason="every answer is empty")
    if len(told) == 1:
        return Unpaired(id=tree.id, reason="one answer alone")
    totals = [path_score(path, scores, score) for path in told]
    best = max(range(len(told)), key=lambda i: (round(totals[i], _DIGITS), -i))
    worst = min(range(len(told)), key=lambda i: (round(totals[i], _DIGITS), -i))
    chosen, rejected = (_scored(told[i], totals[i], score) for i in (best, worst))
    if _words(chosen) == _words(rejected):
        return Unpaired(id=tree.id, reason=EQUAL)
    if not apart(round(totals[best] - totals[worst], _DIGITS), 0.0, spec.min_gap):
        return Unpaired(id=tree.id, reason=NEAR)
    return replace(tree.group, responses=(chosen, rejected), edges=(Edge(winner=0, loser=1),))


@dataclass(kw_only=True)
class PairCount:
    """How many pairs there are, why there are not more, and whether length tells chosen from rejected."""

    pairs: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    lengths: dict[str, list[int]] = field(default_factory=dict)
    rewards: dict[str, list[float]] = field(default_factory=dict)

    def add(self, made: Iterable[Group | Unpaired]) -> None:
        for one in made:
            if isinstance(one, Unpaired):
                self.dropped[one.reason] += 1
                continue
            self.pairs += 1
            for side, response in zip(("chosen", "rejected"), one.responses, strict=True):
                self.lengths.setdefault(f"{side}_tokens", []).append(len(response.tokens or ()))
                self.lengths.setdefault(f"{side}_words", []).append(len(response.text.split()))
                self.rewards.setdefault(side, []).append(response.reward or 0.0)

    def figures(self) -> dict[str, object]:
        """Plain JSON: counts, mean lengths and rewards, and the share of pairs whose chosen answer is the shorter."""
        told: dict[str, object] = {"pairs": self.pairs, "dropped": dict(sorted(self.dropped.items()))}
        if self.pairs:
            sides = zip(self.lengths["chosen_tokens"], self.lengths["rejected_tokens"], strict=True)
            told["lengths"] = {name: statistics.fmean(values) for name, values in self.lengths.items()}
            told["chosen_shorter"] = sum(chosen < rejected for chosen, rejected in sides) / self.pairs
            told["rewards"] = {side: statistics.fmean(values) for side, values in self.rewards.items()}
        return told


def _relevance(node: Sentence, spec: CalibrationSpec) -> float:
    assert node.clip is not None, "the relevance of a sentence is asked before its score"
    clamped = spec.clip_clamp_zero and spec.mode != "rank"
    return max(node.clip, 0.0) if clamped else node.clip


def _standardised(values: Mapping[int, float]) -> dict[int, float]:
    mean = statistics.fmean(values.values()) if values else 0.0
    deviation = statistics.pstdev(values.values()) if values else 0.0
    differ = deviation > _SAME * abs(mean)
    return {key: (value - mean) / deviation if differ else 0.0 for key, value in values.items()}


def _places(nodes: Sequence[Sentence], values: Mapping[int, float], spec: CalibrationSpec) -> dict[int, float]:
    """Place of each among its siblings over their number, the highest 1/n; equals share the mean of their places."""
    families: dict[int | None, list[int]] = {}
    for node in nodes:
        families.setdefault(node.parent, []).append(node.id)
    places: dict[int, float] = {}
    for members in families.values():
        for one in members:
            equal = sum(math.isclose(values[other], values[one], rel_tol=_SAME) for other in members)
            above = sum(
                values[other] > values[one] and not math.isclose(values[other], values[one], rel_tol=_SAME)
                for other in members
            )
            places[one] = (above + (equal + 1) / 2) / len(members)
        if len(members) == 1 and spec.only_child == "neutral":
            places[members[0]] = NEUTRAL
    return places


def _scored(path: Sequence[Sentence], total: float, spec: CalibrationSpec) -> Response:
    told = [node for node in path if node.counts]
    parts = {
        "lm": math.fsum(own_score(node, spec) for node in told),
        "clip": math.fsum(_relevance(node, spec) for node in told) / len(told),
        "sentences": float(len(told)),
    }
    return replace(response_of(tuple(path)), reward=total, rewards=parts)


def _words(response: Response) -> list[str]:
    return response.text.split()
