"""Charts as inline SVG: no script, no image file, colours from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from sightline.report.table import Row

WIDTH, HEIGHT = 480, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 26, 40
_CHARACTER = 9
"""Width of one in an axis label, as large as they are on a phone: long labels move the axis to the right."""
_MOST_POINTS = 300
Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One series of a chart."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    """As long as ``x``; values that are not finite are left out."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One chart."""

    title: str
    lines: Sequence[Line]
    """At most four: there are four colours and dash patterns; where ``stacked`` nine: each colour twice, and grey."""
    x_label: str = "optimizer step"
    y_label: str = ""
    """Unit, written above the axis."""
    note: str = ""
    """One sentence below the chart."""
    noisy: bool = True
    """False: the values are exact, and no running mean is drawn."""
    stacked: bool = False
    """Bands of the lines' own heights, the first at the bottom: parts of a whole. Lines have the same ``x``."""
    counted: bool = False
    """``x`` are whole numbers, such as rounds: so are the marks of its axis."""

    def band(self, index: int) -> str:
        """Classes of a band: four strong colours, then the same pale, then grey."""
        return "band c0" if index > 7 else f"band c{index % 4 + 1}" + (" pale" if index > 3 else "")


@dataclass(frozen=True)
class _Scale:
    """Linear map from data to pixels, with round ticks."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def chart(curve: Curve) -> str:
    """A line chart with axes, ticks, labels and a legend.

    A noisy series of more than 60 points is drawn faint, with its running mean over a twentieth of the
    series on top; of bands the running mean alone.
    """
    lines = [(line.name, points) for line in curve.lines if (points := _finite(line))]
    if not lines:
        return ""
    if curve.stacked:
        lines = _bands(lines, noisy=curve.noisy)
    everything = [point for _, points in lines for point in points]
    y = _scale([p[1] for p in everything], HEIGHT - _BOTTOM, _TOP, tight=False)
    left = max(_LEFT, 7 + _CHARACTER * max(map(len, _labels(y.ticks))))
    x = _scale([p[0] for p in everything], left, WIDTH - _RIGHT, tight=True, least=1.0 if curve.counted else 0.0)
    parts = [*_axes(curve, x, y)]
    for index, (_, points) in enumerate(lines if curve.stacked else ()):
        parts.append(_path(points, x, y, curve.band(index), shape="polygon"))
    for index, (_, points) in enumerate(() if curve.stacked else lines):
        kind = index % 4 + 1
        if curve.noisy and len(points) > 60:
            parts.append(_path(_thin(points), x, y, f"line faint c{kind}"))
            points = _running_mean(points, len(points) // 20)
        parts.append(_path(_thin(points), x, y, f"line c{kind}"))
        if len(points) <= 20:
            parts += [f'<circle class="dot c{kind}" cx="{x(a):.1f}" cy="{y(b):.1f}" r="2.5"/>' for a, b in points]
    label = escape(f"{curve.title}: {', '.join(name for name, _ in lines)}", quote=True)
    body = "".join(parts)
    return f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{body}</svg>'


def interval_bar(row: Row) -> str:
    """Before (hollow) and after (filled) with their intervals on one scale that starts at 0."""
    shown = [interval for interval in (row.before, row.after) if interval is not None]
    values = [v for i in shown for v in (i.low, i.value, i.high) if math.isfinite(v)]
    if not values:
        return ""
    full = 1.0 if row.unit == "percent" else row.full
    high = full if full is not None and max(values) <= full else max(*values, 1e-9)
    scale = _Scale(0.0, high, 5, 145, ())
    parts = ['<line class="track" x1="5" x2="145" y1="13" y2="13"/>']
    for interval, kind, y in zip(shown, ("before", "after"), (8, 18), strict=False):
        if not math.isfinite(interval.low):
            continue
        low, middle, top = (scale(v) for v in (interval.low, interval.value, interval.high))
        parts.append(f'<line class="range {kind}" x1="{low:.1f}" x2="{top:.1f}" y1="{y}" y2="{y}"/>')
        parts.append(f'<circle class="point {kind}" cx="{middle:.1f}" cy="{y}" r="3.5"/>')
    return f'<svg class="interval" viewBox="0 0 150 26" aria-hidden="true">{"".join(parts)}</svg>'


def _finite(line: Line) -> list[Point]:
    pairs = zip(line.x, line.y, strict=True)
    return [(float(a), float(b)) for a, b in pairs if math.isfinite(a) and math.isfinite(b)]


def _scale(values: Sequence[float], start: float, end: float, *, tight: bool, least: float = 0.0) -> _Scale:
    """Scale over the values: to the data (``tight``), or out to round ticks, ``least`` apart or more."""
    low, high = min(values), max(values)
    if low == high:
        margin = abs(low) * 0.1 or 0.5
        low, high, tight = low - margin, high + margin, False
    step = max(_round_step((high - low) / 5), least)
    # The slack lets 0.3 / 0.1 = 2.9999999999999996 count as 3.
    slack = 1e-9
    if tight:
        first, last = math.ceil(low / step - slack), math.floor(high / step + slack)
    else:
        first, last = math.floor(low / step + slack), math.ceil(high / step - slack)
    ticks = tuple(round(index * step, 12) for index in range(first, last + 1))
    return _Scale(low, high, start, end, ticks) if tight else _Scale(ticks[0], ticks[-1], start, end, ticks)


def _round_step(rough: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is at least ``rough``."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))


def _labels(ticks: Sequence[float]) -> list[str]:
    """All of one axis written alike, with as many digits as tell them apart: with a power of ten where one of them is
    very small or large."""
    short = all(tick == 0 or 1e-4 <= abs(tick) < 1e6 for tick in ticks)
    for digits in range(6, 17):
        labels = [(f"{tick:,.{digits}g}" if short or tick == 0 else _power(tick, digits)) for tick in ticks]
        if len(set(labels)) == len(ticks):
            break
    return [label.replace("-", "−") for label in labels]


def _power(value: float, digits: int) -> str:
    """``1.5e-5``."""
    figures, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"{figures.rstrip('0').rstrip('.')}e{int(exponent)}"


def _axes(curve: Curve, x: _Scale, y: _Scale) -> list[str]:
    parts = []
    for tick, label in zip(y.ticks, _labels(y.ticks), strict=True):
        at = f"{y(tick):.1f}"
        parts.append(f'<line class="grid" x1="{x.start:g}" x2="{WIDTH - _RIGHT}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text x="{x.start - 7:g}" y="{at}" text-anchor="end" dominant-baseline="central">{label}</text>')
    floor = HEIGHT - _BOTTOM
    for tick, label in zip(x.ticks, _labels(x.ticks), strict=True):
        at = f"{x(tick):.1f}"
        parts.append(f'<line class="axis" x1="{at}" x2="{at}" y1="{floor}" y2="{floor + 4}"/>')
        parts.append(f'<text x="{at}" y="{floor + 18}" text-anchor="middle">{label}</text>')
    parts.append(f'<line class="axis" x1="{x.start:g}" x2="{WIDTH - _RIGHT}" y1="{floor}" y2="{floor}"/>')
    middle = (x.start + WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(curve.x_label)}</text>')
    if curve.y_label:
        parts.append(f'<text x="4" y="12">{escape(curve.y_label)}</text>')
    return parts


def _path(points: Sequence[Point], x: _Scale, y: _Scale, kind: str, *, shape: str = "polyline") -> str:
    drawn = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in points)
    return f'<{shape} class="{kind}" points="{drawn}"/>'


def _bands(lines: Sequence[tuple[str, list[Point]]], *, noisy: bool) -> list[tuple[str, list[Point]]]:
    """The outline of each series as a band on those before it."""
    found, floor = [], [(a, 0.0) for a, _ in lines[0][1]]
    for name, points in lines:
        top = [(a, below + own) for (a, below), (_, own) in zip(floor, points, strict=True)]
        ends = [_running_mean(one, len(one) // 20) if noisy and len(one) > 60 else one for one in (floor, top)]
        found.append((name, [*_thin(ends[0]), *reversed(_thin(ends[1]))]))
        floor = top
    return found


def _running_mean(points: Sequence[Point], window: int) -> list[Point]:
    """Mean over ``window`` points centred on each, over fewer at the ends."""
    half = max(window // 2, 1)
    total = [0.0]
    for _, value in points:
        total.append(total[-1] + value)
    smooth = []
    for index, (a, _) in enumerate(points):
        low, high = max(index - half, 0), min(index + half + 1, len(points))
        smooth.append((a, (total[high] - total[low]) / (high - low)))
    return smooth


def _thin(points: Sequence[Point]) -> Sequence[Point]:
    """At most ``_MOST_POINTS`` points: the means of equal runs, the first and the last kept."""
    if len(points) <= _MOST_POINTS:
        return points
    size = math.ceil(len(points) / (_MOST_POINTS - 2))
    runs = [points[index : index + size] for index in range(0, len(points), size)]
    means = [(sum(a for a, _ in run) / len(run), sum(b for _, b in run) / len(run)) for run in runs]
    return [points[0], *means, points[-1]]
