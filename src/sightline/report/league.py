"""The league table of several methods: for the terminal, as Markdown, as JSON and as a page with a plot."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, Literal

from markupsafe import Markup
from rich import box
from rich.table import Table
from rich.text import Text

from sightline.errors import shortened
from sightline.evaluation.statistics import Interval
from sightline.files import replace_file
from sightline.report.table import ZERO, number, number_column, words_column
from sightline.report.templates import fill_template

METRICS: Mapping[str, str] = {"hal": "Hal", "chair": "CHAIR", "cover": "Cover", "accuracy": "yes/no"}
"""Metric of scenes to its name for people, in the order of the columns. All are shares in [0, 1]."""
MEANINGS: Mapping[str, str] = {
    "hal": "captions that name something that is not there",
    "chair": "named things that are not there, of all named",
    "cover": "things in the picture that are named",
    "accuracy": "yes/no questions answered right",
}

Verdict = Literal["improves", "Hal falls, Cover too", "no clear change of Hal", "worsens", ""]


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One line of the table."""

    name: str
    seeds: tuple[int, ...]
    values: Mapping[str, Interval]
    """By metric: mean over seeds, least, greatest."""
    by_seed: Mapping[str, tuple[float, ...]]
    """By metric: the value of each of ``seeds``."""
    changes: Mapping[str, Interval]
    """By metric: difference from the base on the same questions, bootstrap 95 % interval. Empty for the base."""
    learning_rate: float
    seconds: Interval
    """Of training, by the clock on the wall: mean over seeds, least, greatest."""
    cpu_seconds: Interval
    """Of training, summed over threads."""
    steps: int = 0
    """Optimizer steps of an online method."""
    answers: Interval = field(default_factory=lambda: Interval(value=0.0, low=0.0, high=0.0))
    """That it sampled: mean over seeds, least, greatest."""

    @property
    def verdict(self) -> Verdict:
        """What the intervals say of Hal, and of Cover beside it; one that contains 0 is no clear change."""
        if not self.changes:
            return ""
        hal, cover = self.changes["hal"], self.changes["cover"]
        if hal.low > ZERO:
            return "worsens"
        if hal.high >= -ZERO:
            return "no clear change of Hal"
        return "Hal falls, Cover too" if cover.high < -ZERO else "improves"


SIGNS: Mapping[Verdict, str] = {
    "improves": "✓",
    "Hal falls, Cover too": "✓−",
    "no clear change of Hal": "≈",
    "worsens": "✗",
    "": "",
}


@dataclass(frozen=True, kw_only=True)
class League:
    """The table, and what it is of."""

    standings: tuple[Standing, ...]
    """The base first."""
    seeds: tuple[int, ...]
    failed: Mapping[str, str] = field(default_factory=dict)
    """What was not finished, and why."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The budget, for the page."""
    online: bool = False
    """Whether methods sampled their own answers."""
    loops: bool = False
    """Whether every method is a loop: rounds of answers, pairs and training."""


def write_league(league: League, folder: Path) -> Path:
    """Writes ``league.json``, ``league.md`` and the page ``report.html``; returns the page."""
    text = json.dumps(_plain(dataclasses.asdict(league)), indent=1, allow_nan=False)
    replace_file(folder / "league.json", text + "\n")
    replace_file(folder / "league.md", markdown_table(league.standings))
    page = fill_template(
        "league.html.j2",
        {"percent": _percent, "span": _span, "change": _change, "verdict_class": _verdict_class},
        league=league,
        metrics=METRICS,
        meanings=MEANINGS,
        signs=SIGNS,
        plots=[Markup(plot) for plot in dot_plots(league.standings)],
        seeds=", ".join(map(str, league.seeds)),
    )
    replace_file(folder / "report.html", page)
    return folder / "report.html"


def terminal_table(standings: Sequence[Standing]) -> Table:
    """The table for ``rich``: means over seeds, a line each at 80 columns."""
    caption = "% means over seeds, time in CPU seconds   ✓ improves   ✓− Cover falls   ≈ no clear change   ✗ worsens"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1), caption=caption, caption_justify="left")
    words_column(table, "method")
    for title in (*METRICS.values(), "time", "seeds"):
        number_column(table, title)
    table.add_column("", no_wrap=True)
    for standing in standings:
        cells = [_percent(standing.values[metric]) for metric in METRICS]
        time = number(standing.cpu_seconds.value, "number") if standing.changes else ""
        table.add_row(Text(standing.name), *cells, time, str(len(standing.seeds)), SIGNS[standing.verdict])
    return table


def markdown_table(standings: Sequence[Standing]) -> str:
    """The table for a page of the documentation: means and ranges over seeds, differences with their intervals.

    Where answers were sampled, their number and that of the optimizer steps stand beside the time.
    """
    sampled = any(standing.answers.value for standing in standings)
    cost = ["CPU s", *(("answers", "steps") if sampled else ())]
    titles = ["method", *(f"{name} %" for name in METRICS.values()), "Δ Hal", "Δ Cover", *cost, "seeds", "verdict"]
    lines = ["| " + " | ".join(titles) + " |", "|---" + "|---:" * (len(titles) - 2) + "|---|"]
    for standing in standings:
        cells = [f"`{standing.name}`" if standing.changes else f"**{standing.name}**"]
        cells += [f"{_percent(value)} ({_span(value)})" for value in (standing.values[metric] for metric in METRICS)]
        cells += [_change(standing.changes[name]) if standing.changes else "" for name in ("hal", "cover")]
        cells.append(number(standing.cpu_seconds.value, "number") if standing.changes else "")
        if sampled:
            cells += [f"{standing.answers.value:,.0f}", str(standing.steps)] if standing.changes else ["", ""]
        cells += [str(len(standing.seeds)), f"{SIGNS[standing.verdict]} {standing.verdict}".strip()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _plain(value: Any) -> Any:
    """What JSON can hold: what is not a number is null."""
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value


_ROW, _TOP, _NAMES, _PANEL = 20, 34, 140, 300


def dot_plots(standings: Sequence[Standing]) -> list[str]:
    """For each metric a row for each method: the mean over seeds, a line from least to greatest.

    The upright line is the base. A metric that is the same for all has no plot. Each plot is narrow enough for a phone.
    """
    plots = (_plot(standings, metric, name) for metric, name in METRICS.items())
    return [plot for plot in plots if plot]


def _plot(standings: Sequence[Standing], metric: str, name: str) -> str:
    values = [standing.values[metric] for standing in standings]
    known = [end for value in values for end in (value.low, value.high) if not math.isnan(end)]
    if not known or min(known) == max(known):
        return ""
    low, room = min(known), max(max(known) - min(known), 0.01)
    height, width = _TOP + _ROW * len(standings) + 8, _NAMES + _PANEL

    def x(value: float) -> float:
        return _NAMES + 8 + (value - low) / room * (_PANEL - 16)

    parts = [f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{name} of each method">']
    parts.append(f'<text x="0" y="12">{name} %</text>')
    parts.append(f'<text x="{_NAMES + 8}" y="27">{100 * low:.1f}</text>')
    parts.append(f'<text x="{width - 8}" y="27" text-anchor="end">{100 * (low + room):.1f}</text>')
    base = x(values[0].value)
    parts.append(f'<line class="line c2" x1="{base:.1f}" x2="{base:.1f}" y1="{_TOP}" y2="{height - 8}"/>')
    for row, (standing, value) in enumerate(zip(standings, values, strict=True)):
        y, kind = _TOP + _ROW * row + 12, "c2" if row == 0 else "c1"
        parts.append(f'<line class="grid" x1="0" x2="{width}" y1="{y + 8}" y2="{y + 8}"/>')
        parts.append(f'<text x="0" y="{y + 4}">{escape(shortened(standing.name, 20))}</text>')
        if math.isnan(value.value):
            continue
        parts.append(f'<line class="line c1" x1="{x(value.low):.1f}" x2="{x(value.high):.1f}" y1="{y}" y2="{y}"/>')
        parts.append(f'<circle class="dot {kind}" cx="{x(value.value):.1f}" cy="{y}" r="4"/>')
    return "".join([*parts, "</svg>"])


def _percent(value: Interval) -> str:
    return number(value.value, "percent")


def _span(value: Interval) -> str:
    return f"{number(value.low, 'percent')}–{number(value.high, 'percent')}"


def _change(value: Interval) -> str:
    """``−52.1 [−54.0, −50.3]``, in percentage points."""
    low, high = (number(end, "percent", signed=True) for end in (value.low, value.high))
    return f"{number(value.value, 'percent', signed=True)} [{low}, {high}]"


def _verdict_class(verdict: Verdict) -> str:
    return {"improves": "better", "worsens": "worse"}.get(verdict, "plain")
