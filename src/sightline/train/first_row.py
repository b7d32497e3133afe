"""The first row of a run as the model sees it: a wrong template or a picture in the wrong place is seen at a glance."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from sightline.data.render import Renderer
from sightline.data.shown import as_text, shown_row
from sightline.errors import DataError
from sightline.files import replace_file
from sightline.train.run_folder import RunDirectory
from sightline.types import Group

_log = logging.getLogger(__name__)
_TRIED = 8
"""Rows that are rendered until one can be: a damaged picture is for training to report."""


def tell_first_row(run: RunDirectory, groups: Sequence[Group], renderer: Renderer, *, scores: bool) -> None:
    """Logs the first row that can be rendered, and keeps it in the run directory. Main process only.

    Args:
        run: gets the file.
        groups: that are trained, or prompts that are sampled for.
        renderer: of the run.
        scores: as ``shown_row``.
    """
    for group in groups[:_TRIED]:
        try:
            rendered = renderer.render(group)
        except DataError:
            continue
        row = shown_row(rendered, renderer.tokenizer, scores=scores)
        text = f"First row as the model sees it (« » {row.marks}): {as_text(row)}"
        _log.info("%s", text)
        replace_file(run.first_row, f"{text}\n", errors="replace")
        return
