"""Every algorithm has a page with its formula, when to use it, and what it reached."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sightline.algorithms.presets import PRESETS
from sightline.algorithms.registry import BUILT_IN

FOLDER = Path(__file__).parents[2] / "docs/algorithms"
PAGES = sorted(path for path in FOLDER.glob("*.md") if path.name != "README.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_is_whole(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert re.search(r"\$[^$\n]+\$", text), "no formula"
    assert "When to use it" in text and "gainst it" in text
    assert "../league.md" in text
    if page.stem != "reward_model":  # which trains no policy
        assert re.search(r"## In the league\n\n.*?<!-- table: standing [\w ]+ -->\n\| league", text, re.DOTALL)


@pytest.mark.parametrize("name", sorted({*BUILT_IN, *PRESETS}))
def test_an_algorithm_has_its_page(name: str) -> None:
    page = FOLDER / ("policy_gradient.md" if name in PRESETS else f"{name}.md")
    assert f"`{name}`" in page.read_text(encoding="utf-8")


def test_the_list_names_every_page() -> None:
    listed = re.findall(r"\]\((\w+\.md)\)", (FOLDER / "README.md").read_text(encoding="utf-8"))
    assert set(listed) == {page.name for page in PAGES}
