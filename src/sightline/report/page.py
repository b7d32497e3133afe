"""The report: one HTML file that holds everything it shows and asks the network for nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from PIL import Image

from sightline.display import embed
from sightline.files import replace_file
from sightline.report.svg import Curve, chart, interval_bar
from sightline.report.table import SIGNS, Row, bounds, number
from sightline.report.templates import fill_template


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer in the gallery."""

    title: str
    """``before``, ``after``, ``chosen``, ..."""
    text: str
    wrong: Sequence[tuple[int, int]] = ()
    """Half-open character spans [start, end) of ``text`` that name what is not in the picture."""
    missed: Sequence[str] = ()
    """What is in the picture and not in the answer."""
    note: str = ""
    """A few words beside the title: ``reward 0.8``."""


@dataclass(frozen=True, kw_only=True)
class GalleryItem:
    """One picture with a question and the answers to it."""

    images: Sequence[Path | str | Image.Image]
    question: str
    answers: Sequence[Answer]
    caption: str = ""
    """What is really there."""


@dataclass(frozen=True, kw_only=True)
class Detail:
    """A long text that opens on a click: a recipe, an environment."""

    title: str
    text: str


def write_report(
    path: str | Path,
    *,
    title: str,
    table: Sequence[Row] = (),
    curves: Sequence[Curve] = (),
    gallery: Sequence[GalleryItem] = (),
    notes: Sequence[str] = (),
    details: Sequence[Detail] = (),
) -> Path:
    """Write a self-contained HTML page.

    Args:
        path: The file; its folder is made.
        title: Heading of the page.
        table: Metrics; the ones marked as headline are repeated large at the top.
        curves: Charts; one without a finite point is left out.
        gallery: Pictures with answers. Pictures are shrunk to 384 pixels and embedded.
        notes: Paragraphs under the heading: what was run, on what, for how long.
        details: Long texts, folded.

    Returns:
        The path written.
    """
    path = Path(path)
    charts = [(curve, Markup(svg)) for curve in curves if (svg := chart(curve))]
    page = fill_template(
        "page.html.j2",
        {"number": number, "bounds": bounds, "embed": embed},
        title=title,
        rows=[(row, Markup(interval_bar(row))) for row in table],
        compared=any(row.after is not None for row in table),
        signs=SIGNS,
        charts=charts,
        gallery=gallery,
        marked=any(answer.wrong or answer.missed for item in gallery for answer in item.answers),
        pieces=pieces,
        notes=notes,
        details=details,
    )
    replace_file(path, page)
    return path


def pieces(text: str, spans: Iterable[tuple[int, int]]) -> list[tuple[str, bool]]:
    """Cut a text at its spans: ``[("a ", False), ("dog", True)]``. Overlapping spans are joined."""
    cut: list[tuple[str, bool]] = []
    done = 0
    for start, end in _joined(spans):
        cut += [(text[done:start], False), (text[start:end], True)]
        done = end
    cut.append((text[done:], False))
    return [(piece, wrong) for piece, wrong in cut if piece]


def _joined(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined
