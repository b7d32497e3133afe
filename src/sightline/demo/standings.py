"""From graded answers of several methods and seeds to the standings of a league."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sightline.evaluation.statistics import Interval, paired_differences, ratio
from sightline.report.league import METRICS, Standing
from sightline.scenes.benchmark import RATIOS, columns, grade
from sightline.types import Group

BASE = "base"
"""Name of the model that all methods start from."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One method from one seed's base, graded."""

    method: str
    seed: int
    prompts: tuple[str, ...]
    """Id of the question of each answer."""
    scenes: tuple[str, ...]
    """Its picture."""
    counts: Mapping[str, Sequence[float]]
    """What each answer adds to the sums that ``METRICS`` are ratios of."""
    learning_rate: float = 0.0
    seconds: float = 0.0
    """Of training, by the clock on the wall."""
    cpu_seconds: float = 0.0
    """Of training, summed over threads."""
    steps: int = 0
    """Optimizer steps of an online method."""
    answers: int = 0
    """That it sampled."""

    def value(self, metric: str) -> float:
        """A metric of this outcome alone; NaN where there is nothing to divide by."""
        top, bottom = (sum(self.counts[column]) for column in RATIOS[metric])
        return top / bottom if bottom else float("nan")


def outcome_of(
    method: str,
    seed: int,
    answered: Iterable[Group],
    *,
    learning_rate: float = 0.0,
    spent: Mapping[str, Any] | None = None,
) -> Outcome:
    """Grades answers to held-out prompts.

    Args:
        method: ``base`` or the name of a method.
        seed: of the world that the prompts are from.
        answered: one response each.
        learning_rate: it was trained with.
        spent: in training: ``seconds`` and ``cpu_seconds``, of an online method ``steps`` and ``answers`` too.
    """
    records = grade(answered)
    counts, wanted = columns(records), {column for metric in METRICS for column in RATIOS[metric]}
    return Outcome(
        method=method,
        seed=seed,
        prompts=tuple(record.prompt for record in records),
        scenes=tuple(f"{seed}/{record.scene}" for record in records),
        counts={column: counts[column] for column in sorted(wanted)},
        learning_rate=learning_rate,
        **(spent or {}),
    )


def standings(outcomes: Sequence[Outcome]) -> tuple[Standing, ...]:
    """The base first, then the methods that improve on it, then the others; each by mean Hal, lowest first.

    Values are means over seeds with their least and greatest. Differences from the base are paired: of the answers
    of all seeds together, with a bootstrap 95 % interval over pictures.

    Args:
        outcomes: of ``base`` for every seed, and of methods for some of these seeds.
    """
    bases = {outcome.seed: outcome for outcome in outcomes if outcome.method == BASE}
    methods: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        methods.setdefault(outcome.method, []).append(outcome)
    first = _standing(methods.pop(BASE), None)
    others = [_standing(found, [bases[outcome.seed] for outcome in found]) for found in methods.values()]
    return (first, *sorted(others, key=lambda one: (one.verdict != "improves", one.values["hal"].value)))


def _standing(found: Sequence[Outcome], bases: Sequence[Outcome] | None) -> Standing:
    changes: dict[str, Interval] = {}
    if bases is not None:
        assert all(b.prompts == f.prompts for b, f in zip(bases, found, strict=True)), "one exam for each seed"
        metrics = {metric: ratio(*RATIOS[metric]) for metric in METRICS}
        clusters = [scene for outcome in found for scene in outcome.scenes]
        changes = paired_differences(_pooled(bases), _pooled(found), metrics, clusters=clusters)
    return Standing(
        name=found[0].method,
        seeds=tuple(outcome.seed for outcome in found),
        values={metric: _over_seeds([outcome.value(metric) for outcome in found]) for metric in METRICS},
        by_seed={metric: tuple(outcome.value(metric) for outcome in found) for metric in METRICS},
        changes=changes,
        learning_rate=found[0].learning_rate,
        seconds=_over_seeds([outcome.seconds for outcome in found]),
        cpu_seconds=_over_seeds([outcome.cpu_seconds for outcome in found]),
        steps=found[0].steps,
        answers=_over_seeds([outcome.answers for outcome in found]),
    )


def _pooled(outcomes: Sequence[Outcome]) -> dict[str, list[float]]:
    return {name: [x for outcome in outcomes for x in outcome.counts[name]] for name in outcomes[0].counts}


def _over_seeds(values: Sequence[float]) -> Interval:
    """Mean, least and greatest."""
    return Interval(value=float(np.mean(values)), low=min(values), high=max(values))
