"""Pieces of the report for pages that are not one file: the app shows what the reports show, in the same look."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image

from sightline.data.shown import ShownRow, short_name
from sightline.report.page import Detail, GalleryItem, embed, pieces
from sightline.report.svg import Curve, chart
from sightline.report.table import bounds, number
from sightline.report.templates import fill_template

Pictures = Sequence[tuple[str, Sequence[Path | str | Image.Image]]]


def fragment(
    *,
    bad: Sequence[str] = (),
    notes: Sequence[str] = (),
    rows: Sequence[ShownRow] = (),
    curves: Sequence[Curve] = (),
    thumbs: Pictures = (),
    gallery: Sequence[GalleryItem] = (),
    details: Sequence[Detail] = (),
) -> str:
    """HTML of what is given, in this order.

    Args:
        bad: What went wrong.
        notes: Paragraphs.
        rows: As the model sees them.
        curves: Charts; one without a finite point is left out.
        thumbs: Small pictures under a title each.
        gallery: Pictures with answers.
        details: Long texts, folded.
    """
    drawn = [(curve, Markup(svg)) for curve in curves if (svg := chart(curve))]
    values = {"bad": bad, "notes": notes, "rows": rows, "charts": drawn, "thumbs": thumbs, "gallery": gallery}
    return fill_fragment("app.html.j2", **values, details=details, pieces=pieces, name_of=short_name, frame="")


def frame(address: str, title: str) -> str:
    """A page in a frame."""
    empty: dict[str, Any] = dict.fromkeys(("bad", "notes", "rows", "charts", "thumbs", "gallery", "details"), ())
    return fill_fragment("app.html.j2", **empty, frame=address, frame_title=title)


def fill_fragment(name: str, **values: Any) -> str:
    """A template of the app, texts escaped."""
    return fill_template(name, {"number": number, "bounds": bounds, "embed": shown}, **values)


def shown(image: Path | str | Image.Image) -> str:
    """A picture as a data URI; one of a file is made once, as long as the file does not change."""
    if isinstance(image, Image.Image):
        return embed(image)
    found = Path(image).stat()
    return _embedded(str(image), found.st_mtime_ns, found.st_size)


@functools.lru_cache(maxsize=256)
def _embedded(path: str, changed: int, size: int) -> str:
    return embed(path)


def stylesheet() -> str:
    """The look of the reports, for what stands inside of an element of class ``sl``, and that of the app."""
    whole = fill_template("app.css.j2", {"number": number, "bounds": bounds, "embed": embed})
    return whole.replace(":root", "&")  # the variables of the reports belong to the element here
