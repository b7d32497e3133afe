"""A model in few bits, held against the one that it was made from: what is asked, and what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from sightline import __version__
from sightline.errors import RecipeError
from sightline.evaluation.bench import Result
from sightline.evaluation.results import Change
from sightline.evaluation.statistics import Interval, bootstrap_all, mean, paired_differences
from sightline.models.compress import CALIBRATED, Kind
from sightline.models.export import Verified
from sightline.recipes.evaluation import BenchSpec
from sightline.recipes.load import check_spec

TOLERANCES: Mapping[Kind, float] = {"int8": 0.1, "nf4": 0.3, "gptq": 0.3, "awq": 0.3}
"""How far log-probabilities of answers may move on average, in nats a token."""
LEAST_KEPT = 0.5
"""Least share of what the picture does to answers that must be left."""


@dataclass(frozen=True, kw_only=True)
class QuantiseSpec:
    """How a model is quantised, and what it is held against."""

    kind: Kind
    calibration: int = 128
    """Most rows that ``gptq`` and ``awq`` learn from, none of those that are compared."""
    bench: BenchSpec | None = None
    """Answered and graded before and after; None: a few drawn scenes."""
    tolerance: float | None = None
    """Nats a token; None: ``TOLERANCES``."""
    python: Path | None = None
    """Interpreter that has LLM Compressor; None: this one."""

    @property
    def most(self) -> float:
        """The tolerance that holds."""
        return TOLERANCES[self.kind] if self.tolerance is None else self.tolerance


@dataclass(frozen=True, kw_only=True)
class Quantizing:
    """How an export is quantised: the options of ``sightline export --quantize``, None where one is left out."""

    kind: Kind
    calibration: Annotated[int, Field(ge=1)] | None = None
    """Most rows of the run that ``gptq`` and ``awq`` learn from, with their pictures; None: 128."""
    bench: str | None = None
    """``NAME=DIR``: the benchmark that is compared on, one that needs no judge; None: 32 drawn scenes."""
    only: tuple[str, ...] = ()
    """Categories of ``bench``; empty: all of it."""
    tolerance: Annotated[float, Field(ge=0)] | None = None
    """How far log-probabilities of answers may move on average, in nats a token; None: 0.3, of ``int8`` 0.1."""
    quantizer_python: Path | None = None
    """Interpreter of an environment with LLM Compressor, for ``gptq`` and ``awq``; None: this one."""

    def spec(self) -> QuantiseSpec:
        """As it was asked for.

        Raises:
            RecipeError: a value out of its range, an option that means nothing of this kind, or a benchmark without
                its folder.
        """
        asked = check_spec(Quantizing, "quantize", **vars(self))
        if asked.calibration is not None and asked.kind not in CALIBRATED:
            raise RecipeError(
                f"--calibration is for {' and '.join(CALIBRATED)}: {asked.kind} learns from nothing. Leave it out"
            )
        if asked.only and asked.bench is None:
            raise RecipeError("--only chooses categories of --bench, which is not there. Name one: --bench NAME=DIR")
        spec = QuantiseSpec(
            kind=asked.kind, bench=asked.named_bench(), tolerance=asked.tolerance, python=asked.quantizer_python
        )
        return spec if asked.calibration is None else replace(spec, calibration=asked.calibration)

    def named_bench(self) -> BenchSpec | None:
        """The benchmark and its folder.

        Raises:
            RecipeError: no folder.
        """
        if self.bench is None:
            return None
        name, _, folder = self.bench.partition("=")
        if not name or not folder:
            raise RecipeError(
                f"--bench {self.bench} names no folder. Write NAME=DIR, as in --bench pope=eval_data/pope"
            )
        return BenchSpec(bench=name, data=folder, only=self.only)


@dataclass(frozen=True, kw_only=True)
class Moved:
    """What quantising did to the log-probabilities of answers."""

    rows: int
    whose: str
    """Whose rows they are, in words."""
    tokens: int
    """Of answers."""
    mean: float
    """Mean difference, in nats a token."""
    most: float
    kept: float
    """Share of what the picture does to them that is left: the slope of what it does afterwards over what it did
    before. 1: all, 0: none."""
    figures: Sequence[Change]
    """``logprob``: of a token of an answer; ``picture``: how far that is from the same under a white picture."""

    @classmethod
    def of(cls, before: Answers, after: Answers, whose: str) -> Moved:
        """Both read the same rows."""
        old, new = before.seen, after.seen
        apart = (new - old).abs()
        did, does = before.effect, after.effect
        power = float((did * did).sum())
        columns = [
            {"logprob": one.seen.double().numpy(), "picture": one.effect.abs().double().numpy()}
            for one in (before, after)
        ]
        return cls(
            rows=len(set(before.row)),
            whose=whose,
            tokens=len(old),
            mean=float(apart.mean()),
            most=float(apart.max()),
            kept=float((did * does).sum()) / power if power else 1.0,  # nothing was there that could be lost
            figures=_figures(columns, before.row),
        )

    def faults(self, spec: QuantiseSpec) -> list[str]:
        """What is too far from the model that was quantised."""
        found = []
        if not self.mean <= spec.most:  # also where it is no number
            found.append(
                f"log-probabilities of answers moved by {self.mean:.3g} nats a token on average, where {spec.most:g} "
                "are tolerated"
            )
        if not self.kept >= LEAST_KEPT:
            found.append(f"{self.kept:.0%} of what the picture does to answers is left, where {LEAST_KEPT:.0%} must be")
        return found


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a model says of the answers of some rows, token by token."""

    row: Sequence[int]
    """[tokens] number of the row."""
    seen: Tensor
    """[tokens] log-probabilities under the row's picture, in nats."""
    effect: Tensor
    """[tokens] less those under a white picture."""

    @classmethod
    def of(cls, logprobs: Sequence[Tensor], lengths: Sequence[int]) -> Answers:
        """
        Args:
            logprobs: of whole rows, and behind these of the same rows under a white picture.
            lengths: tokens of the answer, with which a row ends.
        """
        count = len(lengths)
        ends = [one[-length:] for one, length in zip(logprobs, [*lengths, *lengths], strict=True)]
        seen, white = torch.cat(ends[:count]), torch.cat(ends[count:])
        row = [number for number, length in enumerate(lengths) for _ in range(length)]
        return cls(row=row, seen=seen, effect=seen - white)


@dataclass(frozen=True, kw_only=True)
class Quantised:
    """A model in few bits that was kept."""

    spec: QuantiseSpec
    step: int | None
    whole: Verified
    """The model in full precision against the trained one."""
    moved: Moved
    calibration: int
    """Rows that were learnt from."""
    layers: int
    untouched: int
    """Tensors that are the same bit by bit."""
    bytes: tuple[int, int]
    """Of weights on the disk, before and after."""
    result: Result
    """Of the benchmark, afterwards."""
    bench: Sequence[Change]

    def sentence(self) -> str:
        """For people."""
        (before, after), moved = self.bytes, self.moved
        learnt = f", calibrated on {self.calibration} others with their pictures" if self.calibration else ""
        return (
            f"{self.layers} layers of the decoder in {self.spec.kind}, {before / 1e6:.1f} MB became {after / 1e6:.1f}; "
            f"{self.untouched} tensors, all of vision tower and projector among them, are as they were, bit by bit. "
            f"Reloaded in a fresh process with plain transformers, {moved.rows} answers ({moved.whose}{learnt}): "
            f"log-probabilities moved by {moved.mean:.2g} nats a token on average and {moved.most:.2g} at most "
            f"({self.spec.most:g} on average are tolerated); {moved.kept:.0%} of what the picture does to them is left "
            f"({LEAST_KEPT:.0%} must be)"
        )

    def document(self) -> dict[str, Any]:
        """Plain JSON."""
        moved = self.moved
        return {
            "sightline": __version__,
            "kind": self.spec.kind,
            "step": self.step,
            "layers": self.layers,
            "untouched": self.untouched,
            "bytes": {"before": self.bytes[0], "after": self.bytes[1]},
            "calibration": self.calibration,
            "compared": {"rows": moved.rows, "whose": moved.whose, "tokens": moved.tokens},
            "moved": {"mean": moved.mean, "most": moved.most, "tolerance": self.spec.most},
            "picture_kept": {"share": moved.kept, "least": LEAST_KEPT},
            "figures": {one.metric: _plain(one) for one in moved.figures},
            "benchmark": {
                "name": self.result.bench,
                "protocol": self.result.protocol,
                "answers": len(self.result.graded),
                "figures": {one.metric: _plain(one) for one in self.bench},
            },
        }

    def table(self) -> str:
        """For the model card."""
        named = [(one.metric, one) for one in self.moved.figures]
        named += [(f"{self.result.bench}: {one.metric}", one) for one in self.bench]
        lines = ["| figure | before | after | difference |", "|---|---|---|---|"]
        for name, one in named:
            cells = [_cell(side) for side in (one.before, one.after, one.difference)]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        return "\n".join(lines)


def _figures(columns: Sequence[Mapping[str, np.ndarray]], rows: Sequence[int]) -> list[Change]:
    metrics = {name: mean(name) for name in ("logprob", "picture")}
    before, after = (bootstrap_all(side, metrics, clusters=rows) for side in columns)
    apart = paired_differences(columns[0], columns[1], metrics, clusters=rows)
    return [
        Change(metric=name, before=before[name], after=after[name], difference=apart[name], better="neither")
        for name in metrics
    ]


def _plain(change: Change) -> dict[str, Any]:
    return {side: asdict(value) for side, value in vars(change).items() if isinstance(value, Interval)}


def _cell(value: Interval) -> str:
    return f"{value.value:.4g} [{value.low:.4g}, {value.high:.4g}]"
