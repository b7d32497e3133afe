"""Progress in a log: plain lines, few, with what is done, the figures and the time left."""

import itertools
import sys

import pytest

from sightline import progress as module
from sightline.progress import Progress


class Clock:
    """Stands in for the module ``time``."""

    now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_a_log_gets_a_line_after_ten_seconds_and_then_every_thirty(clock, capsys):
    with Progress("SFT: step", 100, done=20) as bar:
        for step in range(21, 101):
            clock.now += 1
            bar.update(step, figures=f"loss {1 / step:.3f}  accuracy 0.5" if step % 10 == 0 else None)
    assert capsys.readouterr().err.splitlines() == [
        "SFT: step 30/100, loss 0.033, accuracy 0.5, 1:10 left",
        "SFT: step 60/100, loss 0.017, accuracy 0.5, 0:40 left",
        "SFT: step 90/100, loss 0.011, accuracy 0.5, 0:10 left",
        "SFT: step 100/100, loss 0.010, accuracy 0.5, 1:20",
    ]


def test_the_log_of_a_day_is_short_and_never_silent_for_long(clock, capsys, monkeypatch):
    written = []
    monkeypatch.setattr(Progress, "_write", lambda bar, write=Progress._write: (written.append(clock.now), write(bar)))
    with Progress("step", 86_400) as bar:
        for step in range(86_400):
            clock.now += 1
            bar.update(step + 1)
    assert len(written) == len(capsys.readouterr().err.splitlines()) == 206  # 2880 of one each half minute
    assert max(after - before for before, after in itertools.pairwise(written)) == 600


def test_the_last_state_is_written_however_the_work_ends(clock, capsys):
    with pytest.raises(KeyboardInterrupt), Progress("rows:", None) as bar:
        bar.update(7)
        clock.now += 3
        raise KeyboardInterrupt
    assert capsys.readouterr().err == "rows: 7, 0:03\n"


def test_hours_are_written_as_hours(clock, capsys):
    with Progress("x", 4) as bar:
        clock.now += 3 * 3600
        bar.update(3)
    assert capsys.readouterr().err == "x 3/4, 1:00:00 left\n"


@pytest.mark.parametrize("updates", [0, 3])
def test_nothing_is_written_of_work_that_is_not_shown_or_did_not_begin(clock, capsys, updates):
    with Progress("x", 4, shown=updates == 0) as bar:
        for done in range(updates):
            clock.now += 60
            bar.update(done)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar_and_no_lines(clock, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with Progress("DPO: step", 2) as bar:
        for step in (1, 2):
            clock.now += 60
            bar.update(step, figures="loss 0.5")
    out, err = capsys.readouterr()
    assert out == ""  # results are on stdout
    assert "━" in err and "2/2" in err and "loss 0.5" in err and " left" not in err
