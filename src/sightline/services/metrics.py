"""Counts of a service as Prometheus reads them (text format 0.0.4)."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(kw_only=True)
class Metrics:
    """Counters and gauges. Labels are routes and statuses of the service, never what a client sent."""

    gauges: dict[str, Callable[[], float]] = field(default_factory=dict)
    """Name to what is read when asked for."""
    requests: Counter[tuple[str, int]] = field(default_factory=Counter)
    """By route and status."""
    _seconds: Counter[str] = field(default_factory=Counter)
    _sums: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def request(self, route: str, status: int, seconds: float) -> None:
        """One request was answered."""
        with self._lock:
            self.requests[route, status] += 1
            self._seconds[route] += seconds  # type: ignore[assignment]

    def batch(self, size: int, seconds: float) -> None:
        """One batch was worked on."""
        with self._lock:
            self._sums["batches_total"] += 1
            self._sums["batch_items_total"] += size
            self._sums["batch_seconds_total"] += seconds  # type: ignore[assignment]

    def text(self) -> str:
        """All of them."""
        with self._lock:
            told = ["# TYPE sightline_requests_total counter"]
            told += [
                f'sightline_requests_total{{route="{route}",status="{status}"}} {number}'
                for (route, status), number in sorted(self.requests.items())
            ]
            told.append("# TYPE sightline_request_seconds_total counter")
            told += [
                f'sightline_request_seconds_total{{route="{route}"}} {seconds:.6f}'
                for route, seconds in sorted(self._seconds.items())
            ]
            for name in ("batches_total", "batch_items_total", "batch_seconds_total"):
                told += [f"# TYPE sightline_{name} counter", f"sightline_{name} {self._sums[name]}"]
        for name, read in self.gauges.items():
            told += [f"# TYPE sightline_{name} gauge", f"sightline_{name} {read():.6g}"]
        return "\n".join(told) + "\n"
