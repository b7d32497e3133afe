"""Runs the Python of a page as a reader would: its blocks in their order, in one namespace, in one folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

_FENCED = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A block of Python on a page."""

    line: int
    """Of the page, counted from 1, where its code begins."""
    code: str


def python_blocks(page: Path) -> list[Block]:
    """The blocks that begin with ```` ```python ````, in their order."""
    text = page.read_text(encoding="utf-8")
    return [Block(text.count("\n", 0, found.start(1)) + 1, found[1]) for found in _FENCED.finditer(text)]


def run_block(page: Path, block: Block, names: dict[str, Any]) -> None:
    """Runs one block; a traceback shows the page and its line."""
    code = "\n" * (block.line - 1) + block.code
    exec(compile(code, str(page), "exec"), names)


def run_page(page: Path, names: dict[str, Any] | None = None) -> dict[str, Any]:
    """Runs all blocks of a page in the working directory, which the caller has furnished.

    Args:
        page: the page.
        names: that the blocks find defined; what they define is added.

    Returns:
        The names.
    """
    found = {"__name__": "__main__"} if names is None else names
    for block in python_blocks(page):
        run_block(page, block, found)
    return found
