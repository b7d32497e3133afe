"""No page claims a figure that a committed JSON file does not hold."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from said_figures import ratios

from sightline.demo.league import all_methods
from website import tables

ROOT = Path(__file__).parents[2]
NUMBERS = {"seven": 7, "nineteen": 19, "twenty-six": 26}


@pytest.mark.parametrize("page", tables.pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_tables_of_a_page_are_those_of_the_files(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert tables.filled(text) == text, "python -m website.tables"


def test_another_figure_in_a_file_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file under ``benchmarks/results`` stands behind some page: changed, one of them is no longer current
    (``said.json``: test_said.py)."""
    of_code = ("papers.md", "AGENTS.md", "start.md")
    texts = [page.read_text(encoding="utf-8") for page in tables.pages() if page.name not in of_code]
    for file in sorted({*tables.RESULTS.glob("*.json")} - {tables.RESULTS / "said.json"}):
        shutil.rmtree(tmp_path)
        shutil.copytree(tables.RESULTS, tmp_path)
        monkeypatch.setattr(tables, "RESULTS", tmp_path)
        grown = re.sub(r"(?<=[ \[])\d+(?=\.\d)", lambda digits: str(int(digits[0]) + 3), file.read_text())
        (tmp_path / file.name).write_text(grown)
        assert any(tables.filled(text) != text for text in texts), file.name
        monkeypatch.undo()


def test_readme_shows_the_demo_as_it_was_measured() -> None:
    shown = (ROOT / "README.md").read_text(encoding="utf-8")
    for row in tables.demo().splitlines()[2:]:
        assert row in shown


def test_the_words_about_the_league_count_its_table() -> None:
    offline = tables.standings("offline")[1:]
    better = sum(one.verdict == "improves" for one in offline)
    worse = sum(one.verdict == "Hal falls, Cover too" for one in offline)
    assert better + worse == len(offline)
    readme, page = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/league.md"))
    said = re.search(r"has all (\d+) of them.*? (\d+) without a clear loss of Cover, (\d+) lose Cover", readme)
    assert said is not None
    assert tuple(map(int, said.groups())) == (len(offline), better, worse)
    said = re.search(r"(\S+) methods lower Hal without a clear loss of Cover; (\S+) lose Cover", page)
    assert said is not None
    assert [NUMBERS[word.lower()] for word in said.groups()] == [better, worse]


def test_the_league_is_of_the_methods_that_there_are() -> None:
    league = json.loads((tables.RESULTS / "league.json").read_text())
    for kind, options in (("offline", {}), ("online", {"online": True}), ("loops", {"loops": True})):
        names = {row["name"].removesuffix(", round 1") for row in league[kind]["standings"]} - {"base"}
        known = set(all_methods(**{"online": False, "loops": False, **options}))
        assert names <= known
        assert kind == "online" or names == known


def test_every_method_of_the_league_stands_on_a_page_of_its_algorithm() -> None:
    shown = " ".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs/algorithms").glob("*.md"))
    placed = {name for names in re.findall(r"<!-- table: standing ([\w ]+) -->", shown) for name in names.split()}
    assert {one.name for kind in ("offline", "online") for one in tables.standings(kind)[1:]} <= placed


@pytest.mark.parametrize(
    ("page", "begin", "end"),
    [
        ("README.md", "## Speed", "## Where things are"),
        ("docs/performance.md", "## Against the goals\n", "The goals against"),
        ("docs/performance.md", "| goal | |\n|---|---|\n", "| new lengths"),
    ],
)
def test_what_is_said_of_speed_stands_in_a_table(page: str, begin: str, end: str) -> None:
    """Goals stand before what was reached, and are no measurements."""
    said = (ROOT / page).read_text(encoding="utf-8").partition(begin)[2].partition(end)[0]
    reached = re.sub(r"^\|[^|]*\|", "", said.replace("TRL 1.16", "TRL"), flags=re.MULTILINE)
    figures = set(re.findall(r"(?<![\w.])\d+\.\d+(?=x?[^\w.]|\. )", reached))
    assert len(figures) > 1 and figures <= ratios(), figures - ratios()
