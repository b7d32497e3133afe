"""What a run reports: exact means over ranks and micro-batches, one JSON line per logged step."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from sightline.files import replace_file
from sightline.types import Stat


class Gathers(Protocol):
    """The part of the runtime that metrics need."""

    def gather_objects(self, value: dict[str, tuple[float, float]]) -> list[dict[str, tuple[float, float]]]: ...


class Meter:
    """Sums and counts of the steps since the last log line; the mean is taken once, over all ranks.

    A mean of means would depend on how groups fell on ranks and micro-batches; sum over count does not.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, float] = {}

    def add(self, stats: Mapping[str, Stat]) -> None:
        """Adds this rank's part of some statistics."""
        for name, stat in stats.items():
            value = stat.sum.detach().to(self._device, torch.float64)
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0.0) + stat.count

    def reduce(self, runtime: Gathers) -> dict[str, float]:
        """Means over all ranks, and an empty meter. What was never counted is left out. Every rank must call."""
        total: dict[str, tuple[float, float]] = {}
        for part in runtime.gather_objects(self.state()):
            for name, (value, count) in part.items():
                before = total.get(name, (0.0, 0.0))
                total[name] = (before[0] + value, before[1] + count)
        self._sums, self._counts = {}, {}
        return {name: value / count for name, (value, count) in total.items() if count}

    def state(self) -> dict[str, tuple[float, float]]:
        """This rank's sums and counts, for a checkpoint between two log lines."""
        values = torch.stack(list(self._sums.values())).tolist() if self._sums else []
        return {name: (value, self._counts[name]) for name, value in zip(self._sums, values, strict=True)}

    def load_state(self, state: Mapping[str, tuple[float, float]]) -> None:
        self._sums = {n: torch.tensor(v, dtype=torch.float64, device=self._device) for n, (v, _) in state.items()}
        self._counts = {name: count for name, (_, count) in state.items()}


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
