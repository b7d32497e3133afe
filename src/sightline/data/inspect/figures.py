"""Small summaries of many numbers, and of rows that share a property."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_BINS = 24
_NAMED = 5
"""Rows that a finding names."""
_Z = 1.959963984540054
"""Of a 95 % interval."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How numbers are distributed."""

    count: int
    mean: float
    least: float
    low: float
    """The 5th percentile."""
    median: float
    high: float
    """The 95th percentile."""
    most: float
    edges: tuple[float, ...]
    """Of the bins of a histogram: one more than ``bins``."""
    bins: tuple[int, ...]


def spread(values: Sequence[float]) -> Spread | None:
    """None where there are no numbers.

    >>> spread([1, 2, 3, 4]).median
    2.5
    """
    if not len(values):
        return None
    array = np.asarray(values, dtype=np.float64)
    low, median, high = np.percentile(array, [5, 50, 95])
    bins, edges = np.histogram(array, bins=min(_BINS, max(1, len(set(values)))))
    return Spread(
        count=len(array),
        mean=float(array.mean()),
        least=float(array.min()),
        low=float(low),
        median=float(median),
        high=float(high),
        most=float(array.max()),
        edges=tuple(edges.tolist()),
        bins=tuple(bins.tolist()),
    )


@dataclass(frozen=True, kw_only=True)
class Found:
    """Rows that something is true of."""

    count: int = 0
    rows: tuple[str, ...] = ()
    """The first of them, ``file:row``, each with what was found behind a colon where there is more to say."""


class Finding:
    """Counts rows, and keeps the first of them."""

    def __init__(self) -> None:
        self._count, self._rows = 0, list[str]()

    def add(self, row: str) -> None:
        self._count += 1
        if len(self._rows) < _NAMED:
            self._rows.append(row)

    def found(self) -> Found:
        return Found(count=self._count, rows=tuple(self._rows))


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean with its 95 % interval."""

    value: float
    low: float
    high: float


def clustered_mean(values: Sequence[float], clusters: Sequence[int]) -> Estimate:
    """Mean of values that are not independent within a cluster (the pairs of one row), by the normal approximation.

    Args:
        values: at least one.
        clusters: of each value, ascending numbers from 0.

    >>> clustered_mean([1.0, 3.0], [0, 1])
    Estimate(value=2.0, low=0.04003601545..., high=3.9599639845...)
    """
    array = np.asarray(values, dtype=np.float64)
    mean, error = float(array.mean()), _error(array, np.asarray(clusters))
    return Estimate(value=mean, low=mean - _Z * error, high=mean + _Z * error)


def clustered_share(values: Sequence[float], clusters: Sequence[int]) -> Estimate:
    """The same for values in [0, 1] by Wilson's interval, which is right for few rows and for shares near 0 or 1: its
    number of draws is that whose variance would be the one found."""
    array = np.asarray(values, dtype=np.float64)
    share, error = float(array.mean()), _error(array, np.asarray(clusters))
    rows = len(set(clusters))
    draws = float(rows)
    if error and 0 < share < 1 and rows > 1:
        draws = share * (1 - share) / error**2 * rows / (rows - 1)  # of the variance without its correction
    draws = min(draws, len(array))
    middle = (share + _Z**2 / (2 * draws)) / (1 + _Z**2 / draws)
    half = _Z / (1 + _Z**2 / draws) * math.sqrt(share * (1 - share) / draws + _Z**2 / (4 * draws**2))
    return Estimate(value=share, low=middle - half, high=middle + half)


def _error(array: np.ndarray, clusters: np.ndarray) -> float:
    """Standard error of the mean; infinite for one cluster."""
    rows = int(clusters.max()) + 1
    if rows < 2:
        return math.inf
    sums = np.bincount(clusters, weights=array - array.mean(), minlength=rows)
    return float(np.sqrt((sums**2).sum() * rows / (rows - 1)) / len(array))
