"""Blocks of code of a page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).parents[2] / "docs"


class Block(NamedTuple):
    heading: str
    language: str
    file: str
    """Name that it is stored under; empty: it is run."""
    code: str


def blocks(page: str) -> list[Block]:
    """In the order of the page."""
    found, heading = [], ""
    pattern = r'^## ([^\n]+)$|^```(\w+)(?: title="(\S+)")?\n(.*?)^```$'
    for match in re.finditer(pattern, (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        if match[1]:
            heading = match[1]
        else:
            found.append(Block(heading, match[2], match[3] or "", match[4]))
    return found
