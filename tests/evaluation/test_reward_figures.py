"""Figures of reward models, against numbers and enumerations in the test."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest

from sightline.evaluation.comparisons import by_length
from sightline.evaluation.reward_figures import (
    best_of_n,
    curve,
    expected_calibration_error,
    kl_bound,
    reliability,
    reward_result,
    with_comparisons,
)
from sightline.report.preferences import curves
from sightline.types import Edge, Group, Prompt, Response


def group(name: str, texts: list[str], rewards: list[float | None], edges: list[tuple[int, int]] = ()) -> Group:
    prompt = Prompt(id=name, messages=({"role": "user", "content": "which?"},), images=(f"/{name}.png",))
    answers = tuple(Response(text=text, reward=reward) for text, reward in zip(texts, rewards, strict=True))
    return Group(prompts=(prompt,), responses=answers, edges=tuple(Edge(winner=a, loser=b) for a, b in edges))


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def test_figures_of_comparisons() -> None:
    scored = [
        group("a", ["one two", "one"], [2.0, 0.5], [(0, 1)]),
        group("b", ["one", "one two three"], [-1.0, 1.0], [(0, 1)]),
        group("c", ["one", "two"], [0.25, 0.25], [(0, 1)]),
        group("d", ["one", "two"], [None, 0.25], [(0, 1)]),
    ]
    bare = [replace(g, responses=tuple(replace(r, reward=None) for r in g.responses)) for g in scored]
    result = reward_result(bare, scored)
    margins = [1.5, -2.0, 0.0]
    expected = {
        "accuracy": 1 / 3,
        "ties": 1 / 3,
        "loss": sum(-math.log(sigmoid(m)) for m in margins) / 3,
        "calibration/brier": sum((1 - sigmoid(m)) ** 2 for m in margins) / 3,
        "margin": -0.5 / 3,
        "score/chosen": 1.25 / 3,
        "accuracy/longer": 1.0,
        "accuracy/shorter": 0.0,
        "length/longer": 1 / 3,
        # sure 0.82 and right, 0.88 and wrong, 0.5 and tied: three bins
        "calibration/ece": ((1 - sigmoid(1.5)) + sigmoid(2.0) + 0.0) / 3,
    }
    for name, value in expected.items():
        assert result.metrics[name] == pytest.approx(value), name
    assert result.failures == 1 and "1 comparisons with an answer that could not be judged" in result.notes[0]
    assert not [name for name in result.metrics if name.startswith("best_of_n")]  # there is no gold


def test_extreme_margins_stay_finite() -> None:
    scored = [group("a", ["x", "y"], [2000.0, -2000.0], [(1, 0)])]
    metrics = reward_result(scored, scored).metrics
    assert metrics["loss"] == 4000.0 and metrics["calibration/brier"] == 1.0 and metrics["calibration/ece"] == 1.0


def test_a_model_that_says_how_sure_it_is_is_calibrated() -> None:
    """It is right in 3 of 4 where it says 3/4, and in 9 of 10 where it says 9/10."""
    sure, surer = math.log(3), math.log(9)
    bins = reliability([sure] * 3 + [-sure] + [surer] * 9 + [-surer])
    assert [(round(one.confidence, 6), one.accuracy, one.pairs) for one in bins] == [(0.75, 0.75, 4), (0.9, 0.9, 10)]
    assert expected_calibration_error(bins) == pytest.approx(0.0, abs=1e-12)
    boasts = reliability([surer] * 3 + [-surer])
    assert expected_calibration_error(boasts) == pytest.approx(0.9 - 0.75)


def test_best_of_n_is_the_mean_over_all_draws() -> None:
    scores, gold = [0.3, -1.0, 2.0, 0.3, 0.9], [1.0, 0.0, 0.5, 3.0, 2.0]
    found = best_of_n(scores, gold)
    for n in range(1, 6):
        worth = []
        for drawn in itertools.combinations(range(5), n):
            top = max(scores[i] for i in drawn)
            best = [gold[i] for i in drawn if scores[i] == top]
            worth.append(sum(best) / len(best))
        assert found[n - 1] == pytest.approx(sum(worth) / len(worth)), n


def test_the_curve_is_made_of_prompts_with_many_answers() -> None:
    gold = [group(name, list("abcd"), [0.0, 1.0, 0.0, 0.0]) for name in "pq"] + [group("r", list("ab"), [0.0, 1.0])]
    scores = {"p": [0.0, 3.0, 1.0, 2.0], "q": [3.0, 0.0, 1.0, 2.0], "r": [9.0, 1.0]}
    gold = [with_comparisons(one) for one in gold]
    scored = [
        replace(g, responses=tuple(replace(r, reward=s) for r, s in zip(g.responses, scores[g.id], strict=True)))
        for g in gold
    ]
    result = reward_result(gold, scored)
    assert curve(result, "best") == pytest.approx([1 / 4, (1 / 2 + 0) / 2, (3 / 4 + 0) / 2, (1 + 0) / 2])
    assert curve(result, "oracle") == pytest.approx([1 / 4, 1 / 2, 3 / 4, 1])
    assert {n: v for n, v in result.metrics.items() if n.startswith("best")} == pytest.approx(
        {"best_of_n/1": 0.25, "best_of_n/2": 0.25, "best_of_n/4": 0.5}
    )
    assert curve(result, "score") == pytest.approx([1.5, 14 / 6, 11 / 4, 3])  # 0, 1, 2 and 3 in both
    assert result.metrics["score_of_best/4"] == 3 and result.better["score_of_best/4"] == "neither"
    # gold makes the comparisons: three in p and in q, one in r
    assert result.metrics["accuracy"] == pytest.approx((3 + 0 + 0) / 7)


def test_the_distance_of_best_of_n_is_bounded_by_what_its_density_says() -> None:
    """The best of n of a continuum has the density n u^(n-1) over [0, 1]: its KL from uniform is the bound."""
    for n in (1, 2, 5):
        grid = [(i + 0.5) / 20000 for i in range(20000)]
        kl = sum(n * u ** (n - 1) * math.log(n * u ** (n - 1)) for u in grid) / len(grid)
        assert kl_bound(n) == pytest.approx(kl, abs=1e-3)


def test_the_page_draws_the_curve_by_n_and_by_distance() -> None:
    gold = [with_comparisons(group(name, list("abc"), [0.0, 1.0, 2.0])) for name in "pq"]
    drawn = {one.title: one for one in curves(reward_result(gold, gold))}
    assert drawn["Best of n"].lines[0].x == [1.0, 2.0, 3.0]
    by_distance = drawn["Best of n by distance"].lines[0]
    assert by_distance.x == [0.0, kl_bound(2), kl_bound(3)] and by_distance.y == pytest.approx([1.0, 5 / 3, 2.0])


def test_the_curve_reaches_as_far_as_half_of_the_prompts() -> None:
    few = [group(name, ["a", "b"], [0.0, 1.0]) for name in "pqr"]
    many = [group(name, list("abc"), [0.0, 1.0, 0.0]) for name in "st"]
    assert len(curve(reward_result([*few, *many], [*few, *many]), "best")) == 2
    half = reward_result([*few[:2], *many], [*few[:2], *many])
    assert curve(half, "best") == pytest.approx([1 / 3, 2 / 3, 1.0])  # of the two that reach so far


def test_labels_are_gold_and_given_comparisons_stay() -> None:
    prompt = Prompt(id="a", messages=())
    answers = tuple(Response(text=text, label=label) for text, label in (("x", False), ("y", True), ("z", None)))
    assert with_comparisons(Group(prompts=(prompt,), responses=answers)).edges == (Edge(winner=1, loser=0),)
    given = group("a", ["x", "y"], [1.0, 0.0], [(1, 0)])
    assert with_comparisons(given) == given
    picture = Edge(winner=0, loser=1, kind="image")
    assert with_comparisons(replace(given, edges=(*given.edges, picture))) == given
    assert with_comparisons(replace(given, edges=(picture,))).edges == (Edge(winner=0, loser=1),)  # as gold says


def test_bins_of_length_hold_equally_many_and_keep_ties_together() -> None:
    assert by_length([1, 1, 1, 1, 2, 3, 4, 5], [1, 0, 1, 0, 1, 1, 0, 0], bins=4) == [
        (1.0, 0.5, 4),
        (2.5, 1.0, 2),
        (4.5, 0.0, 2),
    ]
    assert by_length([], []) == []
    assert by_length([0, 0], [1, 0]) == [(0.0, 0.5, 2)]
