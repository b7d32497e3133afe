"""Results whose figure is a mean over answers: the rows of counts, overall and by category."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sightline.evaluation.bench import Graded

ACCURACY: Final = "correct / answers"
PERCENT: Final = "100 * correct / answers"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One question as its file tells it."""

    id: str
    text: str
    """What the model is asked."""
    truth: str
    category: str = ""
    cluster: str = ""
    """Id of the picture; empty: each question its own."""
    image: str = ""
    """Path of the picture; empty where it was not asked for, or there is none."""
    options: Mapping[str, str] | None = None
    """Letter to text."""
    extra: Mapping[str, Any] | None = None
    """What else the protocols read."""


def grade_row(row: Row, answer: str, correct: float, read: str | None = None, **counts: float) -> Graded:
    """What an answer counts for.

    Args:
        row: The question.
        answer: As the model wrote it.
        correct: 0 or 1, or a soft score between.
        read: What the grader read out of the answer, where it reads anything.
        counts: Further columns.
    """
    details: dict[str, Any] = {"answer": answer, "question": row.text, "truth": row.truth, "category": row.category}
    if read is not None:
        details["read"] = read
    return Graded(
        id=row.id,
        cluster=row.cluster or row.id,
        counts={"correct": float(correct), **counts},
        details={**details, "error": 1 - float(correct)},
    )


def mean(values: Iterable[float]) -> float:
    """The mean; 0 of nothing."""
    found = list(values)
    return sum(found) / len(found) if found else 0.0


def accuracy(graded: Iterable[Graded]) -> float:
    """Mean of ``correct``, in [0, 1]."""
    return mean(row.counts["correct"] for row in graded)


def accuracies(graded: Sequence[Graded], keys: Sequence[str], *, scale: float = 1.0) -> dict[str, dict[str, float]]:
    """Accuracy and number of answers under each key, keys in order of appearance.

    Args:
        graded: [n] the answers.
        keys: [n] what each counts under.
        scale: 100 for percent.
    """
    by_key: dict[str, list[Graded]] = {}
    for row, key in zip(graded, keys, strict=True):
        by_key.setdefault(key, []).append(row)
    return {key: {"accuracy": scale * accuracy(rows), "answers": float(len(rows))} for key, rows in by_key.items()}


def column(name: str) -> str:
    """A category as the name of a column of counts.

    >>> column("image style & quality"), column("3D")
    ('image_style_quality', 'in_3d')
    """
    plain = re.sub(r"\W+", "_", name.lower()).strip("_") or "none"
    return plain if plain.isidentifier() else f"in_{plain}"


def counted(keys: Sequence[str], correct: float) -> dict[str, float]:
    """Columns ``<key>_correct`` and ``<key>_asked``, for figures that weigh categories."""
    names = [column(key) for key in keys]
    return {f"{name}_correct": float(correct) for name in names} | {f"{name}_asked": 1.0 for name in names}


def mean_of_ratios(keys: Iterable[str]) -> str:
    """The formula of an unweighted mean of accuracies by category.

    >>> mean_of_ratios(["2D", "math"])
    '(in_2d_correct / in_2d_asked + math_correct / math_asked) / 2'
    """
    names = [column(key) for key in keys]
    return f"({' + '.join(f'{name}_correct / {name}_asked' for name in names)}) / {len(names)}"
