"""Figures as short expressions over sums of counts, so that a stored result can be resampled.

``"100 * hallucinated / nouns"`` is a text: it stands in ``results.json``, says what the figure is, and gives its
interval and its difference from another model's without the data of the benchmark.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sightline.errors import DataError
from sightline.evaluation.bench import Graded, Result
from sightline.evaluation.statistics import (
    ANSWERS,
    Interval,
    Metric,
    Sums,
    bootstrap_all,
    divide,
    paired_differences,
)

_OPERATORS: Final[dict[type, Callable[[Any, Any], Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: lambda left, right: divide(np.asarray(left, dtype=float), np.asarray(right, dtype=float)),
    ast.Pow: lambda base, exponent: _power(np.asarray(base, dtype=float), exponent),
}
_ROUNDING: Final = 1e-3
"""Relative: figures that a script makes of rounded ones."""
_ALLOWED: Final = "Numbers, column names, + - * / ** and brackets"


def columns_of(expression: str) -> list[str]:
    """Column names that an expression reads, without ``answers``.

    Raises:
        DataError: It is no expression of numbers, columns, ``+ - * / **`` and brackets.
    """
    tree = _parse(expression)
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return sorted(names - {ANSWERS})


def formula(expression: str) -> Metric:
    """The metric that an expression stands for; NaN where something is divided by 0.

    >>> float(formula("2 * tp / (2 * tp + fp + fn)")({"tp": np.array(3.0), "fp": np.array(1.0), "fn": np.array(1.0)}))
    0.75

    Raises:
        DataError: It is no expression of numbers, columns, ``+ - * / **`` and brackets.
    """
    tree = _parse(expression)

    def metric(sums: Sums) -> NDArray[np.float64]:
        shape = next(iter(sums.values())).shape
        return np.broadcast_to(np.asarray(_value(tree, sums), dtype=float), shape)

    return metric


def evaluate(expression: str, graded: Sequence[Graded]) -> float:
    """The value of an expression on these answers; NaN where it is not defined."""
    sums = {name: np.asarray(sum(row.counts.get(name, 0) for row in graded)) for name in columns_of(expression)}
    return float(formula(expression)(sums | {ANSWERS: np.asarray(float(len(graded)))}))


def intervals(
    formulas: Mapping[str, str], graded: Sequence[Graded], *, seed: int = 0, resamples: int = 2000
) -> dict[str, Interval]:
    """Figures with their bootstrap 95 % intervals; answers about one picture are drawn together."""
    if not graded or not formulas:
        return {}
    return bootstrap_all(
        _table(formulas, graded),
        {name: formula(expression) for name, expression in formulas.items()},
        clusters=[row.cluster for row in graded],
        seed=seed,
        resamples=resamples,
    )


def category_intervals(result: Result, *, seed: int = 0, resamples: int = 2000) -> dict[str, dict[str, Interval]]:
    """Intervals of figures by category: where a figure's formula, on the answers of that category alone, gives what
    the result says. A category made in another way (means of means, pooled with other constants) has none.
    """
    rows: dict[str, list[Graded]] = {}
    for row in result.graded:
        rows.setdefault(str(row.details.get("category", "")), []).append(row)
    found = {}
    for category, values in result.by_category.items():
        own = {name: result.formulas[name] for name in values if name in result.formulas}
        estimates = intervals(own, rows.get(category, []), seed=seed, resamples=resamples)
        same = {n: one for n, one in estimates.items() if math.isclose(one.value, values[n], rel_tol=_ROUNDING)}
        found.update({category: same} if same else {})
    return found


def differences(
    formulas: Mapping[str, str],
    before: Sequence[Graded],
    after: Sequence[Graded],
    *,
    seed: int = 0,
    resamples: int = 2000,
) -> dict[str, Interval]:
    """After minus before on the same questions, paired, with bootstrap 95 % intervals.

    Raises:
        DataError: The two do not hold the same ids.
    """
    by_id = {row.id: row for row in after}
    if set(by_id) != {row.id for row in before}:
        both = len(set(by_id) & {row.id for row in before})
        raise DataError(
            f"the two sides grade different questions ({len(before)} and {len(after)}, {both} in common)",
            remedy="Compare results of the same benchmark, protocol and data",
        )
    if not before or not formulas:
        return {}
    return paired_differences(
        _table(formulas, before),
        _table(formulas, [by_id[row.id] for row in before]),
        {name: formula(expression) for name, expression in formulas.items()},
        clusters=[row.cluster for row in before],
        seed=seed,
        resamples=resamples,
    )


def _table(formulas: Mapping[str, str], graded: Sequence[Graded]) -> dict[str, list[float]]:
    names = sorted({name for expression in formulas.values() for name in columns_of(expression)})
    # a figure of numbers alone still needs a column to be resampled
    return {name: [float(row.counts.get(name, 0)) for row in graded] for name in names or ["none"]}


def _parse(expression: str) -> ast.expr:
    try:
        tree = ast.parse(expression, mode="eval").body
    except SyntaxError as error:
        raise DataError(f"the formula {expression!r} cannot be read", remedy=_ALLOWED) from error
    for node in ast.walk(tree):
        numeric = isinstance(node, ast.Constant) and type(node.value) in (int, float)
        shaped = isinstance(node, (ast.BinOp, ast.Name, ast.Load, ast.UnaryOp, ast.USub, *_OPERATORS))
        if not numeric and not shaped:
            raise DataError(f"the formula {expression!r} holds {type(node).__name__}", remedy=_ALLOWED)
    return tree


def _value(node: ast.expr, sums: Sums) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return sums[node.id]
    if isinstance(node, ast.UnaryOp):
        return -_value(node.operand, sums)
    assert isinstance(node, ast.BinOp)
    return _OPERATORS[type(node.op)](_value(node.left, sums), _value(node.right, sums))


def _power(base: NDArray[np.float64], exponent: Any) -> NDArray[np.float64]:
    """NaN for a root of what rounding left below 0."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.power(base, exponent))
