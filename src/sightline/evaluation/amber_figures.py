"""AMBER's figures from the counts of its answers, in the manner of each protocol."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from sightline.evaluation.bench import Graded

BIAS: Final = 0.001
"""What every denominator starts at (``metrics.txt``)."""
ATTRIBUTES: Final = ("state", "number", "action")
DIMENSIONS: Final = {"existence": ("existence",), "attribute": ATTRIBUTES, "relation": ("relation",)}
"""Dimension to its kinds of question."""
EVERYTHING: Final = ("existence", *ATTRIBUTES, "relation")
F1_BIAS: Final = 0.0001
EXISTENCE_F1_BIAS: Final = 0.001
"""The script adds another number to the denominator of F1 in this block only."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What a ``Result`` says, being filled."""

    metrics: dict[str, float] = field(default_factory=dict)
    printed: dict[str, str] = field(default_factory=dict)
    formulas: dict[str, str] = field(default_factory=dict)
    by_category: dict[str, dict[str, float]] = field(default_factory=dict)

    def add(self, name: str, value: float, formula: str, printed: str | None = None) -> None:
        """One figure; printed with one decimal, if nothing else is given."""
        self.metrics[name], self.formulas[name] = value, formula
        self.printed[name] = str(round(value, 1)) if printed is None else printed


def figures(graded: Sequence[Graded], protocol: str, parts: Sequence[str]) -> Figures:
    """All figures of the answered parts (``generative``, ``existence``, ``attribute``, ``relation``)."""
    sums: Counter[str] = Counter()
    for row in graded:
        sums.update(row.counts)
    found = Figures()
    if protocol == "vlmevalkit":
        _add_accuracies(found, sums, parts)
        return found
    if "generative" in parts:
        _add_generative(found, sums, protocol)
    answered = {name: kinds for name, kinds in DIMENSIONS.items() if name in parts}
    if len(answered) == len(DIMENSIONS):
        _add_block(found, sums, EVERYTHING, BIAS)
    for name, kinds in answered.items():
        found.by_category[name] = block(sums, kinds)
        if len(answered) < len(DIMENSIONS):  # nothing is pooled: what the script prints are the dimensions themselves
            _add_block(found, sums, kinds, BIAS * len(kinds), f"{name}_")
    if "attribute" in parts:
        found.by_category.update((kind, block(sums, (kind,))) for kind in ATTRIBUTES)
    if "chair" in found.metrics and "f1" in found.metrics:
        chair, f1 = (round(found.metrics[name], 1) for name in ("chair", "f1"))
        formula = f"(100 - ({found.formulas['chair']}) + {found.formulas['f1']}) / 2"
        found.add("amber_score", (100 - chair + f1) / 2, formula)
    return found


def _add_generative(found: Figures, sums: Counter[str], protocol: str) -> None:
    each = protocol == "lmms-eval"  # it keeps one counter per answer, so the bias is added once for each
    bias = BIAS * (sums["descriptions"] if each else 1)
    text = f"{BIAS} * descriptions" if each else f"{BIAS}"

    def add(name: str, value: float, formula: str) -> None:
        found.add(name, value, formula, f"{value:.4f}" if each else None)

    def add_ratio(name: str, part: str, whole: str) -> None:
        add(name, 100 * sums[part] / (sums[whole] + bias), f"100 * {part} / ({whole} + {text})")

    add_ratio("chair", "hallucinated", "nouns")
    add_ratio("cover", "covered", "objects")
    hal = 100 - 100 * sums["clean"] / (sums["descriptions"] + bias)
    add("hal", hal, f"100 - 100 * clean / (descriptions + {text})")
    add_ratio("cog", "lured", "targets")
    if protocol == "ovip":
        # its lookup.py reads what inference.py printed, and prints two decimals
        right, cover = 100 - float(found.printed["chair"]), float(found.printed["cover"])
        formula_right, formula_cover = f"(100 - {found.formulas['chair']})", found.formulas["cover"]
        formula = f"2 * {formula_right} * ({formula_cover}) / ({formula_right} + {formula_cover})"
        mean = 2 * right * cover / (right + cover) if right + cover else 0.0
        found.add("generative_f1", mean, formula, f"{mean:.2f}")


def _add_block(found: Figures, sums: Counter[str], kinds: Sequence[str], bias: float, prefix: str = "") -> None:
    """The four figures of some kinds of question, pooled, with what they are of."""
    values = block(sums, kinds, bias=bias)
    right, asked, label_no, said_no, right_no = (
        "(" + " + ".join(f"{kind}_{column}" for kind in kinds) + ")"
        for column in ("right", "asked", "label_no", "said_no", "right_no")
    )
    precision, recall = f"(100 * {right_no} / ({said_no} + {bias}))", f"(100 * {right_no} / ({label_no} + {bias}))"
    found.add(f"{prefix}accuracy", values["accuracy"], f"100 * {right} / ({asked} + {bias})")
    found.add(f"{prefix}precision", values["precision"], precision)
    found.add(f"{prefix}recall", values["recall"], recall)
    f1_bias = 100 * _f1_bias(kinds)
    found.add(f"{prefix}f1", values["f1"], f"2 * {precision} * {recall} / ({precision} + {recall} + {f1_bias})")


def block(sums: Counter[str], kinds: Iterable[str], *, bias: float | None = None) -> dict[str, float]:
    """Accuracy, precision, recall and F1 in percent of some kinds of question; the positive class is no.

    Args:
        sums: Counts of all answers.
        kinds: Pooled here.
        bias: Start of the denominators; None: 0.001 for each kind, as the script adds its counters up.
    """
    kinds = tuple(kinds)
    start = BIAS * len(kinds) if bias is None else bias
    right, asked, label_no, said_no, right_no = (
        sum(sums[f"{kind}_{column}"] for kind in kinds)
        for column in ("right", "asked", "label_no", "said_no", "right_no")
    )
    precision, recall = 100 * right_no / (said_no + start), 100 * right_no / (label_no + start)
    return {
        "accuracy": 100 * right / (asked + start),
        "precision": precision,
        "recall": recall,
        "f1": _f1(precision, recall, _f1_bias(kinds)),
    }


def _f1_bias(kinds: Sequence[str]) -> float:
    return EXISTENCE_F1_BIAS if tuple(kinds) == ("existence",) else F1_BIAS


def _f1(precision: float, recall: float, bias: float) -> float:
    """F1 in percent of the rounded percentages, as the script takes it."""
    right, found = round(precision, 1) / 100, round(recall, 1) / 100
    return 2 * right * found / (right + found + bias) * 100


def _add_accuracies(found: Figures, sums: Counter[str], parts: Sequence[str]) -> None:
    """VLMEvalKit: the accuracy of each dimension, and their mean."""
    names = [name for name in DIMENSIONS if name in parts]
    formulas = []
    for name in names:
        right, asked = (sum(sums[f"{kind}_{column}"] for kind in DIMENSIONS[name]) for column in ("right", "asked"))
        top, bottom = (" + ".join(f"{kind}_{column}" for kind in DIMENSIONS[name]) for column in ("right", "asked"))
        formulas.append(f"100 * ({top}) / ({bottom})")
        accuracy = right / asked * 100  # in its order, for it prints all digits
        found.add(name, accuracy, formulas[-1], str(accuracy))
        found.by_category[name] = {"accuracy": found.metrics[name]}
    mean = sum(found.metrics[name] for name in names) / len(names)
    found.add("avg_acc", mean, f"({' + '.join(formulas)}) / {len(names)}", str(mean))
