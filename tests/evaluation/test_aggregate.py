"""OViP's row, its index and its sum, from results of single benchmarks."""

import json

import pytest

from sightline.errors import DataError
from sightline.evaluation.aggregate import OVIP_7B, hri, load_reference, ovip_row, read_evaluation
from sightline.evaluation.bench import Graded, Result
from sightline.evaluation.results import measure, write_measured

PERCENT, SHARE = "100 * correct / answers", "correct / answers"


def measured(bench, metrics, formula="", printed=None):
    graded = [Graded(id="a", cluster="a", counts={"correct": 1})]
    formulas = {"accuracy": formula} if formula else {}
    return measure(
        Result(
            bench=bench,
            protocol="ovip",
            metrics=metrics,
            metrics_printed=printed or {},
            graded=graded,
            formulas=formulas,
        )
    )


EVERYTHING = {
    "amber": measured("amber", {"chair": 10.0, "cover": 60.0, "f1": 80.0}),
    "mmhal": measured("mmhal", {"average_score": 2.5}),
    "object_halbench": measured(
        "object_halbench", {"response_hall": 30.0, "object_correct": 90.0, "object_recall": 45.0}
    ),
    "llava_bench": measured("llava_bench", {"score": 60.0}),
    "realworldqa": measured("realworldqa", {"accuracy": 0.5}, SHARE),
    "textvqa": measured("textvqa", {"accuracy": 58.0}, PERCENT),
    "mmstar": measured("mmstar", {"accuracy": 0.25}, SHARE),
    "cvbench": measured("cvbench", {"accuracy": 0.4, "weighted_accuracy": 0.6}),
}


def test_the_row_of_ovip():
    row = ovip_row(EVERYTHING)
    assert row == {
        "amber_chair": 10,
        "amber_cover": 60,
        "amber_generative_f1": pytest.approx(2 * 90 * 60 / 150),
        "amber_discriminative_f1": 80,
        "mmhal_score": 2.5,
        "object_response_hall": 30,
        "object_f1": pytest.approx(60),
        "llava_bench": 60,
        "realworldqa": 50,
        "textvqa": 58,
        "mmstar": 25,
        "cvbench": 60,
        "general": 193,
    }


def test_the_row_is_made_of_printed_figures():
    """OViP's lookup.py reads the output of its graders: 7.84 became 7.8 before the F1, 0.54649 became 0.546."""
    results = {
        "amber": measured(
            "amber",
            {"chair": 7.84, "cover": 51.04, "f1": 74.7},
            printed={"chair": "7.8", "cover": "51.0", "f1": "74.7"},
        ),
        "mmhal": measured("mmhal", {"average_score": 2.4895833}, printed={"average_score": "2.490"}),
        "llava_bench": measured("llava_bench", {"score": 65.449}, printed={"score": "65.4"}),
        "realworldqa": measured("realworldqa", {"accuracy": 0.54649}, SHARE, {"accuracy": "0.546"}),
        "textvqa": measured("textvqa", {"accuracy": 58.2049}, PERCENT, {"accuracy": "58.20%"}),
        "mmstar": measured("mmstar", {"accuracy": 0.25 / 3}, SHARE, {"accuracy": f"125/1500 = {0.25 / 3}"}),
        "cvbench": measured("cvbench", {"accuracy": 0.60049}, SHARE, {"accuracy": "0.600"}),
    }
    row = ovip_row(results)
    assert (row["amber_chair"], row["amber_cover"], row["mmhal_score"], row["llava_bench"]) == (7.8, 51, 2.49, 65.4)
    assert row["amber_generative_f1"] == pytest.approx(2 * 92.2 * 51 / 143.2, abs=1e-12)
    assert row["general"] == pytest.approx(54.6 + 58.2 + 25 / 3 + 60, abs=1e-9)


def test_a_sum_of_three_is_no_general_sum():
    part = {name: EVERYTHING[name] for name in ("realworldqa", "textvqa", "mmstar")}
    assert ovip_row(part) == {"realworldqa": 50, "textvqa": 58, "mmstar": 25}


def test_the_index_is_0_for_the_base_and_10_for_the_reference():
    assert hri(OVIP_7B.base) == 0
    assert hri(OVIP_7B.reference) == pytest.approx(10)
    half = {name: (OVIP_7B.base[name] + OVIP_7B.reference[name]) / 2 for name in OVIP_7B.base}
    assert hri(half) == pytest.approx(5)
    one = {**OVIP_7B.base, "mmhal_score": 1.90 + 2 * (2.52 - 1.90)}
    assert hri(one) == pytest.approx(4)


def test_an_index_without_its_figures_is_refused():
    with pytest.raises(DataError, match="the index lacks mmhal_score, object_f1"):
        hri({name: value for name, value in OVIP_7B.base.items() if name not in ("mmhal_score", "object_f1")})


def test_other_references_can_be_declared(tmp_path):
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"name": "mine", "base": dict(OVIP_7B.base), "reference": dict(OVIP_7B.base)}))
    with pytest.raises(DataError, match="mine: base and reference agree in mmhal_score"):
        hri(OVIP_7B.reference, load_reference(path))
    path.write_text('{"name": "mine", "base": {}, "reference": {}}')
    with pytest.raises(DataError, match="mine: has no value for mmhal_score"):
        hri(OVIP_7B.reference, load_reference(path))
    for text in (
        "{}",
        "[1]",
        '{"name": "mine", "base": {"mmhal_score": "good"}, "reference": {}}',
        '{"name": "x", "base"',
    ):
        path.write_text(text)
        with pytest.raises(DataError, match="is no reference"):
            load_reference(path)


def test_results_are_read_from_the_folder_of_an_evaluation(tmp_path):
    for name, one in EVERYTHING.items():
        write_measured(one, tmp_path / name / "results.json")
    assert ovip_row(read_evaluation(tmp_path)) == ovip_row(EVERYTHING)
    with pytest.raises(DataError, match="holds no results"):
        read_evaluation(tmp_path / "none")
