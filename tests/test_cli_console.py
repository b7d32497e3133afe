"""Where results go: no table is cut, in a terminal of any width, in a file or in a pipe."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from sightline.cli.console import out
from sightline.cli.eval_options import category_table, result_table, side_by_side
from sightline.display import WIDE
from sightline.evaluation.bench import Result
from sightline.evaluation.results import Measured
from sightline.evaluation.statistics import Interval
from sightline.loops.state import Entry, State
from sightline.loops.status import status_table
from sightline.report.league import METRICS, Standing
from sightline.report.league import terminal_table as league_table
from sightline.report.quantised import quantised_table
from sightline.report.table import Row, changes_table, plain_text, terminal_table


def test_a_table_in_a_pipe_is_whole(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    around = [Interval(value=value, low=value - 1, high=value + 1) for value in (70.0, 72.0, 2.0)]
    name = "hallucination_rate/adversarial"
    row = Row(key=name, name=name, meaning="", before=around[0], after=around[1], difference=around[2], better="higher")
    out.print(changes_table([row]))
    told = capsys.readouterr().out
    assert "…" not in told and "✓ better" in told
    monkeypatch.setenv("COLUMNS", "60")
    assert type(out)().width == 60  # read when a command starts


LONG = 41
"""Letters of a name, as of `circular/consistent_over_questions`."""


def around(value: float) -> Interval:
    return Interval(value=value, low=value - 5.25, high=value + 5.25)


def compared(letter: str) -> Row:
    ends = {"before": around(-70.25), "after": around(-81.5), "difference": around(-11.25)}
    return Row(key="k", name=letter * LONG, meaning="", **ends, better="higher", unit="fraction")


def tables() -> Iterable[tuple[Table, str]]:
    """Every table that a command prints, and what must be in it on a line; its long names are of Q and Z."""
    rows = [compared("Q"), compared("Z")]
    for width in (WIDE, 60):
        yield changes_table(rows, width=width), "−70.250 −81.500 −11.250 [−16.500, −6.000]"
    yield terminal_table(rows), "−70.250 −81.500 [−75.500, −65.000] [−86.750, −76.250] [−16.500, −6.000]"
    yield terminal_table([Row(key="k", name=one.name, meaning="", before=one.before) for one in rows]), "[−7550.0, "
    yield quantised_table(rows), "−70.250 −81.500 −11.250 [−16.500, −6.000]"
    values = dict.fromkeys(METRICS, around(0.625))
    standing = {"seeds": (0, 1, 2), "values": values, "by_seed": {}, "changes": values, "learning_rate": 1e-4}
    cost = {"seconds": around(41.5), "cpu_seconds": around(123456.5)}
    yield league_table([Standing(name=one.name, **standing, **cost) for one in rows]), "62.5 123456.5"
    stages = {
        f"round-{n}/{one.name}": Entry(status="done", settings={}, reads={}, seconds=7384.0)
        for n, one in enumerate(rows, 1)
    }
    yield status_table(State(path=Path("state.json"), entries=stages)), "done 2:03"
    figures = {one.name: 0.625 for one in rows}
    shares = {name: {"m": 0.625} for name in figures}
    result = Result(
        bench="b", protocol="p", graded=(), metrics={**figures, "m": 0.5}, metrics_printed={}, by_category=shares
    )
    spans = {name: Interval(value=0.625, low=0.5, high=0.75) for name in figures}
    measured = Measured(result=result, intervals=spans, category_intervals={n: {"m": spans[n]} for n in figures})
    yield result_table(measured), "0.625 0.5 0.75"
    shared = category_table(measured)
    assert shared is not None
    yield shared, "0.625 [0.500, 0.750]"


def printed(some: Iterable[Table], width: int) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    with console.capture() as told:
        for table in some:
            console.print(table)
    return told.get()


@pytest.mark.parametrize("width", [60, 80, 200])
def test_no_name_and_no_number_is_cut_at_any_width(width: int) -> None:
    for place, (table, numbers) in enumerate(tables()):
        if place == 0 and width < 200:  # what is asked for where there is room
            continue
        text = printed([table], width)
        assert (text.count("Q"), text.count("Z")) == (LONG, LONG) and "…" not in text, text
        assert all(number in text for number in numbers.split()), text
        assert max(map(len, text.splitlines())) <= width
    sides = {letter * LONG: {"hallusion_bench_accuracy": 62.5, "ZZ": 1234.56} for letter in "ABCDEFG"}
    text = printed(side_by_side(sides, width), width)
    assert [text.count(letter) for letter in "ABCDEFG"] == [LONG] * 7 and text.count("1234.56") == 7, text
    assert text.count("ZZ") == len(list(side_by_side(sides, width)))


def test_a_row_is_a_line_where_there_is_no_terminal() -> None:
    for table, _ in tables():
        assert "Q" * LONG in plain_text(table) and "Z" * LONG in plain_text(table)


def test_help_names_its_options_in_a_narrow_terminal() -> None:
    asked = [sys.executable, "-m", "sightline", "export", "--help"]
    told = subprocess.run(asked, capture_output=True, text=True, env={**os.environ, "COLUMNS": "60"}, check=True).stdout
    assert "--quantizer-python" in told and "…" not in told and max(map(len, told.splitlines())) <= 60
