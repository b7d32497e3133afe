"""No sentence claims a figure that a committed JSON file does not hold.

A figure of a sentence is a number with a unit, outside of tables, code and formulas. Each is one of these: it follows
from a file of ``benchmarks/results`` (``MADE``), a ratio that a table of its page shows, it stands in ``said.json``
because no other file has it, or nobody measured it (``GIVEN``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from said_figures import GIVEN, MADE, ratios

from website import tables

ROOT = Path(__file__).parents[2]
UNITS = r"%|times|x|×|s|ms|µs|GB|MB|points|seconds|minutes|words|nats|tokens/s|TFLOP/s"
FIGURE = re.compile(rf"(?<![\w.,-])\d[\d,]*(?:\.\d+)?(?:e-?\d+)?\s?(?:{UNITS})(?![\w/]| \d)")
NUMBER = re.compile(r"(?<![\w.])[−+-]?\d[\d,]*(?:\.\d+)?(?![\w]*-)")
HIDDEN = re.compile(
    r"^```.*?^```|<!-- table: .*?<!-- end -->|`[^`\n]*`|\$[^$\n]*\$|(?<=\])\([^)\n]*\)", re.DOTALL | re.MULTILINE
)
NO_CLAIMS = ("log.md", "CHANGELOG.md")
"""They tell what was measured on the way."""

SAID = json.loads((tables.RESULTS / "said.json").read_text(encoding="utf-8"))
PAGES = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in tables.pages()}
CLAIMING = [page for page in PAGES if Path(page).name not in NO_CLAIMS and "adr" not in Path(page).parts]


def numbers(fragment: str) -> list[str]:
    return [found.replace(",", "").replace("−", "-") for found in NUMBER.findall(re.sub(r"`[^`]*`", "", fragment))]


def places(page: str, fragments: Iterable[str]) -> Iterator[range]:
    for fragment in fragments:
        found = [match.span() for match in re.finditer(re.escape(fragment), PAGES[page])]
        assert found, f"{page} no longer says {fragment!r}"
        yield from (range(*span) for span in found)


@pytest.mark.parametrize("page", CLAIMING)
def test_every_figure_of_a_sentence_is_held_by_a_file(page: str) -> None:
    said = [one["says"] for one in SAID.get(page, ())]
    known = list(places(page, [*said, *MADE.get(page, ()), *GIVEN.get(page, ())]))
    shown = set(re.findall(r"\d+\.\d+(?=x)", "".join(match[3] for match in tables.PLACE.finditer(PAGES[page]))))
    shown |= ratios() if page == "README.md" else set()
    text = PAGES[page]
    for row in tables.demo().splitlines():
        text = text.replace(row, "\0" * len(row))
    visible = HIDDEN.sub(lambda match: re.sub(r"[^\n]", "\0", match[0]), text)
    unknown = [
        visible[max(0, match.start() - 60) : match.end() + 20]
        for match in FIGURE.finditer(visible)
        if not any(match.start() in place for place in known)
        and match[0].rstrip(" x").removesuffix(" times") not in shown
    ]
    assert not unknown, unknown


@pytest.mark.parametrize(("page", "fragment"), [(page, fragment) for page, made in MADE.items() for fragment in made])
def test_a_figure_follows_from_its_file(page: str, fragment: str) -> None:
    said, made = numbers(fragment), MADE[page][fragment]()
    assert len(said) == len(made), (said, made)
    for number, value in zip(said, made, strict=True):
        step = 10.0 ** -len(number.partition(".")[2])
        assert abs(float(number) - value) <= 0.5 * step + 1e-6, (number, value)


def test_what_is_said_names_what_it_was_measured_on() -> None:
    assert set(SAID) <= set(CLAIMING)
    assert all(set(one) == {"says", "of"} and all(one.values()) for page in SAID.values() for one in page)
