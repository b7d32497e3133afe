"""``sightline eval`` and ``sightline report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sightline.cli.console import say

app = typer.Typer(no_args_is_help=True, help="Measure a model on a benchmark.", rich_markup_mode="markdown")


def report(
    run_dir: Annotated[Path, typer.Argument(help="output_dir of a training run.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The page. Default: report.html in RUN_DIR.", show_default=False)
    ] = None,
) -> None:
    """Write the report of a training run: curves, samples, recipe and versions, in one HTML file.

    Example: `sightline report runs/dpo_llava_lora`
    """
    from sightline.report.run import report_run

    say(f"Report: {report_run(run_dir, out)}")
