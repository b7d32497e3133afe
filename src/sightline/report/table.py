"""The before/after table of a report: one set of rows for the page, the terminal and the JSON file."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sightline.display import WIDE
from sightline.evaluation.statistics import Interval

ZERO: Final = 1e-6
"""A difference no larger is none: so much is left where sums of floats should cancel."""

Verdict = Literal["better", "worse", "no clear change", "changed", ""]
"""``changed`` is a clear change of a metric that is neither good nor bad; empty: nothing to compare."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One metric, before and after."""

    key: str
    """Name in ``results.json``: ``hal``."""
    name: str
    """Name for people: ``Hal``."""
    meaning: str
    """What it counts, in one line: ``answers with a hallucination``."""
    before: Interval
    after: Interval | None = None
    """None: only one model was measured (its figures stand in ``before``)."""
    difference: Interval | None = None
    """After minus before, paired."""
    better: Literal["lower", "higher", "neither"] = "neither"
    unit: Literal["percent", "number", "fraction"] = "percent"
    """``percent``: values are shares in [0, 1], shown in %; ``number``: as they are, with one decimal;
    ``fraction``: as they are, with three."""
    full: float | None = None
    """Where the scale of its bar ends, so that bars of shares can be compared; None: at the largest number shown."""
    headline: bool = False
    """Shown large at the top of the page."""

    @property
    def verdict(self) -> Verdict:
        """What the interval of the difference says; a difference that may be 0 is no clear change.

        Where there is no interval (a precision of which nothing was said) there is no verdict either.
        """
        if self.difference is None or any(map(math.isnan, vars(self.difference).values())):
            return ""
        if self.difference.low <= ZERO and self.difference.high >= -ZERO:
            return "no clear change"
        if self.better == "neither":
            return "changed"
        return "better" if (self.difference.value < 0) == (self.better == "lower") else "worse"


SIGNS: dict[Verdict, str] = {"better": "✓", "worse": "✗", "no clear change": "≈", "changed": "•", "": ""}
"""Verdicts without colour."""
_STYLES: dict[Verdict, str] = {"better": "green", "worse": "red", "no clear change": "dim", "changed": "", "": ""}


def number(value: float, unit: str, *, signed: bool = False) -> str:
    """A value with one decimal, a fraction with three; a share in percent. A typographic minus; NaN is a dash.

    A difference (``signed``) that is not zero gets as many decimals as show it: ``[+0.02, +1.4]`` is clear, and as
    ``[0.0, +1.4]`` would not look so.
    """
    if math.isnan(value):
        return "–"
    decimals = 3 if unit == "fraction" else 1
    exact = 100 * value if unit == "percent" else value
    if signed and abs(value) > ZERO and not round(exact, decimals):
        decimals = -math.floor(math.log10(abs(exact)))
    shown = round(exact, decimals) + 0.0
    text = f"{shown:+.{decimals}f}" if signed and shown else f"{shown:.{decimals}f}"
    return text.replace("-", "−")


def measured(interval: Interval, unit: str, *, signed: bool = False) -> str:
    """``62.5 [58.1, 66.9]``."""
    return f"{number(interval.value, unit, signed=signed)} {bounds(interval, unit, signed=signed)}"


def bounds(interval: Interval, unit: str, *, signed: bool = False) -> str:
    """``[58.1, 66.9]``."""
    return f"[{number(interval.low, unit, signed=signed)}, {number(interval.high, unit, signed=signed)}]"


def legend(rows: Sequence[Row]) -> str:
    """The signs of the verdicts that the rows have: ``✓ better  ≈ no clear change``."""
    there = {row.verdict for row in rows}
    return "  ".join(f"{sign} {verdict}" for verdict, sign in SIGNS.items() if verdict and verdict in there)


def words_column(table: Table, title: str, *, justify: Literal["left", "right"] = "left") -> None:
    """A column of names, of intervals or of words: where there is no room it goes over several lines, between words
    where that is enough, and nothing of it is cut. The widest column gives way first."""
    table.add_column(Text(title), justify=justify, overflow="fold")


def number_column(table: Table, title: str, *, justify: Literal["left", "right"] = "right") -> None:
    """A column of what stays on a line: it gives way to nothing."""
    table.add_column(Text(title), justify=justify, no_wrap=True)


def terminal_table(rows: Sequence[Row]) -> Table:
    """The rows as a table for ``rich``, a line each at 80 columns."""
    compared = any(row.after is not None for row in rows)
    caption = "shares in %; brackets: bootstrap 95 % interval"
    if compared:
        caption += f"\n{legend(rows)}"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1), caption=caption, caption_justify="left")
    words_column(table, "metric")
    for title in ("before", "after", "difference") if compared else ("value",):
        words_column(table, title, justify="right")  # a figure and its interval
    for row in rows:
        cells = [Text(row.name), Text(measured(row.before, row.unit))]
        if row.after is not None and row.difference is not None:
            change = f"{SIGNS[row.verdict]} {measured(row.difference, row.unit, signed=True)}"
            cells += [Text(measured(row.after, row.unit)), Text(change, style=_STYLES[row.verdict])]
        table.add_row(*cells)
    return table


def changes_table(rows: Sequence[Row], *, width: int = WIDE) -> Table:
    """A against B for the terminal: both values, and the difference with its interval. Verdicts are spelled out where
    ``width`` has room for all of it, otherwise they are signs."""
    whole = _changes(rows, words=True)
    fits = Console(width=WIDE).measure(whole).maximum <= width
    return whole if fits else _changes(rows, words=False)


def _changes(rows: Sequence[Row], *, words: bool) -> Table:
    caption = None if words else legend(rows)
    padding = (0, 1) if words else (0, 0, 0, 1)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=padding, caption=caption, caption_justify="left")
    words_column(table, "metric")
    for title in ("A", "B", "B - A", "95 % interval", ""):
        number_column(table, title, justify="right" if title else "left")
    for row in rows:
        assert row.after is not None and row.difference is not None
        values = [number(side.value, row.unit) for side in (row.before, row.after)]
        change = number(row.difference.value, row.unit, signed=True)
        cells = [row.name, *values, change, bounds(row.difference, row.unit, signed=True)]
        verdict = f"{SIGNS[row.verdict]} {row.verdict}" if words else SIGNS[row.verdict]
        table.add_row(*map(Text, cells), Text(verdict))
    return table


def plain_text(shown: Table) -> str:
    """A table without colours, as wide as it needs, as ``print`` shows it."""
    plain = Console(file=io.StringIO(), width=WIDE, color_system=None)
    with plain.capture() as told:
        plain.print(shown)
    return "\n".join(line.rstrip() for line in told.get().strip("\n").splitlines())


def table_json(rows: Sequence[Row]) -> dict[str, Any]:
    """The rows as plain JSON: ``{"hal": {"before": {"value": .., "low": .., "high": ..}, ...}}``.

    Shares stay in [0, 1]; what is not defined is null.
    """
    return {
        row.key: {
            "meaning": row.meaning,
            "before": _plain(row.before),
            "after": _plain(row.after),
            "difference": _plain(row.difference),
            "better": row.better,
            "verdict": row.verdict or None,
        }
        for row in rows
    }


def _plain(interval: Interval | None) -> dict[str, float | None] | None:
    if interval is None:
        return None
    values = {"value": interval.value, "low": interval.low, "high": interval.high}
    return {name: None if math.isnan(value) else value for name, value in values.items()}
