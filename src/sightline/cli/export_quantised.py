"""``sightline export --quantize``: its options, and the table that it prints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich import box
from rich.table import Table
from rich.text import Text

from sightline.cli.console import out as console_out
from sightline.cli.console import print_error, say, show_messages
from sightline.cli.json_result import Document, Ended, error_document
from sightline.errors import RecipeError, VerificationError
from sightline.files import read_settings
from sightline.models.compress import CALIBRATED, Kind
from sightline.recipes.evaluation import BenchSpec
from sightline.report.evaluation import change_rows
from sightline.report.table import SIGNS, Row, legend, measured, number
from sightline.train.quantise import FIGURES, quantise
from sightline.train.quantised import Quantised, QuantiseSpec

_NAMES = {"logprob": "log-prob of answers", "picture": "picture's effect"}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Options that go with --quantize, None where they were left out."""

    calibration: int | None
    bench: str | None
    only: str | None
    tolerance: float | None
    quantizer_python: Path | None

    def refuse(self) -> None:
        """Raises RecipeError where one was given and nothing is quantised."""
        given = next((name for name, value in vars(self).items() if value is not None), None)
        if given is not None:
            raise RecipeError(
                f"--{given.replace('_', '-')} goes with --quantize, which is not there. Add --quantize, or leave it out"
            )

    def spec(self, kind: Kind) -> QuantiseSpec:
        """As it was asked for.

        Raises:
            RecipeError: an option that means nothing of this kind, or a benchmark without its folder.
        """
        if self.calibration is not None and kind not in CALIBRATED:
            raise RecipeError(
                f"--calibration is for {' and '.join(CALIBRATED)}: {kind} learns from nothing. Leave it out"
            )
        if self.only is not None and self.bench is None:
            raise RecipeError("--only chooses categories of --bench, which is not there. Name one: --bench NAME=DIR")
        spec = QuantiseSpec(kind=kind, bench=self._bench(), tolerance=self.tolerance, python=self.quantizer_python)
        return spec if self.calibration is None else QuantiseSpec(**{**vars(spec), "calibration": self.calibration})

    def _bench(self) -> BenchSpec | None:
        if self.bench is None:
            return None
        name, _, folder = self.bench.partition("=")
        if not name or not folder:
            raise RecipeError(
                f"--bench {self.bench} names no folder. Write NAME=DIR, as in --bench pope=eval_data/pope"
            )
        only = tuple(one.strip() for one in self.only.split(",")) if self.only else ()
        return BenchSpec(bench=name, data=folder, only=only)


def write_quantised(
    source: Path,
    out: Path,
    spec: QuantiseSpec,
    *,
    step: int | None,
    dtype: Literal["float32", "bfloat16"] | None,
    overwrite: bool,
) -> Document:
    """Writes the folder and prints what it cost; exit code 1 where it is another model."""
    show_messages()
    try:
        found = quantise(source, out, spec, step=step, dtype=dtype, overwrite=overwrite)
    except VerificationError as error:
        print_error(error)
        raise Ended(error_document(error), code=1) from None
    of = "" if found.step is None else f" of step {found.step}"
    say(f"Model{of}: {out}")
    say(f"Before it was quantised: {found.whole.sentence()}.")
    say(f"Quantised: {found.sentence()}.")
    console_out.print(_table(found))
    say(f"Written beside the model: README.md, {FIGURES}")
    return {"model": out, "step": found.step, "figures": read_settings(out / FIGURES)}


def _table(found: Quantised) -> Table:
    """Narrow enough for 80 columns; the intervals of both sides are in the file."""
    rows = [*_own_rows(found), *change_rows(found.bench, found.result)]
    caption = f"differences with bootstrap 95 % intervals\n{legend(rows)}"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=caption, caption_justify="left")
    table.add_column("figure", no_wrap=True)
    for title in ("before", "after", "difference"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        if row.after is None or row.difference is None:
            continue
        sides = [Text(number(side.value, row.unit)) for side in (row.before, row.after)]
        table.add_row(row.name, *sides, Text(f"{SIGNS[row.verdict]} {measured(row.difference, row.unit, signed=True)}"))
    return table


def _own_rows(found: Quantised) -> list[Row]:
    return [
        Row(
            key=one.metric,
            name=_NAMES[one.metric],
            meaning="nats a token",
            before=one.before,
            after=one.after,
            difference=one.difference,
            unit="fraction",
        )
        for one in found.moved.figures
    ]
