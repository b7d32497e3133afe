"""Bootstrap intervals of metrics that are functions of counts.

Every metric of an answer-by-answer benchmark is a function of sums over answers: a mean is a sum
over a number of answers, CHAIR is hallucinated mentions over mentions, F1 is 2 tp / (2 tp + fp +
fn). So an answer is a row of counts, and a metric maps the sums of those columns to a number.

Resampling draws whole clusters (all answers about one picture), because answers about the same
picture are not independent. Intervals are percentile intervals (Efron & Tibshirani, *An
Introduction to the Bootstrap*, 1993, chapter 13). A count that is 0 in every answer stays 0 in
every resample: the interval [0, 0] then says that nothing was seen, not that nothing can happen.

Example:
    >>> hallucinated, mentions = [0, 1, 0, 2], [3, 4, 2, 4]
    >>> chair = ratio("hallucinated", "mentions")
    >>> bootstrap({"hallucinated": hallucinated, "mentions": mentions}, chair, seed=0).value
    0.23076923076923078
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Sums = Mapping[str, NDArray[np.float64]]
"""Column sums; every entry has the same shape: [] for the data, [B] for B resamples."""
Metric = Callable[[Sums], NDArray[np.float64]]
"""From column sums to the metric, elementwise; NaN where it is not defined (nothing to divide by)."""

_MOST_DRAWN = 2**24
"""Counts of resampled clusters that are in memory at a time: 128 MB."""
ANSWERS = "answers"
"""Name of the column of ones that every call adds: its sum is the number of answers."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate with its bootstrap interval."""

    value: float
    """The metric on all answers; NaN where it is not defined."""
    low: float
    high: float


def mean(column: str) -> Metric:
    """Mean of a column over answers; an accuracy if the column is 0 or 1."""
    return ratio(column, ANSWERS)


def ratio(numerator: str, denominator: str) -> Metric:
    """Ratio of two sums: ``sum(numerator) / sum(denominator)`` (CHAIR, precision, recall)."""
    return lambda sums: divide(sums[numerator], sums[denominator])


def precision(true_positive: str = "tp", false_positive: str = "fp") -> Metric:
    """``tp / (tp + fp)``."""
    return lambda sums: divide(sums[true_positive], sums[true_positive] + sums[false_positive])


def recall(true_positive: str = "tp", false_negative: str = "fn") -> Metric:
    """``tp / (tp + fn)``."""
    return lambda sums: divide(sums[true_positive], sums[true_positive] + sums[false_negative])


def f1(true_positive: str = "tp", false_positive: str = "fp", false_negative: str = "fn") -> Metric:
    """``2 tp / (2 tp + fp + fn)``: the harmonic mean of precision and recall."""

    def metric(sums: Sums) -> NDArray[np.float64]:
        twice = 2 * sums[true_positive]
        return divide(twice, twice + sums[false_positive] + sums[false_negative])

    return metric


def divide(numerator: NDArray[np.float64], denominator: NDArray[np.float64]) -> NDArray[np.float64]:
    """Elementwise quotient, NaN where the denominator is 0."""
    quotient = np.full(np.broadcast(numerator, denominator).shape, np.nan)
    return np.divide(numerator, denominator, out=quotient, where=np.asarray(denominator) != 0)


def bootstrap(
    columns: Mapping[str, ArrayLike],
    metric: Metric,
    *,
    clusters: Sequence[object] | None = None,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """A metric and its bootstrap interval.

    Args:
        columns: Counts, each [n answers].
        metric: For example ``mean("correct")`` or ``f1()``.
        clusters: [n] the unit each answer belongs to (the id of its picture); None: each its own.
        resamples: B, draws of as many clusters as there are, with replacement.
        level: Probability mass between ``low`` and ``high``.
        seed: Same seed, same interval.

    Raises:
        ValueError: No answers, columns of different lengths, or a level outside (0, 1).
    """
    one = bootstrap_all(columns, {"": metric}, clusters=clusters, resamples=resamples, level=level, seed=seed)
    return one[""]


def bootstrap_all(
    columns: Mapping[str, ArrayLike],
    metrics: Mapping[str, Metric],
    *,
    clusters: Sequence[object] | None = None,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """As :func:`bootstrap`, several metrics on the same resamples: much faster than one by one."""
    names, table = _per_cluster([columns], clusters)
    whole, drawn = table.sum(0), _draw(table, resamples, seed)
    return {
        name: _interval(_apply(metric, names, whole)[0], _apply(metric, names, drawn)[0], level)
        for name, metric in metrics.items()
    }


def paired_difference(
    before: Mapping[str, ArrayLike],
    after: Mapping[str, ArrayLike],
    metric: Metric,
    *,
    clusters: Sequence[object] | None = None,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """``metric(after) - metric(before)`` on the same questions, with its bootstrap interval.

    Row i of both belongs to the same question; a resample draws the same clusters for both, so
    what makes a picture hard cancels out.

    Raises:
        ValueError: As :func:`bootstrap`, and where the two do not have the same columns and rows.
    """
    one = paired_differences(
        before, after, {"": metric}, clusters=clusters, resamples=resamples, level=level, seed=seed
    )
    return one[""]


def paired_differences(
    before: Mapping[str, ArrayLike],
    after: Mapping[str, ArrayLike],
    metrics: Mapping[str, Metric],
    *,
    clusters: Sequence[object] | None = None,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """As :func:`paired_difference`, several metrics on the same resamples."""
    names, table = _per_cluster([before, after], clusters)
    whole, drawn = table.sum(0), _draw(table, resamples, seed)
    found = {}
    for name, metric in metrics.items():
        sides, resampled = _apply(metric, names, whole), _apply(metric, names, drawn)
        found[name] = _interval(sides[1] - sides[0], resampled[1] - resampled[0], level)
    return found


def _per_cluster(
    sides: Sequence[Mapping[str, ArrayLike]], clusters: Sequence[object] | None
) -> tuple[list[str], NDArray[np.float64]]:
    """Column names, and the sums [C clusters, sides, columns]."""
    names = list(sides[0])
    if any(set(side) != set(names) for side in sides):
        raise ValueError(f"found columns {[sorted(side) for side in sides]}, expected the same before and after")
    if not names:
        raise ValueError("found no columns, expected at least one count per answer")
    rows = [[np.asarray(side[name], dtype=np.float64) for name in names] for side in sides]
    shapes = {column.shape for side in rows for column in side}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1 or next(iter(shapes)) == (0,):
        raise ValueError(f"found columns of shapes {sorted(shapes)}, expected one length of at least 1 for all")
    count = rows[0][0].size
    answers = np.array([[*side, np.ones(count)] for side in rows]).transpose(2, 0, 1)
    if clusters is None:
        return [*names, ANSWERS], answers
    if len(clusters) != count:
        raise ValueError(f"found {len(clusters)} clusters for {count} answers, expected one each")
    # dict.fromkeys numbers clusters in order of appearance whatever their type is.
    number = {cluster: index for index, cluster in enumerate(dict.fromkeys(clusters))}
    table = np.zeros((len(number), *answers.shape[1:]))
    np.add.at(table, [number[cluster] for cluster in clusters], answers)
    return [*names, ANSWERS], table


def _draw(table: NDArray[np.float64], resamples: int, seed: int) -> NDArray[np.float64]:
    """Sums of each resample [B, sides, columns]: how often each cluster was drawn, times its sums."""
    size, flat = len(table), table.reshape(len(table), -1)
    generator, share = np.random.default_rng(seed), np.full(len(table), 1 / len(table))
    together = max(1, _MOST_DRAWN // size)
    sums = [
        generator.multinomial(size, share, size=min(together, resamples - start)) @ flat
        for start in range(0, resamples, together)
    ]
    return np.concatenate(sums).reshape(resamples, *table.shape[1:])


def _apply(metric: Metric, names: Sequence[str], sums: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """The metric of each side; ``sums`` is [..., sides, columns]."""
    return [
        metric({name: sums[..., side, column] for column, name in enumerate(names)}) for side in range(sums.shape[-2])
    ]


def _interval(value: NDArray[np.float64], drawn: NDArray[np.float64], level: float) -> Interval:
    if not 0 < level < 1:
        raise ValueError(f"found level {level}, expected a probability between 0 and 1")
    defined = drawn[~np.isnan(drawn)]
    if not defined.size:
        return Interval(value=float(value), low=float("nan"), high=float("nan"))
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value=float(value), low=float(low), high=float(high))
