"""The report of a check: small histograms, counts and durations as people read them."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from sightline.data.inspect.answers import AnswerFigures
from sightline.data.inspect.checked import Checked, Problem, SourceFigures
from sightline.data.inspect.figures import spread
from sightline.data.inspect.pictures import PictureFigures
from sightline.report.check import print_check, sections, spark


@pytest.mark.parametrize(
    ("bins", "line"), [([1, 0, 4], "▂·█"), ([0, 0, 7], "··█"), ([3], "█"), ([1000, 1, 500], "█▁▄"), ([1, 1], "██")]
)
def test_a_histogram_is_one_line(bins: list[int], line: str) -> None:
    assert spark(bins) == line


def found(**options: object) -> Checked:
    source = SourceFigures(part="train", path="rows.jsonl", read=1200, kept=1000, with_pictures=900)
    pictures = PictureFigures(files=2, distinct=2, width=spread([10] * 4), height=spread(list(range(100, 200))))
    base = {
        "title": "rows.jsonl",
        "sources": (source,),
        "pictures": pictures,
        "tokens": None,
        "answers": AnswerFigures(),
    }
    rest = {"split": None, "leaks": (), "first": (), "forecast": None}
    return Checked(**{**base, **rest, **options})  # type: ignore[arg-type]


def test_what_was_not_found_has_no_section() -> None:
    assert [section.title for section in sections(found())] == ["Rows", "Pictures"]
    (rows, pictures) = sections(found())
    assert (rows.facts[0].value, rows.facts[0].note) == ("1,000 of 1,200 rows kept", "900 with pictures")
    lines = {fact.name: (fact.value, fact.note) for fact in pictures.facts}
    assert lines["width"] == ("10, all", "")
    assert lines["height"][0] == "median 150" and "5 to 95 %: 105 to 194, least 100, most 199" in lines["height"][1]


def test_without_a_terminal_a_fact_is_a_line_and_markup_is_text() -> None:
    stream = io.StringIO()
    source = SourceFigures(part="train", path="[red]rows", read=2, kept=2, with_pictures=0, notes=("a [b] " * 60,))
    problems = [Problem(kind="bad", text="[all] of it")]
    print_check(Console(file=stream, width=60), found(sources=(source,)), problems)
    lines = stream.getvalue().splitlines()
    assert lines[2] == "Rows" and lines[3].startswith("  [red]rows  2 of 2 rows kept")
    assert lines[4].count("a [b]") == 60
    assert lines[-1] == "problem (bad): [all] of it"
