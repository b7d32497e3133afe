"""Where results go: in a file or a pipe no table is cut."""

from __future__ import annotations

import pytest

from sightline.cli.console import out
from sightline.evaluation.statistics import Interval
from sightline.report.table import Row, changes_table


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
