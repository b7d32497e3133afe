"""What quantising a model cost: every figure before and after, for the terminal and for Python."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from sightline.evaluation.bench import Result
from sightline.evaluation.results import Change
from sightline.report.evaluation import change_rows
from sightline.report.table import SIGNS, Row, legend, measured, number, number_column, words_column

_NAMES = {"logprob": "log-prob of answers", "picture": "picture's effect"}


def quantised_rows(own: Sequence[Change], bench: Sequence[Change], result: Result) -> list[Row]:
    """Each figure with its paired difference.

    Args:
        own: of the rows that were read by both: ``logprob`` and ``picture``.
        bench: of the benchmark.
        result: of the benchmark, afterwards.
    """
    read = [
        Row(
            key=one.metric,
            name=_NAMES[one.metric],
            meaning="nats a token",
            before=one.before,
            after=one.after,
            difference=one.difference,
            unit="fraction",
        )
        for one in own
    ]
    return [row for row in (*read, *change_rows(bench, result)) if row.difference is not None]


def quantised_table(rows: Sequence[Row]) -> Table:
    """A line each at 80 columns; the intervals of both sides are in the file."""
    caption = f"differences with bootstrap 95 % intervals\n{legend(rows)}"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=caption, caption_justify="left")
    words_column(table, "figure")
    for title in ("before", "after"):
        number_column(table, title)
    words_column(table, "difference", justify="right")
    for row in rows:
        assert row.after is not None and row.difference is not None
        sides = [Text(number(side.value, row.unit)) for side in (row.before, row.after)]
        change = f"{SIGNS[row.verdict]} {measured(row.difference, row.unit, signed=True)}"
        table.add_row(Text(row.name), *sides, Text(change))
    return table
