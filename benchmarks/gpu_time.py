"""Times and memory on a device, and the fastest that it multiplies matrices."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

DATASHEET = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bf16 FLOP/s that makers promise, by a part of the device's name."""


@dataclass(frozen=True, kw_only=True)
class Clock:
    """Times work on a device, which runs behind the program: every reading waits for it."""

    device: str
    """``cuda`` or ``cpu``."""

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def once(self, work: Callable[[], Any]) -> float:
        """Seconds of one call."""
        self.wait()
        began = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - began

    def median(self, work: Callable[[], Any], rounds: int) -> float:
        """Of ``rounds`` calls after one that warms up."""
        self.once(work)
        return statistics.median(self.once(work) for _ in range(rounds))

    def forget_peak(self) -> None:
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def peak_mb(self) -> float:
        """MiB in tensors at most since ``forget_peak``; 0 on a CPU."""
        return torch.cuda.max_memory_allocated() / 2**20 if self.device == "cuda" else 0.0

    def allocations(self) -> int:
        """How often memory was asked of the driver so far, rather than taken from what was kept; 0 on a CPU."""
        return int(torch.cuda.memory_stats().get("num_device_alloc", 0)) if self.device == "cuda" else 0

    def ceiling(self, dtype: torch.dtype, size: int) -> float:
        """FLOP/s of a product of two square matrices: the share of it that a step reaches is its MFU here."""
        one, other = (torch.randn(size, size, device=self.device, dtype=dtype) for _ in range(2))
        return 2 * size**3 / self.median(lambda: one @ other, 10)


class Budget:
    """Time that may be spent."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        return self._end - time.monotonic()
