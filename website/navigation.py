"""Where a page stands on the site: as ``mkdocs.yml`` says, or else at the end of the section of its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_SECTIONS = {"algorithms": "Algorithms", "adr": "Inside"}
"""Folder to section; pages of all other folders are guides."""


def placed(nav: list[dict[str, list[str]]], docs: Path) -> list[dict[str, list[str]]]:
    """The sections of the site with the pages that they do not list."""
    sections: dict[str, Any] = {name: list(pages) for section in nav for name, pages in section.items()}
    listed = {page for pages in sections.values() for page in pages}
    for path in sorted(docs.rglob("*.md")):
        page = path.relative_to(docs).as_posix()
        if page not in listed:
            sections[_SECTIONS.get(page.partition("/")[0], "Guides")].append(page)
    return [{name: pages} for name, pages in sections.items()]
