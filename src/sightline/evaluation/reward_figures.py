"""Figures of a reward model: how often it prefers what people prefer, how sure it may be, what its choice is worth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from sightline.evaluation.bench import Better, Graded, Result
from sightline.evaluation.comparisons import (
    by_category,
    cluster_of,
    comparison_row,
    correlation,
    length_counts,
    length_formulas,
    margin_counts,
)
from sightline.evaluation.formulas import evaluate
from sightline.relations.scores import ranked
from sightline.types import Edge, Group

BENCH: Final = "reward"
PROTOCOL: Final = "scores"
BINS: Final = 10
ECE: Final = "calibration/ece"

_FORMULAS: Final[Mapping[str, str]] = {
    "accuracy": "right / pairs",
    "ties": "tied / pairs",
    "loss": "nll / pairs",
    "calibration/brier": "brier / pairs",
    "margin": "margin / pairs",
    "score/chosen": "chosen / pairs",
    "score/rejected": "rejected / pairs",
    "length/chosen": "chosen_words / pairs",
    "length/rejected": "rejected_words / pairs",
    **length_formulas("pairs"),
    "length_bias": correlation("margin", "pairs"),
}
_BY_LENGTH: Final = ("accuracy", "margin")
"""What is told apart by which answer is the longer one, in words."""
_LOWER: Final = ("loss", "calibration")
_HIGHER: Final = ("accuracy", "best_of_n")


def better(metric: str) -> Better:
    """Which way a figure is good. Scores and margins have a scale of the model's own."""
    if metric.startswith(_LOWER):
        return "lower"
    return "higher" if metric.startswith(_HIGHER) else "neither"


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Comparisons that the model is about equally sure of."""

    confidence: float
    """Mean of ``σ(|margin|)``, in [0.5, 1]."""
    accuracy: float
    """How often the answer it prefers is the one that people prefer; a tie is half right."""
    pairs: int


def with_comparisons(group: Group) -> Group:
    """The group with its comparisons of answers; where it has none, with every better over every worse answer as its
    rewards or labels say."""
    edges = tuple(edge for edge in group.edges if edge.kind == "text")
    return replace(group, edges=edges or ranked(gold_rewards(group)).edges)


def gold_rewards(group: Group) -> Group:
    """The group with labels as rewards, 1 desirable and 0 not, where it has no rewards."""
    if any(response.reward is not None for response in group.responses):
        return group
    answers = (r if r.label is None else replace(r, reward=float(r.label)) for r in group.responses)
    return replace(group, responses=tuple(answers))


def reward_result(gold: Sequence[Group], scored: Sequence[Group]) -> Result:
    """The figures of one reward model.

    Args:
        gold: groups of :func:`with_comparisons`, and for the best-of-n curve with rewards or labels of their own.
        scored: the same groups, their rewards given by the model; None where it cannot judge an answer.
    """
    pairs = [_graded(group, edge) for group in scored for edge in group.edges if _judged(group, edge)]
    curves, points = _curve_rows(gold, scored)
    graded, formulas = [*pairs, *curves], {**_FORMULAS, **points}
    values = {name: evaluate(expression, graded) for name, expression in formulas.items()}
    if pairs:
        values[ECE] = expected_calibration_error(reliability(margins(pairs)))
    known = {name: value for name, value in values.items() if not math.isnan(value)}
    left_out = sum(len(group.edges) for group in scored) - len(pairs)
    return Result(
        bench=BENCH,
        protocol=PROTOCOL,
        metrics=known,
        metrics_printed={name: f"{value:.4f}" for name, value in known.items()},
        by_category=by_category(pairs, {name: _FORMULAS[name] for name in _BY_LENGTH}),
        graded=graded,
        formulas={name: formula for name, formula in formulas.items() if name in known},
        better={name: better(name) for name in known},
        failures=left_out,
        notes=[f"{left_out} comparisons with an answer that could not be judged are left out."] if left_out else [],
    )


def margins(graded: Sequence[Graded]) -> list[float]:
    """Score of the chosen minus score of the rejected answer, of every comparison."""
    return [row.counts["margin"] for row in graded if "pairs" in row.counts]


def reliability(margin_P: Sequence[float], *, bins: int = BINS) -> list[Bin]:
    """How often the model is right by how sure it is: ``σ(|margin|)`` in bins of equal width over [0.5, 1].

    Which answer of a comparison stands first says nothing, so its probability and one minus it are the same claim;
    the larger of the two is what is checked. Bins without a comparison are left out.
    """
    members: dict[int, list[tuple[float, float]]] = {}
    for margin in margin_P:
        sure = 1 / (1 + math.exp(-abs(margin)))
        place = min(int((sure - 0.5) * 2 * bins), bins - 1)
        members.setdefault(place, []).append((sure, 0.5 if margin == 0 else float(margin > 0)))
    return [
        Bin(
            confidence=sum(sure for sure, _ in own) / len(own),
            accuracy=sum(right for _, right in own) / len(own),
            pairs=len(own),
        )
        for _, own in sorted(members.items())
    ]


def expected_calibration_error(found: Sequence[Bin]) -> float:
    """Mean over comparisons of the distance between confidence and accuracy of their bin (Guo et al. 2017, arXiv
    1706.04599, equation 3)."""
    return sum(one.pairs * abs(one.confidence - one.accuracy) for one in found) / sum(one.pairs for one in found)


def best_of_n(scores: Sequence[float], gold: Sequence[float]) -> list[float]:
    """Expected gold reward of the answer with the highest score among n of these, for n = 1 ... all of them.

    Over all ways to draw n answers without replacement; equal scores win equally often.

    >>> best_of_n([0.1, 0.9, 0.5], [0.0, 1.0, 0.0])
    [0.3333333333333333, 0.6666666666666666, 1.0]
    """
    levels: dict[float, list[float]] = {}
    for score, value in zip(scores, gold, strict=True):
        levels.setdefault(score, []).append(value)
    worth: list[float] = []  # from the lowest score up; what answers of equal score are worth is their mean
    for _, values in sorted(levels.items()):
        worth += [sum(values) / len(values)] * len(values)
    size = len(worth)
    return [
        sum(math.comb(below, n - 1) * value for below, value in enumerate(worth)) / math.comb(size, n)
        for n in range(1, size + 1)
    ]


def kl_bound(n: int) -> float:
    """``log n - (n - 1) / n``, nats: most by which choosing the best of n moves away from the model that sampled
    (Beirami et al. 2024, arXiv 2401.01879: a bound, reached where no two answers are alike).

    >>> [round(kl_bound(n), 4) for n in (1, 2, 4, 16)]
    [0.0, 0.1931, 0.6363, 1.8351]
    """
    return math.log(n) - (n - 1) / n


def curve(result: Result, kind: str) -> list[float]:
    """The best-of-n curve over all groups that have one: gold reward of the ``best`` by the model or of the ``oracle``,
    the best by gold itself; or ``score``, what the model gives to its own choice."""
    rows = [row for row in result.graded if "groups" in row.counts]
    points = [name for name in (rows[0].counts if rows else ()) if name.startswith(f"{kind}_")]
    return [sum(row.counts[name] for row in rows) / len(rows) for name in points]


def _judged(group: Group, edge: Edge) -> bool:
    return group.responses[edge.winner].reward is not None and group.responses[edge.loser].reward is not None


def _graded(group: Group, edge: Edge) -> Graded:
    chosen, rejected = group.responses[edge.winner], group.responses[edge.loser]
    assert chosen.reward is not None and rejected.reward is not None
    margin = chosen.reward - rejected.reward
    words = [len(response.text.split()) for response in (chosen, rejected)]
    gap, unsure = float(words[0] - words[1]), math.exp(-abs(margin))
    counts = {
        "pairs": 1.0,
        "right": float(margin > 0),
        "tied": float(margin == 0),
        "nll": math.log1p(unsure) + max(0.0, -margin),
        "brier": ((unsure if margin > 0 else 1.0) / (1 + unsure)) ** 2,
        "chosen": chosen.reward,
        "rejected": rejected.reward,
        "chosen_words": float(words[0]),
        "rejected_words": float(words[1]),
        **length_counts(gap, margin > 0),
        **margin_counts("margin", margin, gap),
    }
    return comparison_row(group, edge, counts)


def _curve_rows(gold: Sequence[Group], scored: Sequence[Group]) -> tuple[list[Graded], dict[str, str]]:
    """One row for each group on the curve, and the formulas of its points.

    The curve reaches as far as half of the groups do, and is made of the groups that reach that far: the same at
    every n.
    """
    answers = [both for before, after in zip(gold, scored, strict=True) if (both := _answers(before, after))]
    if not answers:
        return [], {}
    sizes = sorted((len(one.gold) for one in answers), reverse=True)
    reach = sizes[(len(sizes) - 1) // 2]
    rows = [_curve_row(one, reach) for one in answers if len(one.gold) >= reach]
    shown = [n for n in (1, 2, 4, 8, 16, 32, 64, 128) if n < reach] + [reach]
    points = {f"best_of_n/{n}": f"best_{n} / groups" for n in shown}
    return rows, points | {f"score_of_best/{n}": f"score_{n} / groups" for n in shown}


@dataclass(frozen=True, kw_only=True)
class _Answers:
    """The answers to one prompt."""

    group: Group
    scores: Sequence[float]
    gold: Sequence[float]


def _answers(before: Group, after: Group) -> _Answers | None:
    """None where not every answer has a gold reward and a score, or there is nothing to choose from."""
    gold = [r.reward for r in gold_rewards(before).responses if r.reward is not None]
    scores = [r.reward for r in after.responses if r.reward is not None]
    whole = len(gold) == len(scores) == len(before.responses) and len(before.prompts) == 1
    return _Answers(group=before, scores=scores, gold=gold) if whole and len(gold) > 1 else None


def _curve_row(one: _Answers, reach: int) -> Graded:
    counts = {"groups": 1.0}
    for name, by, worth in (
        ("best", one.scores, one.gold),
        ("oracle", one.gold, one.gold),
        ("score", one.scores, one.scores),
    ):
        points = enumerate(best_of_n(by, worth)[:reach], start=1)
        counts |= {f"{name}_{n}": value for n, value in points}
    return Graded(id=f"{one.group.id}#best", cluster=cluster_of(one.group), counts=counts)
