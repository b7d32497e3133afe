import json
import math
import re

import pytest
from rich.console import Console

from sightline.evaluation.statistics import Interval
from sightline.report.table import Row, legend, measured, number, table_json, terminal_table

NAN = float("nan")


def row(low, high, *, better="lower", **changed):
    values = {
        "key": "hal",
        "name": "Hal",
        "meaning": "answers with a hallucination",
        "before": Interval(value=0.62, low=0.58, high=0.66),
        "after": Interval(value=0.2, low=0.16, high=0.24),
        "difference": Interval(value=(low + high) / 2, low=low, high=high),
        "better": better,
    }
    return Row(**{**values, **changed})


@pytest.mark.parametrize(
    ("low", "high", "better", "verdict"),
    [
        (-0.5, -0.4, "lower", "better"),
        (-0.5, -0.4, "higher", "worse"),
        (0.1, 0.2, "lower", "worse"),
        (0.1, 0.2, "higher", "better"),
        (-0.1, 0.2, "lower", "no clear change"),
        (-0.2, 0.0, "lower", "no clear change"),
        (1e-17, 0.2, "higher", "no clear change"),
        (0.0002, 0.014, "higher", "better"),
        (0.1, 0.2, "neither", "changed"),
        (NAN, NAN, "lower", ""),
    ],
)
def test_verdict_follows_the_interval_of_the_difference(low, high, better, verdict):
    assert row(low, high, better=better).verdict == verdict


def test_a_difference_without_an_interval_has_no_verdict():
    """A precision of 0 / 0, shown as 0: a result compared with itself was better in it."""
    for value in (0.0, 0.8):
        assert row(NAN, NAN, difference=Interval(value=value, low=NAN, high=NAN)).verdict == ""


def test_nothing_to_compare_has_no_verdict():
    assert row(0, 0, after=None, difference=None).verdict == ""


@pytest.mark.parametrize(
    ("value", "unit", "signed", "text"),
    [
        (0.625, "percent", False, "62.5"),
        (0.625, "percent", True, "+62.5"),
        (-0.0312, "percent", True, "−3.1"),
        (-0.0001, "percent", True, "−0.01"),
        (0.00046, "percent", True, "+0.05"),
        (0.0006, "percent", True, "+0.1"),
        (-0.0001, "percent", False, "0.0"),
        (1e-17, "percent", True, "0.0"),
        (0.0, "percent", True, "0.0"),
        (-0.0004, "fraction", True, "−0.0004"),
        (21.94, "number", False, "21.9"),
        (NAN, "percent", True, "–"),
    ],
)
def test_numbers_are_written_for_people(value, unit, signed, text):
    assert number(value, unit, signed=signed) == text


@pytest.mark.parametrize("low", [0.0, 1e-17, 1.1e-6, 0.00002, 0.0003, 0.00049, 0.0005, 0.01])
def test_a_verdict_can_be_read_off_the_interval_that_is_shown(low):
    one = row(low, 0.014, better="higher")
    shown = re.search(r"\[(.*),", measured(one.difference, one.unit, signed=True)).group(1)
    assert (one.verdict == "better") == (float(shown) > 0)


def test_terminal_table_holds_the_figures():
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(terminal_table([row(-0.5, -0.34)]))
    text = console.export_text()
    figures = next(line for line in text.splitlines() if "Hal" in line)
    cells = re.split(" {2,}", figures.strip())
    assert cells == ["Hal", "62.0 [58.0, 66.0]", "20.0 [16.0, 24.0]", "✓ −42.0 [−50.0, −34.0]"]
    assert text.splitlines()[-1].strip() == "✓ better"


def test_the_legend_has_every_sign_that_stands_in_the_table():
    rows = [row(-0.5, -0.4), row(-0.1, 0.1), row(-0.5, -0.4, better="neither")]
    assert legend(rows) == "✓ better  ≈ no clear change  • changed"


def test_json_is_plain_and_keeps_shares():
    plain = json.loads(json.dumps(table_json([row(-0.5, -0.4), row(NAN, NAN, key="other")]), allow_nan=False))
    assert plain["hal"]["before"] == {"value": 0.62, "low": 0.58, "high": 0.66}
    assert plain["hal"]["verdict"] == "better"
    assert plain["other"]["difference"] == {"value": None, "low": None, "high": None}
    assert plain["other"]["verdict"] is None
    assert math.isclose(plain["hal"]["difference"]["value"], -0.45)
