"""Benchmarks while a run trains, as a recipe describes them."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

_STRICT = ConfigDict(extra="forbid", str_strip_whitespace=False, allow_inf_nan=False)
_MOST = 2**31 - 1


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class BenchSpec:
    """One benchmark that is answered and graded during training."""

    bench: str
    """Name as in ``sightline eval list``, or ``package.module:INSTANCE``. One that needs no judge."""
    data: str
    """Folder of its questions and pictures."""
    protocol: str | None = None
    """How answers are graded; None: official."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The benchmark's own."""
    only: tuple[str, ...] = ()
    """Categories that are asked (``[generative]`` of AMBER); empty: all."""
    max_new_tokens: int | None = Field(default=None, ge=1, le=_MOST)
    """None: the protocol's."""
    metrics: tuple[str, ...] = ()
    """Figures to log, as ``bench/BENCH/METRIC``; empty: all."""
    selects: bool = False
    """True: these questions are held out to choose a checkpoint by, and are no result to report."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class EvaluationSpec:
    """Benchmarks during training, and which checkpoint is kept as the best."""

    every: int = Field(default=100, ge=1, le=_MOST)
    """Optimizer steps between two evaluations; the last step is always evaluated."""
    benches: tuple[BenchSpec, ...] = ()
    batch_size: int = Field(default=32, ge=1, le=_MOST)
    """Questions generated together on each process. Changes no answer."""
    best: str = "auto"
    """Logged metric whose best step is kept in ``<output_dir>/best``: ``eval/loss``, another one of ``data.eval``, or
    ``bench/BENCH/METRIC`` of a benchmark that ``selects``. auto: ``eval/loss`` where there is ``data.eval``,
    otherwise none. none: nothing is kept."""
