"""``sightline eval`` and ``sightline report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sightline.cli import eval as commands
from sightline.cli import eval_preferences
from sightline.cli.console import say
from sightline.cli.json_result import Document
from sightline.evaluation.benches import check_name


class _Benchmarks(TyperGroup):
    """``eval amber pope`` is short for ``eval run amber pope``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """An option in front, other than ``--help``, is one of ``run``."""
        if args and args[0].startswith("-") and args[0] != "--help":
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """A first word that is no command is a benchmark."""
        if args[0] not in self.commands:
            check_name(args[0])
            args = ["run", *args]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=_Benchmarks,
    no_args_is_help=True,
    help="Measure a model on benchmarks: `sightline eval amber pope --model M --data DIR`.",
    rich_markup_mode="markdown",
)
app.command(name="run")(commands.run)
app.command(name="grade")(commands.grade)
app.command(name="preferences")(eval_preferences.preferences)
app.command(name="reward")(eval_preferences.reward)
app.command(name="diff")(commands.diff)
app.command(name="list")(commands.list_benchmarks)
app.command(name="export")(commands.export)
app.command(name="similarity")(commands.similarity)
app.command(name="aggregate")(commands.aggregate)


def report(
    run_dir: Annotated[Path, typer.Argument(help="output_dir of a training run.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The page. Default: report.html in RUN_DIR.", show_default=False)
    ] = None,
) -> Document:
    """Write the report of a training run: curves, samples, recipe and versions, in one HTML file.

    Example: `sightline report runs/dpo_llava_lora`
    """
    from sightline.report.run_page import report_run

    page = report_run(run_dir, out)
    say(f"Report: {page}")
    return {"report": page}
