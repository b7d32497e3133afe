"""The results page: every benchmark with intervals, bars per category and the worst answers, one model or two."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from markupsafe import Markup
from PIL import Image

from sightline.display import embed
from sightline.evaluation.bench import Graded, Result, direction
from sightline.evaluation.results import Change, Measured, changes, length_words, picture_words
from sightline.evaluation.statistics import Interval
from sightline.files import replace_file
from sightline.report.page import Answer, GalleryItem, pieces
from sightline.report.svg import interval_bar
from sightline.report.table import SIGNS, Row, bounds, number
from sightline.report.templates import fill_template

_MOST_PANELS = 4
_MOST_BARS = 20
_LONGEST_FORMULA = 48


@dataclass(frozen=True, kw_only=True)
class Side:
    """One model's figure."""

    shown: str
    share: float
    """Of the widest bar, in percent."""
    interval: tuple[float, float] | None = None
    """Its ends, as ``share`` counts."""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One category of one figure."""

    name: str
    sides: tuple[Side, ...]
    """Before and after, or the one model."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One figure by category."""

    title: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True, kw_only=True)
class Section:
    """One benchmark on the page."""

    anchor: str
    title: str
    protocol: str
    facts: Sequence[str]
    rows: Sequence[Row]
    panels: Sequence[Panel]
    gallery: Sequence[GalleryItem]

    @property
    def compared(self) -> bool:
        """Whether two models stand side by side."""
        return any(row.after is not None for row in self.rows)

    @property
    def marked(self) -> bool:
        """Whether any answer in the gallery has marked words or misses something."""
        return any(answer.wrong or answer.missed for item in self.gallery for answer in item.answers)


def write_results_page(
    path: str | Path,
    results: Sequence[tuple[Measured | None, Measured]],
    *,
    title: str = "Benchmarks",
    notes: Sequence[str] = (),
    gallery: int = 12,
) -> Path:
    """Writes a self-contained HTML page.

    Args:
        path: The file; its folder is made.
        results: For each benchmark (before, after); before is None where there is one model only.
        title: Heading of the page.
        notes: Paragraphs under the heading.
        gallery: Most worst answers of each benchmark.

    Returns:
        The path written.

    Raises:
        DataError: Before and after are not of the same benchmark, protocol, judge and questions.
    """
    path = Path(path)
    sections = [_section(before, after, gallery) for before, after in results]
    page = fill_template(
        "evaluation.html.j2",
        {"number": number, "bounds": bounds, "embed": embed},
        title=title,
        notes=notes,
        sections=[(section, [(row, Markup(interval_bar(row))) for row in section.rows]) for section in sections],
        signs=SIGNS,
        pieces=pieces,
    )
    replace_file(path, page, errors="replace")  # half an emoji at the end of a cut answer
    return path


def result_rows(measured: Measured, before: Measured | None = None) -> list[Row]:
    """The figures of one model, or of two with their paired differences.

    A figure that is no formula of counts has no interval, and stands without a comparison.
    """
    result = measured.result
    compared = {} if before is None else {change.metric: change for change in changes([before], [measured])}
    return [_row(name, measured, compared.get(name)) for name, value in result.metrics.items() if not math.isnan(value)]


def change_rows(found: Sequence[Change], result: Result) -> list[Row]:
    """Comparisons as rows of a table; ``result``, of either side, shows how precise each figure is."""
    return [
        Row(
            key=change.metric,
            name=change.metric,
            meaning="",
            before=change.before,
            after=change.after,
            difference=change.difference,
            better=change.better,
            unit=_unit(result, change.metric),
            full=_full(result, change.metric),
        )
        for change in found
    ]


def worst_answers(measured: Measured, before: Measured | None = None, *, number: int = 12) -> list[GalleryItem]:
    """Answers with the largest ``error``, of either model, with what was asked, what is true and what is wrong."""
    old = {} if before is None else {row.id: row for row in before.result.graded}
    ranked = [
        (max(_error(row), _error(old[row.id]) if row.id in old else 0.0), -index, row)
        for index, row in enumerate(measured.result.graded)
    ]
    worst = sorted((item for item in ranked if item[0] > 0), reverse=True, key=lambda item: item[:2])[:number]
    sides = [
        [("answer", row)] if row.id not in old else [("before", old[row.id]), ("after", row)] for _, _, row in worst
    ]
    return [graded_item(side) for side in sides]


def category_panels(measured: Measured, before: Measured | None = None) -> list[Panel]:
    """Bars for each figure that at least two categories share; the first few figures."""
    categories = measured.result.by_category
    names = dict.fromkeys(name for values in categories.values() for name in values)
    panels = []
    for name in names:
        there = [category for category, values in categories.items() if _finite(values.get(name))][:_MOST_BARS]
        if len(there) < 2 or name in ("answers", "count"):
            continue
        sides = [[(one, c) for c in there if c in one.result.by_category] for one in (before, measured) if one]
        shown = [side for side in sides if len(side) == len(there)]
        values = [one.result.by_category[c].get(name, math.nan) for side in shown for one, c in side]
        widest = _widest([value for value in values if not math.isnan(value)])
        bars = tuple(
            Bar(name=category, sides=tuple(_side(side[index][0], category, name, widest) for side in shown))
            for index, category in enumerate(there)
        )
        panels.append(Panel(title=name, bars=bars))
    return panels[:_MOST_PANELS]


def _section(before: Measured | None, after: Measured, gallery: int) -> Section:
    result = after.result
    return Section(
        anchor=re.sub(r"\W+", "-", f"{result.bench}-{result.protocol}"),
        title=result.bench,
        protocol=result.protocol,
        facts=_facts(before, after),
        rows=result_rows(after, before),
        panels=category_panels(after, before),
        gallery=worst_answers(after, before, number=gallery),
    )


def _facts(before: Measured | None, after: Measured) -> list[str]:
    lines = []
    for side, title in ((before, "before"), (after, "after" if before else "")):
        if side is not None:
            lines.append((f"{title}: " if title else "") + "; ".join(_side_facts(side)) + ".")
    if before is None:
        return lines + list(after.result.notes)
    old, new = before.result.notes, after.result.notes
    shared = [note for note in new if note in old]
    own = [("before", note) for note in old if note not in new] + [("after", note) for note in new if note not in old]
    return lines + shared + [f"{title}: {note}" for title, note in own]


def _side_facts(side: Measured) -> list[str]:
    facts, length, judge = side.facts, side.facts.get("length", {}), side.facts.get("judge")
    parts = [str(facts["model"])] if facts.get("model") else []
    if facts.get("adapter"):
        parts[-1:] = [f"{parts[-1]} with {facts['adapter']}"]
    if facts.get("quantization"):
        parts[-1:] = [f"{parts[-1]} held in {facts['quantization']}"]
    parts.append(f"{len(side.result.graded)} answers")
    if words := length_words(side):
        parts.append(f"{words} each")
    if pictures := picture_words(side):
        parts.append(f"pictures: {pictures}")
    if length.get("cut"):
        parts.append(f"{length['cut']:.1%} cut at the limit of tokens")
    if side.result.failures:
        parts.append(f"the judge failed on {side.result.failures}")
    if judge:
        cost = f", cost {judge['cost']:.4g}" if "cost" in judge else ""
        parts.append(f"judge {judge['name']} ({judge['failed']} of {judge['requests']} requests failed{cost})")
    return parts


def _row(name: str, measured: Measured, change: Change | None) -> Row:
    result = measured.result
    found = measured.intervals.get(name, Interval(value=result.metrics[name], low=math.nan, high=math.nan))
    # the protocol's own number, which may be rounded on its way, stands in the middle of the interval
    single = Interval(value=result.metrics[name], low=found.low, high=found.high)
    return Row(
        key=name,
        name=name,
        meaning=_short(result.formulas.get(name, "")),
        before=single if change is None else change.before,
        after=None if change is None else change.after,
        difference=None if change is None else change.difference,
        better=direction(name, result.better),
        unit=_unit(result, name),
        full=_full(result, name),
    )


def _full(result: Result, metric: str) -> float | None:
    """100 for percentages, 1 for other shares; scores and lengths have scales of their own."""
    if re.match(r"\(*100 [*-] ", result.formulas.get(metric, "")):
        return 100.0
    return 1.0 if _unit(result, metric) == "fraction" and abs(result.metrics[metric]) <= 1 else None


def _unit(result: Result, metric: str) -> Literal["number", "fraction"]:
    """Three decimals for a figure that is printed with several, or that is at most 1 among such figures."""
    decimals = {name: len(text.partition(".")[2].rstrip("% ")) for name, text in result.metrics_printed.items()}
    small = abs(result.metrics[metric]) <= 1 and max(decimals.values(), default=0) > 1
    return "fraction" if small or (decimals.get(metric, 0) > 1 and abs(result.metrics[metric]) < 10) else "number"


def _short(formula: str) -> str:
    """A formula that can be read at a glance; a longer one stands in the results file."""
    return formula if len(formula) <= _LONGEST_FORMULA else ""


def _error(row: Graded) -> float:
    return float(row.details.get("error", 0.0))


def graded_item(sides: Sequence[tuple[str, Graded]]) -> GalleryItem:
    """Graded answers to one question, each under its title, beside its picture."""
    row = sides[-1][1]
    details = row.details
    truth = _text(details.get("truth", ""))
    images = details.get("images", ())
    readable = [image for image in images if is_picture(image)]
    captions = [f"truth: {truth}"] if truth else []
    captions += [f"{Path(image).name} is not there, or no picture" for image in images if image not in readable]
    return GalleryItem(
        images=readable,
        question=str(details.get("question", row.id)),
        caption="; ".join(captions),
        answers=[_answer(title, side.details) for title, side in sides],
    )


def _answer(title: str, details: Mapping[str, Any]) -> Answer:
    text = str(details.get("answer", ""))
    missed = [str(name) for name in details.get("missed", ())]
    right = "nothing invented" if missed else "right"
    note = f"error {details['error']:g}" if details.get("error") else right if details.get("error") == 0 else ""
    return Answer(title=title, text=text, wrong=_spans(text, details), missed=missed, note=note)


def is_picture(path: str) -> bool:
    """Whether it can be shown: the page is made after hours of work, and one broken file must not cost it."""
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError):  # SyntaxError: a broken PNG
        return False
    return True


def _spans(text: str, details: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Spans to mark: as graded, or wherever a hallucinated word, or a plain plural of it, stands."""
    spans = [(int(start), int(end)) for start, end in details.get("wrong", ())]
    for word in details.get("hallucinated", ()):
        found = re.finditer(rf"\b{re.escape(str(word))}(?:e?s)?\b", text, re.IGNORECASE)
        spans += [match.span() for match in found]
    return spans


def _text(value: Any) -> str:
    """A truth as words: a list is its members."""
    if isinstance(value, (list, tuple)):
        return ", ".join(str(member) for member in value)
    return "" if value is None else str(value)


def _finite(value: float | None) -> bool:
    return value is not None and not math.isnan(value)


def _widest(values: Sequence[float]) -> float:
    """End of the scale: 1 for fractions, 100 for percentages, otherwise the largest value."""
    largest = max((abs(value) for value in values), default=1.0)
    return 1.0 if largest <= 1 else 100.0 if 10 < largest <= 100 else largest


def _side(measured: Measured, category: str, name: str, widest: float) -> Side:
    value = measured.result.by_category[category].get(name, math.nan)
    if math.isnan(value):
        return Side(shown="–", share=0.0)
    found = measured.category_intervals.get(category, {}).get(name)
    low, high = (math.nan, math.nan) if found is None else (found.low, found.high)
    return Side(
        shown=number(value, "fraction" if widest == 1.0 else "number"),
        share=_share(value, widest),
        interval=None if math.isnan(low) else (_share(low, widest), _share(high, widest)),
    )


def _share(value: float, widest: float) -> float:
    return min(100.0, max(0.0, 100 * value / widest))
