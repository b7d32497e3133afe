"""The tab *Results*."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from sightline.app.desk import Desk
from sightline.app.folders import page_title
from sightline.app.parts import button, listed, told, when
from sightline.app.results import compare, sides, table, table_html
from sightline.errors import DataError
from sightline.report.fragments import fragment, frame


def results_tab(desk: Desk, framed: Callable[[Path], str]) -> Callable[[Any], None]:
    """Puts the tab on the page; gives what looks up its files."""
    figures = gr.HTML(elem_id="results-table")
    with gr.Row():
        before = gr.Dropdown([], label="Before", scale=3, elem_id="results-before")
        after = gr.Dropdown([], label="After", scale=3, elem_id="results-after")
        against = button("Compare", variant="primary", scale=1, min_width=100, elem_id="results-compare")
    page = gr.Dropdown([], label="Page", elem_id="results-page")
    shown = gr.HTML(elem_id="results-shown")

    @told
    def compared(one: str | None, other: str | None) -> str:
        if not one or not other or one == other:
            raise DataError("found the same result twice, or none", remedy="Choose two that differ")
        made = compare(Path(one), Path(other), desk.scratch, desk.folders)
        return frame(framed(made), page_title(made) or "comparison")

    @told
    def opened(name: str | None) -> str:
        if not name:
            return fragment(notes=["There is no page in the folders of the app."])
        return frame(framed(Path(name)), page_title(desk.folders.inside(name)) or "report")

    @told
    def look(one: str | None, other: str | None, name: str | None) -> tuple[Any, ...]:
        found = desk.look()
        both = desk.choices(sides(found))
        later = other or (both[1][1] if len(both) > 1 else None)
        html = table_html(table(found, desk.folders))
        return html, listed(both, one), listed(both, later), listed(desk.choices(found.pages), name)

    when(against.click, compared, [before, after], [shown])
    when(page.change, opened, [page], [shown])
    return lambda on: when(on, look, [before, after, page], [figures, before, after, page])
