"""The first rows of a run as the model sees them: a wrong template or a misplaced picture is seen at a glance."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from sightline.data.render import Renderer
from sightline.data.shown import ShownRow, as_text, shown_row, write_rows
from sightline.errors import DataError
from sightline.files import replace_file
from sightline.train.run_folder import RunDirectory
from sightline.types import Group

_log = logging.getLogger(__name__)
SHOWN = 3
"""Rows that are kept for the page."""
_TRIED = 8
"""Rows that are rendered until some can be: a damaged picture is for training to report."""


def tell_first_row(run: RunDirectory, groups: Sequence[Group], renderer: Renderer, *, scores: bool) -> None:
    """Logs the first row that can be rendered, and keeps it and some more in the run directory. Main process only.

    Args:
        run: gets the files.
        groups: that are trained, or prompts that are sampled for.
        renderer: of the run.
        scores: as ``shown_row``.
    """
    rows = list[ShownRow]()
    for group in groups[:_TRIED]:
        try:
            rows.append(shown_row(renderer.render(group), renderer.tokenizer, scores=scores))
        except DataError:
            continue
        if len(rows) == SHOWN:
            break
    if not rows:
        return
    text = f"First row as the model sees it (« » {rows[0].marks}): {as_text(rows[0])}"
    _log.info("%s", text)
    replace_file(run.first_row, f"{text}\n", errors="replace")
    write_rows(run.first_rows, rows)
