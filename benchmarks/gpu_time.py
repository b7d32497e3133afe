"""Times and memory on a device, and the fastest that it multiplies matrices."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, kw_only=True)
class Clock:
    """Times work on a device, which runs behind the program: every reading waits for it."""

    device: str
    """``cuda`` or ``cpu``."""
    rounds: int

    def time(self, work: Callable[[], Any]) -> dict[str, float]:
        """Median seconds of ``rounds`` calls after one more that warms up, and peak memory in MiB (0 on a CPU)."""
        work()
        self.wait()
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds = []
        for _ in range(self.rounds):
            began = time.perf_counter()
            work()
            self.wait()
            seconds.append(time.perf_counter() - began)
        peak = torch.cuda.max_memory_allocated() / 2**20 if self.device == "cuda" else 0.0
        return {"seconds": statistics.median(seconds), "peak_mb": peak}

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def ceiling(self, dtype: torch.dtype, size: int) -> float:
        """FLOP/s of a product of two square matrices: the share of it that a step reaches is its MFU here."""
        one, other = (torch.randn(size, size, device=self.device, dtype=dtype) for _ in range(2))
        return 2 * size**3 / self.time(lambda: one @ other)["seconds"]


def name_of(device: str) -> dict[str, str]:
    """What the figures were measured on."""
    gpu = torch.cuda.get_device_name() if device == "cuda" else "none (cpu)"
    return {"gpu": gpu, "torch": torch.__version__, "cuda": str(torch.version.cuda)}
