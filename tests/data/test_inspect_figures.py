"""Summaries: quantiles, and intervals that know that the pairs of a row belong together."""

from __future__ import annotations

import pytest

from sightline.data.inspect.figures import Finding, Found, clustered_mean, clustered_share, spread


def test_a_spread_has_the_quantiles_of_numpy_and_bins_that_add_up() -> None:
    found = spread(list(range(101)))
    assert found is not None
    assert (found.count, found.mean, found.least, found.low, found.median, found.high, found.most) == (
        101,
        50.0,
        0.0,
        5.0,
        50.0,
        95.0,
        100.0,
    )
    assert sum(found.bins) == 101 and len(found.edges) == len(found.bins) + 1 == 25
    alike = spread([7, 7])
    assert alike is not None and alike.bins == (2,)
    assert spread([]) is None


def test_a_mean_of_independent_values_has_the_interval_of_the_textbook() -> None:
    found = clustered_mean([1.0, 3.0, 5.0, 7.0], [0, 1, 2, 3])
    error = (20 / 3 / 4) ** 0.5  # variance 20/3 of four draws
    assert found.value == 4.0
    assert found.high - found.value == pytest.approx(1.959964 * error, rel=1e-5)
    assert found.value - found.low == pytest.approx(1.959964 * error, rel=1e-5)


def test_repeating_every_value_within_its_row_says_nothing_new() -> None:
    once = clustered_mean([1.0, 3.0, 5.0, 7.0], [0, 1, 2, 3])
    thrice = clustered_mean([1.0] * 3 + [3.0] * 3 + [5.0] * 3 + [7.0] * 3, [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3)
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high))
    assert clustered_mean([1.0, 2.0], [0, 0]).high == float("inf")


def test_a_share_has_wilsons_interval() -> None:
    """8 of 10: [0.490, 0.943] (Wilson 1927); few draws of one kind are not certain."""
    found = clustered_share([1.0] * 8 + [0.0] * 2, list(range(10)))
    assert (found.low, found.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    three = clustered_share([1.0] * 3, [0, 1, 2])
    assert (three.low, three.high) == pytest.approx((0.4385, 1.0), abs=1e-4)


def test_a_finding_counts_all_and_names_the_first() -> None:
    finding = Finding()
    for number in range(7):
        finding.add(f"rows.jsonl:{number}")
    assert finding.found() == Found(count=7, rows=tuple(f"rows.jsonl:{number}" for number in range(5)))
