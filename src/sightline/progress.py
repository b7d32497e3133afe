"""How far a piece of work is, on stderr: a bar in a terminal, a plain line now and then in a file or a pipe."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

FIRST_LINE: Final = 10.0
"""Seconds after which the first line is written: what is done before needs none but its last."""
NEXT_LINE: Final = 30.0
"""Seconds between lines at first. Later a twentieth of the time that is gone: a log of a day stays readable."""
LAST_LINE: Final = 600.0
"""Most seconds between lines: a log that stands still for longer is that of work that does."""


class Progress:
    """Work of so many pieces under a title. The last state is always shown, however the work ends.

    >>> with Progress("sampling", 200) as progress:  # doctest: +SKIP
    ...     progress.update(64)
    sampling 64/200, 0:21 left
    """

    def __init__(self, title: str, total: int | None, *, done: int = 0, shown: bool = True) -> None:
        """
        Args:
            title: stands in front.
            total: pieces of the whole work; None: not known yet, and nothing is shown before the first of them.
            done: pieces that were there before.
            shown: False: nothing is written.
        """
        self._title, self._total, self._done, self._figures = title, total, done, ""
        self._before, self._began = done, time.monotonic()
        self._next_line, self._written = self._began + FIRST_LINE, True
        self._lines = shown and not sys.stderr.isatty()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        figures = TextColumn("{task.fields[figures]}")
        hidden = not shown or self._lines
        self._bar = Bar(*columns, figures, console=Console(stderr=True), disable=hidden)
        self._task = self._bar.add_task(title, total=total, completed=done, figures="")

    def update(self, done: int, *, total: int | None = None, figures: str | None = None) -> None:
        """Notes how many pieces are done, and what else is worth seeing; None: as before."""
        self._done = done
        self._total = self._total if total is None else total
        self._figures = self._figures if figures is None else figures
        self._bar.start()
        self._bar.update(self._task, completed=done, total=self._total, figures=self._figures)
        self._written = False
        if self._lines and time.monotonic() >= self._next_line:
            self._write()

    def line(self) -> str:
        """The state as one line."""
        counted = str(self._done) if self._total is None else f"{self._done}/{self._total}"
        parts = [f"{self._title} {counted}", *(part for part in self._figures.split("  ") if part)]
        gone, made = time.monotonic() - self._began, self._done - self._before
        if self._total is not None and self._done < self._total and made > 0:
            parts.append(f"{_clock(gone / made * (self._total - self._done))} left")
        else:
            parts.append(_clock(gone))
        return ", ".join(parts)

    def _write(self) -> None:
        print(self.line(), file=sys.stderr, flush=True)
        now = time.monotonic()
        pause = min(max(NEXT_LINE, (now - self._began) / 20), LAST_LINE)
        self._next_line, self._written = now + pause, True

    def __enter__(self) -> Progress:
        if self._total is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        if self._lines and not self._written:
            self._write()


def _clock(seconds: float) -> str:
    """``0:07``, ``12:30``, ``3:05:00``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
