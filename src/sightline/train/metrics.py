"""What a run reports: exact means over ranks and micro-batches, one JSON line per logged step."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from sightline.files import replace_file
from sightline.types import Stat

Kind = Literal["mean", "max", "min"]
Kept = tuple[float, float, Kind]
"""(sum or extreme, count, kind)."""
_JOIN: Mapping[Kind, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": torch.add,
    "max": torch.maximum,
    "min": torch.minimum,
}
_JOIN_NUMBERS: Mapping[Kind, Callable[[float, float], float]] = {"mean": operator.add, "max": max, "min": min}


class Gathers(Protocol):
    """The part of the runtime that metrics need."""

    def gather_objects(self, value: dict[str, Kept]) -> list[dict[str, Kept]]: ...


class Meter:
    """Sums and counts of the steps since the last log line; the mean is taken once, over all ranks.

    A mean of means would depend on how groups fell on ranks and micro-batches; sum over count does not. Of extremes
    the greatest or least is kept.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, float] = {}
        self._kinds: dict[str, Kind] = {}

    def add(self, stats: Mapping[str, Stat]) -> None:
        """Adds this rank's part of some statistics."""
        for name, stat in stats.items():
            value = stat.sum.detach().to(self._device, torch.float64, non_blocking=True)
            self._sums[name] = _JOIN[stat.kind](self._sums[name], value) if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0.0) + stat.count
            self._kinds[name] = stat.kind

    def reduce(self, runtime: Gathers) -> dict[str, float]:
        """Means over all ranks, and an empty meter. What was never counted is left out. Every rank must call."""
        total: dict[str, Kept] = {}
        for part in runtime.gather_objects(self.state()):
            for name, (value, count, kind) in part.items():
                before = total.get(name)
                joined = value if before is None else _JOIN_NUMBERS[kind](before[0], value)
                total[name] = (joined, count + (0.0 if before is None else before[1]), kind)
        self._sums, self._counts, self._kinds = {}, {}, {}
        return {n: value / count if kind == "mean" else value for n, (value, count, kind) in total.items() if count}

    def state(self) -> dict[str, Kept]:
        """This rank's sums and counts, for a checkpoint between two log lines."""
        values = torch.stack(list(self._sums.values())).tolist() if self._sums else []
        named = zip(self._sums, values, strict=True)
        return {name: (value, self._counts[name], self._kinds[name]) for name, value in named}

    def load_state(self, state: Mapping[str, Kept]) -> None:
        self._sums = {n: torch.tensor(v[0], dtype=torch.float64, device=self._device) for n, v in state.items()}
        self._counts = {name: count for name, (_, count, _) in state.items()}
        self._kinds = {name: kind for name, (_, _, kind) in state.items()}


class MetricsFile:
    """``metrics.jsonl``: one line per logged step, steps rising, each once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, record: Mapping[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def drop_after(self, step: int) -> None:
        """Removes the lines of later steps, and a half-written one: a resumed run writes them again."""
        if not self.path.exists():
            return
        kept = [line for line in self.path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
        replace_file(self.path, "".join(f"{line}\n" for line in kept))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a ``metrics.jsonl``, in order; without a half-written last one, which a kill leaves."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if math.isfinite(_step_of(line))]


def _step_of(line: str) -> float:
    """The step of a line; infinity where the line is not whole."""
    try:
        return float(json.loads(line)["step"])
    except json.JSONDecodeError:
        return float("inf")


_SHOWN = (("loss", "loss"), ("rewards/accuracies", "accuracy"), ("reward", "reward"))


def figures_of(record: Mapping[str, Any]) -> str:
    """The figures of a record that progress shows: ``loss 0.598  accuracy 0.769``."""
    return "  ".join(f"{label} {record[key]:.3f}" for key, label in _SHOWN if key in record)
