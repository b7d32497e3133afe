"""The league table says what the numbers say, everywhere it is written."""

import json
import re

import pytest

from sightline.evaluation.statistics import Interval
from sightline.report.league import METRICS, League, Standing, markdown_table, terminal_table, write_league


def spread(value, low=None, high=None):
    return Interval(value=value, low=value if low is None else low, high=value if high is None else high)


def change(value, low, high):
    return Interval(value=value, low=low, high=high)


def standing(name, hal, cover, hal_change=None, cover_change=None):
    changes = {}
    if hal_change is not None:
        nothing = Interval(value=0.0, low=-0.01, high=0.01)
        changes = {"hal": hal_change, "cover": cover_change, "chair": nothing, "accuracy": nothing}
    return Standing(
        name=name,
        seeds=(0, 1),
        values={"hal": hal, "chair": spread(0.1), "cover": cover, "accuracy": spread(0.95)},
        by_seed=dict.fromkeys(METRICS, (0.1, 0.2)),
        changes=changes,
        learning_rate=1e-4,
        seconds=spread(20.0),
        cpu_seconds=spread(12.34),
    )


BASE = standing("base", spread(0.6, 0.58, 0.62), spread(0.98, 0.97, 0.99))
GOOD = standing(
    "dpo", spread(0.05, 0.02, 0.08), spread(0.985), change(-0.55, -0.58, -0.52), change(0.005, -0.002, 0.012)
)
SHORT = standing("a<b", spread(0.01), spread(0.9, 0.88, 0.92), change(-0.59, -0.61, -0.57), change(-0.08, -0.09, -0.07))


@pytest.mark.parametrize(
    ("hal", "cover", "verdict"),
    [
        ((-0.2, -0.1), (-0.1, 0.1), "improves"),
        ((-0.2, -0.1), (0.1, 0.2), "improves"),
        ((-0.2, -0.1), (-0.2, -0.1), "Hal falls, Cover too"),
        ((-0.2, 0.0), (0.1, 0.2), "no clear change of Hal"),
        ((0.1, 0.2), (0.1, 0.2), "worsens"),
    ],
)
def test_the_verdict_follows_the_intervals(hal, cover, verdict):
    made = standing("m", spread(0.1), spread(0.9), change(sum(hal) / 2, *hal), change(sum(cover) / 2, *cover))
    assert made.verdict == verdict


def test_the_base_is_compared_with_nothing():
    assert BASE.verdict == ""


def test_markdown():
    lines = markdown_table([BASE, GOOD, SHORT]).splitlines()
    assert lines[0].startswith("| method | Hal % | CHAIR % | Cover % | yes/no % | Δ Hal | Δ Cover | CPU s |")
    assert lines[2].startswith("| **base** | 60.0 (58.0–62.0) | 10.0 (10.0–10.0) | 98.0 (97.0–99.0) | 95.0")
    assert lines[3] == (
        "| `dpo` | 5.0 (2.0–8.0) | 10.0 (10.0–10.0) | 98.5 (98.5–98.5) | 95.0 (95.0–95.0) "
        "| −55.0 [−58.0, −52.0] | +0.5 [−0.2, +1.2] | 12.3 | 2 | ✓ improves |"
    )
    assert lines[4].endswith("| ✓− Hal falls, Cover too |")
    assert len({line.count("|") for line in lines}) == 1


def test_terminal_table_has_means_and_no_time_for_the_base():
    columns = [list(map(str, column.cells)) for column in terminal_table([BASE, GOOD]).columns]
    assert columns[:2] == [["base", "dpo"], ["60.0", "5.0"]]
    assert columns[5] == ["", "12.3"] and columns[7] == ["", "✓"]


def test_the_page_holds_table_plot_and_failures_and_loads_nothing(tmp_path):
    league = League(
        standings=(BASE, GOOD, SHORT), seeds=(0, 1), failed={"kto, seed 1": "no <rows>"}, settings={"steps": 150}
    )
    page = write_league(league, tmp_path).read_text()
    assert "a&lt;b" in page and "a<b" not in page and "no &lt;rows&gt;" in page
    assert "steps: 150" in page and "Seeds: 0, 1." in page
    assert not re.search(r"(src|href)=|<script|url\(", page)
    assert json.loads((tmp_path / "league.json").read_text())["standings"][1]["values"]["hal"]["value"] == 0.05
    assert (tmp_path / "league.md").read_text() == markdown_table(league.standings)


def test_the_plot_puts_the_best_value_left_and_the_base_on_its_line(tmp_path):
    page = write_league(League(standings=(BASE, GOOD, SHORT), seeds=(0, 1)), tmp_path).read_text()
    dots = [float(x) for x in re.findall(r'<circle class="dot c\d" cx="([\d.]+)"', page)]
    assert page.count('<svg class="chart"') == 2 and len(dots) == 3 * 2  # CHAIR and yes/no are the same for all
    base, good, short = dots[:3]  # the first plot is Hal: 1 % at the left end, 62 % at the right one
    assert short == 148.0 and base > good > short
    assert (good - short) / (base - short) == pytest.approx(0.04 / 0.59, abs=1e-3)
    assert f'<line class="line c2" x1="{base:.1f}"' in page
    assert max(int(width) for width in re.findall(r'class="chart" viewBox="0 0 (\d+) ', page)) <= 440  # a phone's


def test_units_stand_where_a_phone_shows_no_heading(tmp_path):
    page = write_league(League(standings=(BASE, GOOD), seeds=(0, 1)), tmp_path).read_text()
    assert 'data-name="Hal %"' in page and "in percentage points" in page
    assert page.count('<td data-name="CPU s"></td>') == 1  # empty cells are hidden there: `td:empty`
