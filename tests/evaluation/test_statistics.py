import itertools
import math

import numpy as np
import pytest

from sightline.evaluation.statistics import bootstrap, f1, mean, paired_difference, precision, ratio, recall


def exact_quantiles(rows, metric):
    """2.5 % and 97.5 % of a metric over all n^n equally likely resamples of n rows."""
    values = sorted(metric([rows[i] for i in draw]) for draw in itertools.product(range(len(rows)), repeat=len(rows)))
    return np.quantile(values, [0.025, 0.975])


def test_mean_against_all_resamples():
    rows = [0.0, 1.0, 5.0, 2.0, 11.0]
    low, high = exact_quantiles(rows, lambda drawn: sum(drawn) / 5)
    found = bootstrap({"x": rows}, mean("x"), resamples=100_000)
    assert found.value == 3.8
    assert found.low == pytest.approx(low, abs=0.05) and found.high == pytest.approx(high, abs=0.05)


def test_ratio_of_sums_against_all_resamples():
    rows = [(0, 3), (1, 4), (0, 2), (2, 5), (1, 1)]
    low, high = exact_quantiles(rows, lambda drawn: sum(a for a, _ in drawn) / sum(b for _, b in drawn))
    columns = {"bad": [a for a, _ in rows], "all": [b for _, b in rows]}
    found = bootstrap(columns, ratio("bad", "all"), resamples=100_000)
    assert found.value == pytest.approx(4 / 15)
    assert found.low == pytest.approx(low, abs=0.005) and found.high == pytest.approx(high, abs=0.005)


def test_mean_of_many_answers_follows_normal_theory():
    values = np.random.default_rng(1).normal(3.0, 2.0, 900)
    found = bootstrap({"x": values}, mean("x"), resamples=4000)
    half = 1.959964 * values.std() / 30
    assert found.value == pytest.approx(values.mean())
    assert found.value - found.low == pytest.approx(half, rel=0.06)
    assert found.high - found.value == pytest.approx(half, rel=0.06)


def test_ratio_follows_the_delta_method():
    rng = np.random.default_rng(2)
    mentions = rng.poisson(4, 1000) + 1
    bad = rng.binomial(mentions, 0.3)
    found = bootstrap({"bad": bad, "mentions": mentions}, ratio("bad", "mentions"), resamples=4000)
    spread = (bad - found.value * mentions).std() / mentions.mean() / math.sqrt(1000)
    assert found.high - found.low == pytest.approx(2 * 1.959964 * spread, rel=0.06)


def test_interval_covers_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(3)
    covered = 0
    for trial in range(400):
        found = bootstrap({"x": rng.binomial(1, 0.4, 150)}, mean("x"), resamples=500, seed=trial)
        covered += found.low <= 0.4 <= found.high
    assert 0.92 <= covered / 400 <= 0.98


def test_precision_recall_and_f1():
    columns = {"tp": [1, 1, 0, 0, 1], "fp": [0, 0, 1, 0, 0], "fn": [0, 0, 0, 1, 0]}
    assert bootstrap(columns, precision()).value == 3 / 4
    assert bootstrap(columns, recall()).value == 3 / 4
    assert bootstrap({**columns, "fn": [0, 0, 0, 3, 0]}, f1()).value == pytest.approx(6 / 10)


def test_answers_of_one_picture_are_drawn_together():
    values = np.random.default_rng(4).normal(size=200)
    once = bootstrap({"x": values}, mean("x"))
    repeated = np.repeat(values, 9)
    pictures = [f"picture {i}" for i in range(200) for _ in range(9)]
    together = bootstrap({"x": repeated}, mean("x"), clusters=pictures)
    apart = bootstrap({"x": repeated}, mean("x"))
    assert together.low == pytest.approx(once.low) and together.high == pytest.approx(once.high)
    assert (apart.high - apart.low) * 3 == pytest.approx(once.high - once.low, rel=0.1)


def test_clusters_of_unequal_size_keep_the_value():
    found = bootstrap({"x": [1, 0, 0, 0]}, mean("x"), clusters=["a", "b", "b", "b"], resamples=50_000)
    assert found.value == 0.25
    assert (found.low, found.high) == (0.0, 1.0)


def test_pairing_removes_what_both_sides_share():
    rng = np.random.default_rng(5)
    before = rng.normal(0, 10, 300)
    constant = paired_difference({"x": before}, {"x": before - 0.5}, mean("x"))
    assert constant.value == pytest.approx(-0.5) and constant.low == pytest.approx(-0.5) == constant.high
    change = rng.normal(-0.5, 1, 300)
    found = paired_difference({"x": before}, {"x": before + change}, mean("x"), resamples=4000)
    assert found.high - found.low == pytest.approx(2 * 1.959964 * change.std() / math.sqrt(300), rel=0.06)


def test_paired_difference_of_a_ratio_with_own_denominators():
    before = {"bad": [2, 1], "all": [4, 4]}
    after = {"bad": [0, 1], "all": [3, 5]}
    found = paired_difference(before, after, ratio("bad", "all"), resamples=20_000)
    assert found.value == pytest.approx(1 / 8 - 3 / 8)
    assert found.low == pytest.approx(-0.5) and found.high == pytest.approx(1 / 5 - 1 / 4)


def test_same_seed_same_interval():
    columns = {"x": np.arange(50)}
    assert bootstrap(columns, mean("x"), seed=7) == bootstrap(columns, mean("x"), seed=7)
    assert bootstrap(columns, mean("x"), seed=7) != bootstrap(columns, mean("x"), seed=8)


def test_undefined_metrics_are_nan_and_undefined_resamples_are_left_out():
    nothing = bootstrap({"bad": [0, 0], "all": [0, 0]}, ratio("bad", "all"))
    assert math.isnan(nothing.value) and math.isnan(nothing.low) and math.isnan(nothing.high)
    some = bootstrap({"bad": [0, 1], "all": [0, 2]}, ratio("bad", "all"))
    assert (some.value, some.low, some.high) == (0.5, 0.5, 0.5)


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="one length"):
        bootstrap({"x": [1, 2], "y": [1]}, mean("x"))
    with pytest.raises(ValueError, match="one length"):
        bootstrap({"x": []}, mean("x"))
    with pytest.raises(ValueError, match="3 clusters for 2 answers"):
        bootstrap({"x": [1, 2]}, mean("x"), clusters="abc")
    with pytest.raises(ValueError, match="same before and after"):
        paired_difference({"x": [1]}, {"y": [1]}, mean("x"))
    with pytest.raises(ValueError, match="level 95"):
        bootstrap({"x": [1]}, mean("x"), level=95)


def test_resamples_drawn_some_at_a_time_are_the_same(monkeypatch):
    """So that many rows do not take the memory of all resamples at once."""
    rows = [0.0, 1.0, 5.0, 2.0, 11.0]
    whole = bootstrap({"x": rows}, mean("x"), resamples=103)
    monkeypatch.setattr("sightline.evaluation.statistics._MOST_DRAWN", 50)
    assert bootstrap({"x": rows}, mean("x"), resamples=103) == whole
