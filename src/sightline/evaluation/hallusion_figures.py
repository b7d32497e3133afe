"""HallusionBench's figures from graded answers: the leaderboard's accuracies and the diagnosis beside them.

As ``evaluation.py`` and ``utils.py`` of tianyi-lab/HallusionBench compute them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from sightline.evaluation.bench import Better, Graded

_METRICS: Final = {
    "pair_acc": "pairs",
    "figure_acc": "figures",
    "easy_acc": "easy_pairs",
    "hard_acc": "hard_pairs",
}
"""Figure to what it is the share of right ones of."""
FORMULAS: Final = {
    "question_acc": "100 * right / answers",
    **{metric: f"100 * {wholes}_right / {wholes}" for metric, wholes in _METRICS.items()},
    "yes_diff": "said_yes / answers - true_yes / answers",
    "fp_ratio": "(wrong - wrong_yes) / wrong",
    "consistency_correct": "100 * figures_right / figures",
    "consistency_inconsistent": "100 * figures_mixed / figures",
    "consistency_wrong": "100 * figures_wrong / figures",
    "language_hallucination": "100 * language / (language + vision + mixed)",
    "visual_illusion": "100 * vision / (language + vision + mixed)",
    "mixed": "100 * mixed / (language + vision + mixed)",
}
_UNROUNDED: Final = ("yes_diff", "fp_ratio")
"""The script prints these as they are, the others with four decimals."""
BETTER: Final[dict[str, Better]] = {
    # best at 0 and at 0.5
    **dict.fromkeys(("yes_diff", "fp_ratio"), "neither"),
    **dict.fromkeys(("consistency_inconsistent", "consistency_wrong"), "lower"),
    # shares of the errors, whatever their number
    **dict.fromkeys(("language_hallucination", "visual_illusion", "mixed"), "neither"),
}


def figures(graded: Sequence[Graded], protocol: str) -> dict[str, float]:
    """Percent right of questions, pairs, figures; officially also by original and edited figure, and the diagnosis."""
    percent = _kit_percent if protocol == "vlmevalkit" else _percent
    metrics = {"question_acc": percent(bool(row.counts["right"]) for row in graded)}
    kinds = _kinds(graded)
    for metric, name in _METRICS.items():
        if protocol == "official" or name in ("pairs", "figures"):
            key, rows = kinds[name]
            metrics[metric] = percent(right == asked for right, asked in _wholes(rows, key).values())
    return metrics | _diagnosis(graded) if protocol == "official" else metrics


def _diagnosis(graded: Sequence[Graded]) -> dict[str, float]:
    """The script's second table; NaN where it would divide by 0, for example for a model without an error."""

    def total(name: str) -> float:
        return sum(row.counts.get(name, 0.0) for row in graded)

    key, rows = _kinds(graded)["figures"]
    states = list(_wholes(rows, key).values())
    blamed = {name: total(name) for name in ("language", "vision", "mixed")}
    errors, wrong = sum(blamed.values()), total("wrong")
    return {
        "yes_diff": total("said_yes") / len(graded) - total("true_yes") / len(graded) if graded else math.nan,
        "fp_ratio": (wrong - total("wrong_yes")) / wrong if wrong else math.nan,
        "consistency_correct": _percent(right == asked for right, asked in states),
        "consistency_inconsistent": _percent(0 < right < asked for right, asked in states),
        "consistency_wrong": _percent(right == 0 for right, _ in states),
        "language_hallucination": 100 * blamed["language"] / errors if errors else math.nan,
        "visual_illusion": 100 * blamed["vision"] / errors if errors else math.nan,
        "mixed": 100 * blamed["mixed"] / errors if errors else math.nan,
    }


def pair_faults(graded: Sequence[Graded]) -> dict[str, int]:
    """How many wrong pairs come from language, from vision, from both, as ``gpt4v_benchmark.py`` prints them.

    An answer of mixed fault counts as both. Pairs with no attributed error are in none.
    """
    faults: dict[str, set[str]] = {}
    for row in graded:
        faults.setdefault(row.details["pair"], set()).add(row.details.get("fault", ""))
    found = {"language": 0, "vision": 0, "mixed": 0}
    for names in faults.values():
        blamed = names & {"language", "vision"}
        if "mixed" in names or len(blamed) == 2:
            found["mixed"] += 1
        elif blamed:
            found[blamed.pop()] += 1
    return found


def _kinds(graded: Sequence[Graded]) -> dict[str, tuple[str, Sequence[Graded]]]:
    """What is right as a whole: kind to the key of its wholes and the answers that it takes in."""
    return {
        "pairs": ("pair", graded),
        "figures": ("figure", [row for row in graded if not row.details["no_figure"]]),
        "easy_pairs": ("pair", [row for row in graded if not row.details["hard"]]),
        "hard_pairs": ("pair", [row for row in graded if row.details["hard"]]),
    }


def _percent(right: Iterable[bool]) -> float:
    values = list(right)
    return 100 * sum(values) / len(values) if values else 0.0


def _kit_percent(right: Iterable[bool]) -> float:
    """As VLMEvalKit, which prints all digits, multiplies: after it has divided."""
    values = list(right)
    return sum(values) / len(values) * 100 if values else 0.0


def _wholes(graded: Sequence[Graded], key: str) -> dict[str, tuple[int, int]]:
    """Pair or figure to how many of its questions are right, and how many it has."""
    found: dict[str, tuple[int, int]] = {}
    for row in graded:
        right, asked = found.get(row.details[key], (0, 0))
        found[row.details[key]] = (right + int(row.counts["right"]), asked + 1)
    return found


def count_wholes(graded: Sequence[Graded]) -> list[Graded]:
    """Pairs and figures counted once, at their first question: all questions of a set are one cluster."""
    done: set[tuple[str, str]] = set()
    counts = {row.id: dict(row.counts) for row in graded}
    for name, (key, rows) in _kinds(graded).items():
        wholes = _wholes(rows, key)
        for row in rows:
            whole = (name, row.details[key])
            if whole in done:
                continue
            right, asked = wholes[whole[1]]
            states = {"right": right == asked, "wrong": right == 0, "mixed": 0 < right < asked}
            counts[row.id] |= {name: 1.0} | {f"{name}_{state}": float(held) for state, held in states.items()}
            done.add(whole)
    return [replace(row, counts=counts[row.id]) for row in graded]


def printed(name: str, value: float, protocol: str) -> str:
    """A figure as the protocol's script prints it."""
    return str(value if protocol == "vlmevalkit" or name in _UNROUNDED else round(value, 4))
