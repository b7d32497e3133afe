"""The site is built without a warning, fetches nothing, and leads to files that are there."""

from __future__ import annotations

import ast
import os
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

pytest.importorskip("mkdocstrings", reason="the extra docs (MkDocs) is not installed")
os.environ["NO_MKDOCS_2_WARNING"] = "1"

from mkdocs.commands.build import build
from mkdocs.config import load_config
from website.mathml import to_mathml
from website.navigation import placed

ROOT = Path(__file__).parents[2]
REPOSITORY = "https://github.com/sightline-vlm/sightline"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Every page by its name. ``mkdocs.yml`` is strict: a wrong link, anchor, page or docstring is an error."""
    folder = tmp_path_factory.mktemp("site")
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder))
    assert config.strict
    build(config)
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*.html")}


def test_every_page_is_there(site: dict[str, str]) -> None:
    docs = ROOT / "docs"
    pages = {path.relative_to(docs).with_suffix(".html").as_posix() for path in docs.rglob("*.md")}
    assert {page.replace("README", "index") for page in pages} <= set(site)


def test_a_page_that_nobody_placed_stands_at_the_end_of_its_section(tmp_path: Path) -> None:
    for name in ("a.md", "guides/b.md", "algorithms/c.md", "guides/known.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    nav = [{"Guides": ["guides/known.md"]}, {"Algorithms": ["api/x.md"]}]
    found = placed(nav, tmp_path)
    assert found == [
        {"Guides": ["guides/known.md", "a.md", "guides/b.md"]},
        {"Algorithms": ["api/x.md", "algorithms/c.md"]},
    ]


def test_nothing_is_fetched_from_elsewhere(site: dict[str, str]) -> None:
    for name, page in site.items():
        loaded = re.findall(r'<(?:script|link|img|iframe)\b[^>]*?(?:src|href)="((?:https?:)?//[^"]*)"', page)
        assert not loaded, (name, loaded)
        assert "mermaid" not in page and 'data-md-component="source"' not in page, name  # what the theme would fetch


def test_formulas_are_mathml(site: dict[str, str]) -> None:
    formulas = [one for page in site.values() for one in re.findall(r"<math.*?</math>", page, re.DOTALL)]
    assert len(formulas) > 150
    for formula in formulas:
        ElementTree.fromstring(formula)
    assert not any("arithmatex" in page for page in site.values())


def test_links_to_the_repository_lead_to_files(site: dict[str, str]) -> None:
    links = {link for page in site.values() for link in re.findall(rf'href="{REPOSITORY}/([^"#]+)', page)}
    assert len(links) > 30
    for link in links:
        kind, branch, path = link.split("/", 2)
        target = ROOT / path
        assert branch == "main" and (target.is_dir() if kind == "tree" else target.is_file()), link


def test_the_nouns_are_documented(site: dict[str, str]) -> None:
    tree = ast.parse((ROOT / "src/sightline/types.py").read_text())
    names = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    assert len(names) > 8
    for name in names:
        assert f'id="sightline.types.{name}"' in site["api/types.html"], name


@pytest.mark.parametrize(
    ("formula", "inner"),
    [
        (r"\frac12", "<mfrac><mn>1</mn><mn>2</mn></mfrac>"),
        ("12.5x", "<mn>12.5</mn><mi>x</mi>"),
        ("y'_t", '<msub><mrow><mi>y</mi><mo lspace="0" rspace="0">′</mo></mrow><mi>t</mi></msub>'),
        ("a-b", "<mi>a</mi><mo>−</mo><mi>b</mi>"),
        ("(-b)", '<mo stretchy="false">(</mo><mo form="prefix" rspace="0">−</mo><mi>b</mi><mo stretchy="false">)</mo>'),
        (
            r"\sum_{j \text{ by } i}",
            "<munder><mo>∑</mo><mrow><mi>j</mi><mtext>\N{NO-BREAK SPACE}by\N{NO-BREAK SPACE}</mtext>"
            "<mi>i</mi></mrow></munder>",
        ),
        (r"\left(a\right)", '<mrow><mo stretchy="true">(</mo><mi>a</mi><mo stretchy="true">)</mo></mrow>'),
        (r"a < \beta", "<mi>a</mi><mo>&lt;</mo><mi>β</mi>"),
        (
            r"\begin{cases} a & b \\ c & d \end{cases}",
            '<mrow><mo stretchy="true">{</mo><mtable columnalign="left"><mtr><mtd><mi>a</mi></mtd><mtd><mi>b</mi></mtd>'
            "</mtr><mtr><mtd><mi>c</mi></mtd><mtd><mi>d</mi></mtd></mtr></mtable></mrow>",
        ),
    ],
)
def test_a_formula(formula: str, inner: str) -> None:
    assert re.sub(r"^<math[^>]*>|</math>$", "", to_mathml(formula)) == inner


@pytest.mark.parametrize("formula", [r"\unknown x", "{a", "a}", r"\left(a", r"\begin{align}", "x_", "§"])
def test_what_is_not_read_is_refused(formula: str) -> None:
    with pytest.raises(ValueError, match="formula"):
        to_mathml(formula)
