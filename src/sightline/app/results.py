"""Results of evaluations: their figures side by side, two of them compared, and the pages that were written."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sightline.app.folders import Folders, Found, is_evaluation
from sightline.errors import DataError
from sightline.evaluation.aggregate import read_evaluation
from sightline.evaluation.results import RESULTS, Measured, graded_path, read_measured
from sightline.report.evaluation import result_rows, write_results_page
from sightline.report.fragments import fill_fragment
from sightline.report.table import measured as shown_interval
from sightline.report.table import number

_FIGURES: Final = 4
"""Of each benchmark in the table."""
_MOST: Final = 60
"""Results in the table."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One line of the table."""

    name: str
    model: str
    bench: str
    protocol: str
    figures: Sequence[tuple[str, str]]


def sides(found: Found) -> list[Path]:
    """What can be compared: the folders of evaluations, and results that are in none; the oldest first."""
    ends = [_end(path) for path in found.results]
    return sorted(dict.fromkeys(ends), key=_last_written)


def _end(result: Path) -> Path:
    folder = result.parent.parent
    return folder if result.name == RESULTS and is_evaluation(folder) else result


def _last_written(end: Path) -> float:
    files = list(end.glob(f"*/{RESULTS}")) if end.is_dir() else [end]
    return max(file.stat().st_mtime for file in files)


def table(found: Found, folders: Folders) -> list[Figures]:
    """The first figures of every result. A file that cannot be read is told in the place of its figures."""
    lines = []
    for path in found.results[:_MOST]:
        name = folders.name_of(path.parent if path.name == RESULTS else path)
        try:
            lines.append(_figures(name, read_measured(path)))
        except DataError as error:
            lines.append(Figures(name=name, model="", bench="", protocol="", figures=[("cannot be read", error.found)]))
    return lines


def _figures(name: str, measured: Measured) -> Figures:
    result, facts = measured.result, measured.facts
    shown = []
    for row in result_rows(measured)[:_FIGURES]:
        sign = " %" if row.unit == "percent" else ""
        whole = math.isfinite(row.before.low) and math.isfinite(row.before.high)
        text = shown_interval(row.before, row.unit) if whole else number(row.before.value, row.unit)
        shown.append((row.name, f"{text}{sign}"))
    model = " with ".join(str(facts[key]) for key in ("model", "adapter") if facts.get(key))
    return Figures(name=name, model=model, bench=result.bench, protocol=result.protocol, figures=shown)


def table_html(lines: Sequence[Figures]) -> str:
    return fill_fragment("app_results.html.j2", rows=lines)


def compare(before: Path, after: Path, scratch: Path, folders: Folders) -> Path:
    """Writes the page that holds two models against each other on the benchmarks that both have; the same results give
    the same page, which is written once.

    Raises:
        DataError: they have no benchmark in common, or differ in their questions.
    """
    ends = [_read(folders.inside(path)) for path in (before, after)]
    common = [name for name in ends[0] if name in ends[1]]
    if not common:
        told = " and ".join(", ".join(end) for end in ends)
        raise DataError(f"have no benchmark in common ({told})", source=f"{before}, {after}", remedy="Choose others")
    told = repr([(str(path), _stamps(path)) for path in (before, after)])
    page = scratch / f"compare-{hashlib.sha256(told.encode()).hexdigest()[:16]}.html"
    if not page.is_file():
        names = [folders.name_of(path) for path in (before, after)]
        pairs = [(ends[0][name], ends[1][name]) for name in common]
        alone = sorted((ends[0].keys() | ends[1].keys()) - set(common))
        notes = [f"before: {names[0]}", f"after: {names[1]}"]
        notes += [f"Not compared, because not both have it: {', '.join(alone)}."] if alone else []
        write_results_page(page, pairs, title=f"{names[1]} against {names[0]}", notes=notes)
    return page


def _read(path: Path) -> dict[str, Measured]:
    """Results by benchmark."""
    if is_evaluation(path) and not graded_path(path / RESULTS).is_file():
        return read_evaluation(path)
    measured = read_measured(path)
    return {measured.result.bench: measured}


def _stamps(path: Path) -> list[int]:
    files = sorted(path.glob(f"*/{RESULTS}")) if path.is_dir() else [path]
    return [file.stat().st_mtime_ns for file in files]
