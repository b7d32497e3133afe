"""Formulas of counts, intervals, files of results, and comparisons."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from sightline.errors import DataError
from sightline.evaluation.answers import StoredAnswer
from sightline.evaluation.bench import Answer, Graded, Result, direction
from sightline.evaluation.formulas import columns_of, differences, evaluate, formula, intervals
from sightline.evaluation.results import (
    changes,
    length_facts,
    lmms_eval_table,
    measure,
    read_measured,
    write_measured,
)
from sightline.evaluation.statistics import bootstrap, mean, paired_difference, ratio


def rows(values, *, column="hit", picture=2, of=None):
    of = of or [1] * len(values)
    return [
        Graded(id=f"q{n}", cluster=f"p{n // picture}", counts={column: v, "of": w})
        for n, (v, w) in enumerate(zip(values, of, strict=True))
    ]


def result(graded, **changed):
    values = {
        "bench": "b",
        "protocol": "official",
        "metrics": {"accuracy": evaluate("100 * hit / of", graded), "mean_length": 3.0, "undefined": math.nan},
        "metrics_printed": {"accuracy": "50.0"},
        "by_category": {"x": {"accuracy": 1.0, "empty": math.nan}},
        "graded": graded,
        "formulas": {"accuracy": "100 * hit / of"},
        "notes": ("a note",),
        "failures": 2,
    }
    return Result(**{**values, **changed})


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("hit / answers", 0.75),
        ("100 * hit / (of + 0.5)", 100 * 3 / 8.5),
        ("2 * hit / (2 * hit + of - hit)", 6 / 11),
        ("-hit / 2 + 1", -0.5),
        ("(hit / of + 1) / 2", (3 / 8 + 1) / 2),
        ("5", 5),
        ("hit / (of - of)", math.nan),
    ],
)
def test_expressions_over_sums(expression, value):
    found = evaluate(expression, rows([1, 0, 1, 1], of=[2, 2, 2, 2]))
    assert found == pytest.approx(value, nan_ok=True)


def test_expressions_work_on_many_resamples_at_once():
    sums = {"a": np.array([1.0, 2.0, 0.0]), "b": np.array([2.0, 0.0, 4.0])}
    assert np.array_equal(formula("a / b")(sums), [0.5, np.nan, 0.0], equal_nan=True)
    assert columns_of("100 * a / (b + answers)") == ["a", "b"]


@pytest.mark.parametrize(
    "expression",
    ["__import__('os')", "a.b", "a[0]", "a // 2", "a % b", "a if b else c", "'x'", "True", "a +", "a < b", "f(a)"],
)
def test_anything_else_is_refused(expression):
    with pytest.raises(DataError, match="the formula"):
        formula(expression)


def test_intervals_are_those_of_the_bootstrap_over_pictures():
    graded = rows([1, 0, 1, 1, 0, 1, 1, 0], of=[1, 2, 1, 2, 1, 2, 1, 2])
    found = intervals({"mean": "hit / answers", "ratio": "hit / of"}, graded, seed=4)
    columns = {"hit": [1, 0, 1, 1, 0, 1, 1, 0], "of": [1, 2, 1, 2, 1, 2, 1, 2]}
    clusters = [f"p{n // 2}" for n in range(8)]
    assert found["mean"] == bootstrap(columns, mean("hit"), clusters=clusters, seed=4)
    assert found["ratio"] == bootstrap(columns, ratio("hit", "of"), clusters=clusters, seed=4)
    assert intervals({}, graded) == intervals({"a": "hit"}, []) == {}


def test_categories_have_intervals_where_the_formula_gives_their_figure(tmp_path):
    graded = [replace(row, details={"category": "x" if n < 6 else "y"}) for n, row in enumerate(rows([1, 0] * 6))]
    figures = {"x": {"accuracy": 50.0, "other": 1.0}, "y": {"accuracy": 49.0}, "z": {"accuracy": 50.0}}
    one = measure(result(graded, by_category=figures))
    assert one.category_intervals == {"x": intervals({"accuracy": "100 * hit / of"}, graded[:6])}
    write_measured(one, tmp_path / "one.json")
    assert read_measured(tmp_path / "one.json").category_intervals["x"]["accuracy"].value == 50


def test_differences_match_rows_by_id_whatever_their_order():
    before, after = rows([0, 0, 1, 0, 0, 1]), rows([1, 0, 1, 1, 1, 1])
    (found,) = differences({"a": "hit / of"}, before, after[::-1], seed=1).values()
    columns = ({"hit": [0, 0, 1, 0, 0, 1], "of": [1] * 6}, {"hit": [1, 0, 1, 1, 1, 1], "of": [1] * 6})
    clusters = [f"p{n // 2}" for n in range(6)]
    assert found == paired_difference(*columns, ratio("hit", "of"), clusters=clusters, seed=1)
    assert found.value == pytest.approx(0.5)
    with pytest.raises(DataError, match=r"different questions \(6 and 5, 5 in common\)"):
        differences({"a": "hit"}, before, after[:5])


def test_a_result_survives_its_file(tmp_path):
    details = {"answer": "a b c", "category": "c", "wrong": [[0, 1]]}
    graded = [Graded(id="q", cluster="p", counts={"hit": 1.0, "of": 2.0}, details=details)]
    measured = measure(result(graded), {"model": "m", "judge": {"name": "j"}})
    assert measured.facts["words"] == {"c": 3.0}
    path = write_measured(measured, tmp_path / "deep" / "r.json")
    again = read_measured(path)
    assert again.result.graded == graded and again.facts == measured.facts and again.intervals == measured.intervals
    assert (again.result.metrics["accuracy"], again.result.failures, list(again.result.notes)) == (50, 2, ["a note"])
    assert math.isnan(again.result.metrics["undefined"])
    assert again.result.formulas == {"accuracy": "100 * hit / of"}
    assert again.result.better["mean_length"] == "neither"
    table = json.loads(path.read_text())["results"]["b_official"]
    assert table == {
        "alias": "b_official",
        "accuracy,none": 50.0,
        "accuracy_stderr,none": 0.0,
        "mean_length,none": 3.0,
        "mean_length_stderr,none": "N/A",
        "undefined,none": None,
        "undefined_stderr,none": "N/A",
    }
    path.with_name("r.graded.jsonl").unlink()
    with pytest.raises(DataError, match="is no whole result"):
        read_measured(path)


def test_the_standard_error_of_a_share_is_the_one_of_the_books(tmp_path):
    graded = [Graded(id=str(n), cluster=str(n), counts={"hit": n % 4 == 0, "of": 1}) for n in range(1000)]
    path = write_measured(measure(result(graded)), tmp_path / "r.json")
    error = json.loads(path.read_text())["results"]["b_official"]["accuracy_stderr,none"]
    assert error == pytest.approx(100 * math.sqrt(0.25 * 0.75 / 1000), rel=0.06)


def test_b_is_better_by_so_much():
    before, after = rows([0, 0, 1, 0] * 50), rows([1, 0, 1, 0] * 50)
    (change,) = changes([measure(result(before))], [measure(result(after))])
    assert (change.metric, change.before.value, change.after.value, change.better) == ("accuracy", 25, 50, "higher")
    assert change.difference.value == pytest.approx(25) and 15 < change.difference.low < 25 < change.difference.high


def test_a_comparison_shows_the_figures_that_stand_in_the_results():
    """A script that rounds on its way (AMBER's F1, LLaVA-Bench's means) gives a figure beside its formula's."""
    before, after = rows([0, 0, 1] * 50), rows([1, 0, 1] * 50)
    sides = [
        measure(result(graded, metrics={"accuracy": figure}))
        for graded, figure in ((before, 33.3), (after, 66.7))  # by the formula 33.333 and 66.667
    ]
    (change,) = changes(sides[:1], sides[1:])
    assert (change.before.value, change.after.value) == (33.3, 66.7)
    assert change.difference.value == pytest.approx(33.4) and change.difference.low < 100 / 3 < change.difference.high
    (pooled,) = changes([sides[0]] * 2, [sides[1]] * 2)
    assert pooled.after.value == pytest.approx(200 / 3), "several seeds have no figure of their own"


def test_several_seeds_are_pooled_and_narrow_the_interval():
    rng = np.random.default_rng(0)

    def seed(chance):
        return measure(result(rows(rng.binomial(1, chance, size=400).tolist())))

    befores, afters = [seed(0.5) for _ in range(4)], [seed(0.6) for _ in range(4)]
    (one,), (four,) = changes(befores[:1], afters[:1]), changes(befores, afters)
    shares = [sum(row.counts["hit"] for row in side.result.graded) / 4 for side in (*befores, *afters)]
    assert four.difference.value == pytest.approx(sum(shares[4:]) / 4 - sum(shares[:4]) / 4)
    assert four.difference.high - four.difference.low < 0.7 * (one.difference.high - one.difference.low)
    with pytest.raises(DataError, match="1 results stand against 4"):
        changes(befores[:1], afters)


def test_answers_that_a_judge_failed_on_are_left_out_of_both_sides():
    before, after = rows([0, 0, 1, 0]), rows([1, 0, 1, 0])
    (change,) = changes([measure(result(before[1:]))], [measure(result(after[:3]))])
    assert (change.before.value, change.after.value) == (50, 50)
    with pytest.raises(DataError, match="different questions"):
        changes([measure(result(before[1:], failures=0))], [measure(result(after[:3], failures=0))])


def test_rows_that_a_judge_failed_on_are_left_out_and_no_more_than_failed():
    before, after = rows([0, 0, 1, 0]), rows([1, 0, 1, 0])
    failed = replace(before[0], counts={}, details={"problem": "the judge was away"})
    (change,) = changes([measure(result([failed, *before[1:]], failures=1))], [measure(result(after, failures=0))])
    assert (change.before.value, change.after.value) == pytest.approx((100 / 3, 100 / 3))
    with pytest.raises(DataError, match=r"different questions \(2 and 4, 2 in common\)"):
        changes([measure(result(before[2:], failures=1))], [measure(result(after, failures=0))])
    with pytest.raises(DataError, match="no answer was graded on both sides"):
        changes([measure(result(before[:2], failures=2))], [measure(result(after[2:], failures=2))])


def test_tables_of_lmms_eval_find_what_they_read():
    """What ``make_table`` of lmms-eval/utils.py takes from a results file (checked against its source)."""
    document = json.loads(json.dumps(lmms_eval_table([measure(result(rows([1, 0]), better={"mean_length": "lower"}))])))
    lines = []
    for task, found in document["results"].items():
        version, shots = document["versions"].get(task, "N/A"), str(document["n-shot"][task])
        arrows = document["higher_is_better"].get(task, {})
        name = found.pop("alias")
        for key, value in sorted(found.items()):
            metric, _, which = key.partition(",")
            if not metric.endswith("_stderr"):
                error = found[f"{metric}_stderr,{which}"]
                shown = "N/A" if value is None else f"{value:.4f}"
                lines.append((name, version, which, shots, metric, arrows.get(metric), shown, error == "N/A"))
    assert lines == [
        ("b_official", "official", "none", "0", "accuracy", True, "50.0000", False),
        ("b_official", "official", "none", "0", "mean_length", False, "3.0000", True),
        ("b_official", "official", "none", "0", "undefined", True, "N/A", True),
    ]


def test_what_cannot_be_compared_is_said():
    graded = rows([1, 0])
    one = measure(result(graded))
    with pytest.raises(DataError, match=r"the results are of b \(lmms-eval\) and b \(official\)"):
        changes([one], [measure(result(graded, protocol="lmms-eval"))])
    with pytest.raises(DataError, match="graded by the judges a and none"):
        changes([one], [measure(result(graded), {"judge": {"name": "a"}})])


def test_length_stands_with_tokens_only_where_the_harness_generated():
    def stored(text, tokens=None, cut=False):
        return StoredAnswer(answer=Answer(id=text, text=text), tokens=tokens, cut=cut)

    assert length_facts([stored("a b c"), stored(" ")]) == {"answers": 2, "mean_words": 1.5, "empty": 0.5}
    assert length_facts([stored("a b", 4, True), stored("c", 2)]) == {
        "answers": 2,
        "mean_words": 1.5,
        "empty": 0,
        "mean_tokens": 3,
        "cut": 0.5,
    }


@pytest.mark.parametrize(
    ("metric", "way"),
    [
        ("chair", "lower"),
        ("chair_i", "lower"),
        ("hal", "lower"),
        ("hallucination_rate", "lower"),
        ("object_hall", "lower"),
        ("cog", "lower"),
        ("cognition", "higher"),
        ("bench/mme/cognition", "higher"),
        ("half_right", "higher"),
        ("eval/loss", "lower"),
        ("cover", "higher"),
        ("f1", "higher"),
        ("accuracy", "higher"),
        ("mean_length", "neither"),
        ("yes_ratio", "neither"),
    ],
)
def test_the_good_direction_follows_the_name_unless_it_is_given(metric, way):
    assert direction(metric) == way
    assert direction(metric, {metric: "neither"}) == "neither"
