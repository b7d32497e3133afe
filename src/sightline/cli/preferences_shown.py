"""What ``sightline eval preferences`` and ``eval reward`` print."""

from __future__ import annotations

from rich.text import Text

from sightline.api.preferences_run import Published
from sightline.cli.console import out, say
from sightline.cli.eval_options import show_result
from sightline.cli.json_result import Document
from sightline.evaluation.results import changes, results_document
from sightline.report.evaluation import change_rows
from sightline.report.table import changes_table, table_json


def show(done: Published) -> Document:
    """Prints the figures, beside those that they stand against."""
    show_result(done.measured, counted=f"{done.pairs} comparisons")
    compared = None
    if done.before is not None:
        rows = change_rows(changes([done.before], [done.measured]), done.measured.result)
        compared = table_json(rows)
        out.print(Text("against (A) and this model (B), on the same comparisons", style="bold"))
        out.print(changes_table(rows, width=out.width))
    say(f"Report: {done.page}")
    page = {"folder": done.page.parent, "report": done.page}
    return {**page, **results_document(done.measured), "changes": compared}
