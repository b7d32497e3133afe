import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from sightline.evaluation.statistics import Interval
from sightline.report.svg import HEIGHT, WIDTH, Curve, Line, chart, interval_bar
from sightline.report.table import Row

NAN = float("nan")


def drawn(curve):
    """Parsed chart: its polylines as lists of points, and its texts."""
    root = ET.fromstring(chart(curve))
    lines = [
        [tuple(map(float, point.split(","))) for point in line.get("points").split()] for line in root.iter("polyline")
    ]
    return lines, [text.text for text in root.iter("text")]


def curve(y, x=None):
    return Curve(title="t", lines=[Line(name="a", x=x or list(range(len(y))), y=y)], y_label="nats")


def test_points_stand_where_their_values_say():
    (points,), _ = drawn(curve([0.0, 5.0, 10.0], x=[0, 50, 100]))
    (x0, y0), (x1, y1), (x2, y2) = points
    assert x1 == pytest.approx((x0 + x2) / 2) and y1 == pytest.approx((y0 + y2) / 2)
    assert x0 < x2 and y0 > y2
    assert 0 < y2 < y0 < HEIGHT and 0 < x0 < x2 < WIDTH


def test_ticks_are_round_and_cover_the_values():
    _, texts = drawn(curve([0.13, 0.87], x=[0, 400]))
    assert [text for text in texts if text not in ("nats", "optimizer step")] == [
        *("0", "0.2", "0.4", "0.6", "0.8", "1"),
        *("0", "100", "200", "300", "400"),
    ]


def test_tiny_and_negative_values_are_labelled():
    _, texts = drawn(curve([-2e-6, 1e-5]))
    assert "1e−5" in texts and "−5e−6" in texts and "0" in texts


@pytest.mark.parametrize(
    ("high", "labels"),
    [
        (1.5e-5, ["0", "5e−6", "1e−5", "1.5e−5"]),  # rounded to one digit the last would read 2e-5
        (1.5e-3, ["0", "0.0005", "0.001", "0.0015"]),
        (2.5e6, ["0", "5e5", "1e6", "1.5e6", "2e6", "2.5e6"]),
    ],
)
def test_the_labels_of_an_axis_are_exact_and_written_alike(high, labels):
    _, texts = drawn(curve([0.0, high], x=[1, 2]))
    assert [text for text in texts if text not in ("nats", "optimizer step")][: len(labels)] == labels


def test_labels_differ_however_little_the_values_do():
    _, texts = drawn(curve([0.21500001, 0.21500004], x=[1, 2]))
    labels = [text for text in texts if text.startswith("0.215")]
    assert len(labels) == len(set(labels)) >= 4


def test_a_long_label_has_its_place():
    a_phone = 14 * 0.64  # width of a digit there, in pixels
    root = ET.fromstring(chart(curve([0.00018, 0.00022])))
    (end,) = [float(text.get("x")) for text in root.iter("text") if text.text == "0.00018"]
    (points,), _ = drawn(curve([0.00018, 0.00022]))
    assert a_phone * len("0.00018") <= end < points[0][0]


def test_an_exact_series_has_no_running_mean():
    rates = [min(1.0, i / 100) for i in range(200)]
    (points,), _ = drawn(replace(curve(rates), noisy=False))
    assert len(points) == 200 and min(y for _, y in points) == points[150][1] == points[100][1]


def test_a_constant_series_is_drawn_in_the_middle():
    (points,), _ = drawn(curve([3.0, 3.0]))
    assert 40 < points[0][1] < HEIGHT - 60


def test_values_that_are_not_finite_are_left_out():
    (points,), _ = drawn(curve([1.0, NAN, float("inf"), 2.0]))
    assert len(points) == 2
    assert chart(curve([NAN])) == ""


def test_a_long_series_has_its_running_mean_on_top_of_it():
    lines, _ = drawn(curve([float(i % 2) for i in range(2000)]))
    raw, smooth = lines
    assert len(raw) <= 302 and len(smooth) <= 302
    middle = [y for _, y in smooth[20:-20]]
    assert max(middle) - min(middle) < 5  # a mean over 100 values of 0 and 1 hardly moves
    assert re.search('class="line faint c1"', chart(curve([0.0] * 50 + [1.0] * 50)))


def test_two_series_differ_without_colour():
    both = Curve(title="t", lines=[Line(name=n, x=[0, 1], y=[0, 1]) for n in ("a", "b")])
    assert 'class="line c1"' in chart(both) and 'class="line c2"' in chart(both)
    assert 'aria-label="t: a, b"' in chart(both)


def test_labels_are_escaped():
    named = Curve(title='<"&', lines=[Line(name="<b>", x=[0, 1], y=[0, 1])], x_label="<i>", y_label="a & b")
    root = ET.fromstring(chart(named))
    assert root.get("aria-label") == '<"&: <b>'
    assert {"<i>", "a & b"} <= {text.text for text in root.iter("text")}


def test_interval_bar_shows_before_and_after_on_one_scale():
    row = Row(
        key="k",
        name="n",
        meaning="m",
        before=Interval(value=0.5, low=0.25, high=0.75),
        after=Interval(value=0.0, low=0.0, high=1.0),
    )
    root = ET.fromstring(interval_bar(row))
    places = {dot.get("class"): float(dot.get("cx")) for dot in root.iter("circle")}
    assert places == {"point before": 75.0, "point after": 5.0}
    ranges = {line.get("class"): (line.get("x1"), line.get("x2")) for line in root.iter("line")}
    assert ranges["range before"] == ("40.0", "110.0") and ranges["range after"] == ("5.0", "145.0")
