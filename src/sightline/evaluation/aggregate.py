"""Figures over several benchmarks: the experiment row of OViP (arXiv:2505.15963), its HRI and its General sum.

An index that is scaled by a reference model says nothing without naming it: base and reference values are declared
in :data:`OVIP_7B` and can be replaced by a file, for example with your own base model.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from sightline.errors import DataError
from sightline.evaluation.results import RESULTS, Measured, read_measured

GENERAL: Final = ("realworldqa", "textvqa", "mmstar", "cvbench")
HRI_FIGURES: Final = ("mmhal_score", "amber_generative_f1", "object_f1", "llava_bench", "amber_discriminative_f1")
_LAST_NUMBER: Final = re.compile(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?$")
"""What stands at the end: ``7.8``, ``58.20%`` without its sign, ``3/4 = 0.75``."""
_POINTS: Final = 2.0
"""Points of each of the five figures, so that the reference has 10."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What the index is scaled by."""

    name: str
    base: Mapping[str, float]
    """Figure to the value that gives 0 points."""
    reference: Mapping[str, float]
    """Figure to the value that gives 2 points."""

    def summary(self) -> str:
        """Name and values."""
        ends = (
            f"{name} {self.base[name]:g} to {self.reference[name]:g}" for name in self.base if name in self.reference
        )
        return f"{self.name} ({', '.join(ends)})"


OVIP_7B: Final = Reference(
    name="LLaVA-1.5-7B to OViP after 1 epoch, as published; OViP's own index takes 2 epochs, whose values are not",
    base={
        "mmhal_score": 1.90,
        "amber_generative_f1": 65.01,
        "object_f1": 72.40,
        "llava_bench": 57.20,
        "amber_discriminative_f1": 85.5,
    },
    reference={
        "mmhal_score": 2.52,
        "amber_generative_f1": 66.70,
        "object_f1": 73.50,
        "llava_bench": 63.10,
        "amber_discriminative_f1": 87.3,
    },
)


def read_evaluation(folder: Path) -> dict[str, Measured]:
    """Results of one model by benchmark, from a folder that ``sightline eval`` wrote.

    Raises:
        DataError: It holds none.
    """
    found = {path.parent.name: read_measured(path) for path in sorted(folder.glob(f"*/{RESULTS}"))}
    if not found:
        raise DataError("holds no results", source=str(folder), remedy="Give the --out of `sightline eval run`")
    return {measured.result.bench: measured for measured in found.values()}


def ovip_row(results: Mapping[str, Measured]) -> dict[str, float]:
    """The figures of OViP's experiment row, in percent but for MMHal's 0 to 6; those whose benchmark is there.

    Made of printed figures, as its script does: AMBER's F1 is that of CHAIR and Cover with one decimal each.

    ``general`` is the plain sum of RealWorldQA, TextVQA, MMStar and CV-Bench, and needs all four.
    """
    row = _hallucination(results)
    accuracies = {name: _percent(results[name]) for name in GENERAL if name in results}
    row |= accuracies
    if len(accuracies) == len(GENERAL):
        row["general"] = sum(accuracies.values())
    return row


def hri(row: Mapping[str, float], reference: Reference = OVIP_7B) -> float:
    """Hallucination reduction index: ``2 * sum((s - base) / (reference - base))`` over five figures.

    0 is the base model, 10 the reference.

    Raises:
        DataError: A figure is missing from the row or from the reference, or base and reference agree in it.
    """
    missing = [name for name in HRI_FIGURES if name not in row]
    if missing:
        raise DataError(
            f"the index lacks {', '.join(missing)}", remedy="Evaluate amber, mmhal, object_halbench and llava_bench"
        )
    total = 0.0
    for name in HRI_FIGURES:
        if name not in reference.base or name not in reference.reference:
            raise DataError(f"has no value for {name}", source=reference.name, remedy="Declare base and reference")
        span = reference.reference[name] - reference.base[name]
        if not span:
            raise DataError(f"base and reference agree in {name}", source=reference.name, remedy="Declare others")
        total += (row[name] - reference.base[name]) / span
    return _POINTS * total


def load_reference(path: Path) -> Reference:
    """A reference from a JSON file with ``name``, ``base`` and ``reference``.

    Raises:
        DataError: It is no such file.
    """
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        ends = {end: {name: float(value) for name, value in told[end].items()} for end in ("base", "reference")}
        if not all(math.isfinite(value) for values in ends.values() for value in values.values()):
            raise ValueError("a value is no finite number")
        return Reference(**{**told, **ends})
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        shape = json.dumps(asdict(OVIP_7B))
        raise DataError(f"is no reference ({error})", source=str(path), remedy=f"Write one like {shape}") from error


def harmonic_mean(first: float, second: float) -> float:
    """0 where both are 0."""
    return 2 * first * second / (first + second) if first + second else 0.0


def _hallucination(results: Mapping[str, Measured]) -> dict[str, float]:
    row: dict[str, float] = {}
    if "amber" in results:
        amber = _printed(results["amber"])
        if "chair" in amber:
            row |= {"amber_chair": amber["chair"], "amber_cover": amber["cover"]}
            row["amber_generative_f1"] = harmonic_mean(100 - amber["chair"], amber["cover"])
        if "f1" in amber:
            row["amber_discriminative_f1"] = amber["f1"]
    if "mmhal" in results:
        row["mmhal_score"] = _printed(results["mmhal"])["average_score"]
    if "object_halbench" in results:
        objects = _printed(results["object_halbench"])
        row["object_response_hall"] = objects["response_hall"]
        row["object_f1"] = harmonic_mean(objects["object_correct"], objects["object_recall"])
    if "llava_bench" in results:
        row["llava_bench"] = _printed(results["llava_bench"])["score"]
    return {name: value for name, value in row.items() if not math.isnan(value)}


def _printed(measured: Measured) -> dict[str, float]:
    """The figures of a result as its protocol's script prints them: OViP's ``lookup.py`` reads what was printed."""
    result = measured.result
    shown = {name: _LAST_NUMBER.search(text.rstrip("% ")) for name, text in result.metrics_printed.items()}
    return {**result.metrics, **{name: float(match[0]) for name, match in shown.items() if match}}


def _percent(measured: Measured) -> float:
    """Accuracy in percent: protocols differ in whether they give a share or a percentage."""
    result = measured.result
    # where lmms-eval's own figure is the plain accuracy of CV-Bench, the weighted one stands beside it
    name = "weighted_accuracy" if "weighted_accuracy" in result.metrics else "accuracy"
    shares = not result.formulas.get(name, "").startswith("100 *")
    return (100 if shares else 1) * _printed(measured)[name]
