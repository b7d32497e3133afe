"""``sightline export --quantize``: its options, and the table that it prints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sightline.cli.console import out as console_out
from sightline.cli.console import print_error, say, show_messages
from sightline.cli.json_result import Document, Ended, error_document
from sightline.errors import RecipeError, VerificationError
from sightline.files import read_settings
from sightline.models.compress import Kind
from sightline.report.quantised import quantised_rows, quantised_table
from sightline.train.export import Dtype
from sightline.train.quantise import FIGURES, quantise
from sightline.train.quantised import QuantiseSpec, Quantizing


def asked_for(kind: Kind | None, options: Mapping[str, Any]) -> QuantiseSpec | None:
    """How to quantise, from the options that go with --quantize; None: not at all.

    Raises:
        RecipeError: one was given and nothing is quantised, or as of ``Quantizing``.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if kind is not None:
        only = given.pop("only", None)
        parts = () if only is None else tuple(one.strip() for one in only.split(","))
        return Quantizing(kind=kind, only=parts, **given).spec()
    if given:
        raise RecipeError(
            f"--{next(iter(given)).replace('_', '-')} goes with --quantize, which is not there. Add --quantize, or "
            "leave it out"
        )
    return None


def write_quantised(
    source: Path, out: Path, spec: QuantiseSpec, *, step: int | None, dtype: Dtype | None, overwrite: bool
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
    console_out.print(quantised_table(quantised_rows(found.moved.figures, found.bench, found.result)))
    say(f"Written beside the model: README.md, {FIGURES}")
    return {"model": out, "step": found.step, "figures": read_settings(out / FIGURES)}
