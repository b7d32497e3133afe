"""Benchmarks from Python give what the commands give, and show themselves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from slices import Slices

import sightline as sl
from command_line import sightline
from sightline.errors import CheckpointError, DataError, RecipeError


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("benchmarks")
    slices = Slices(root)
    slices.pope()
    slices.scenes()
    return root


@pytest.fixture(scope="module")
def measured(data: Path, tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[sl.Measured, Path]:
    out = tmp_path_factory.mktemp("eval")
    return sl.evaluate(tiny["llava"], "pope", data, out=out, answers=sl.AnswerSpec(max_new_tokens=4)), out


def test_it_writes_what_the_command_writes(
    measured: tuple[sl.Measured, Path], data: Path, tiny: dict[str, Path], tmp_path: Path
) -> None:
    ours = measured[1]
    options = ("--data", data, "--max-tokens", 4, "-o", tmp_path / "out")
    assert sightline("eval", "pope", "--model", tiny["llava"], *options).code == 0
    for name in ("pope/answers.jsonl", "pope/answers.jsonl.settings.json", "pope/results.json", "results.json"):
        assert (ours / name).read_text() == (tmp_path / "out" / name).read_text(), name
    assert (ours / "report.html").is_file()
    there = sl.compare(measured[0], tmp_path / "out/pope")
    assert all(row.verdict == "no clear change" for row in there.rows) and there.named("better") == []


def test_answers_are_graded_without_a_model(measured: tuple[sl.Measured, Path], data: Path) -> None:
    result, out = measured
    stored = out / "pope/answers.jsonl"
    assert sl.grade("pope", stored, data).metrics == result.metrics
    said = {row["id"]: row["text"] for row in map(json.loads, stored.read_text().splitlines())}
    assert sl.grade("pope", said, data).metrics == result.metrics
    assert {one.id for one in sl.questions("pope", data)} == set(said)
    with pytest.raises(DataError, match="1 of 6 questions have no answer"):
        sl.grade("pope", dict(list(said.items())[1:]), data)


def test_right_answers_are_better_than_wrong_ones(data: Path, tmp_path: Path) -> None:
    asked = sl.questions("pope", data)
    right = {one.id: "no" if "dog" in one.prompt.question else "yes" for one in asked}
    wrong = {one.id: "yes" if "dog" in one.prompt.question else "no" for one in asked}
    change = sl.compare(sl.grade("pope", wrong, data), sl.grade("pope", right, data))
    assert {"accuracy", "f1"} <= set(change.named("better")) and not change.named("worse")
    assert "accuracy" in repr(change) and "✓ better" in repr(change) and "Length of answers of A" in repr(change)
    assert "✓ better" in change._repr_html_() and "<table>" in change._repr_html_()
    assert change.write_page(tmp_path / "page.html").is_file()
    with pytest.raises(DataError, match="Give both sides equally many seeds"):
        sl.compare([change.before[0]] * 2, change.after[0])


def test_a_result_shows_itself(measured: tuple[sl.Measured, Path]) -> None:
    result, _ = measured
    lines = repr(result).splitlines()
    assert lines[0] == "pope (official), 6 answers" and lines[1].split()[:1] == ["accuracy"]
    assert "95 % interval" in result._repr_html_() and "Length of answers" in result._repr_html_()


def test_data_and_settings_are_refused_before_and_after_a_model_is_loaded(
    measured: tuple[sl.Measured, Path], data: Path, tiny: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"pope: no data folder is given\. Give --data"):
        sl.evaluate(tiny["llava"], "pope", out=tmp_path)
    with pytest.raises(DataError, match="nothing"):
        sl.evaluate(tiny["llava"], "nothing", data, out=tmp_path)
    with pytest.raises(DataError, match="protocol"):
        sl.evaluate(tiny["llava"], "pope", data, out=tmp_path, grading=sl.Grading(protocol="nobody's"))
    with pytest.raises(CheckpointError, match="other settings"):
        sl.evaluate(tiny["llava"], "pope", data, out=measured[1], answers=sl.AnswerSpec(max_new_tokens=5))
    with pytest.raises(DataError, match="is given without --judge"):
        sl.evaluate(tiny["llava"], "pope", data, out=tmp_path, grading=sl.Grading(judge_options={"model": "x"}))


def test_calls_for_loops_and_leagues_refuse_what_the_commands_refuse(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="is the recipe of a training, not of a loop"):
        sl.loop(Path(__file__).parents[2] / "recipes/dpo_llava_lora.yaml")
    with pytest.raises(RecipeError, match="nobody"):
        sl.league(["nobody"], seeds=(0,), out=tmp_path)
    with pytest.raises(RecipeError, match="nothing"):
        sl.league(["dpo"], seeds=(0,), out=tmp_path, size=sl.LeagueSize(overrides=("algorithm.nothing=1",)))


def test_first_answers_are_those_of_the_whole_benchmark(
    measured: tuple[sl.Measured, Path], data: Path, tiny: dict[str, Path], tmp_path: Path
) -> None:
    short = sl.AnswerSpec(max_new_tokens=4)
    some = sl.first_answers(tiny["llava"], "pope", data, limit=2, out=tmp_path, answers=short)
    asked = sl.questions("pope", data)[:2]
    assert [group.prompts[0].question for group in some] == [one.prompt.question for one in asked]
    stored = [json.loads(line) for line in (measured[1] / "pope/answers.jsonl").read_text().splitlines()]
    assert [group.texts for group in some] == [(row["text"],) for row in stored[:2]]
    assert not list(tmp_path.rglob("results*")), "figures of a part are no figures of the benchmark"
    whole = sl.evaluate(tiny["llava"], "pope", data, out=tmp_path, answers=short)
    assert whole.metrics == measured[0].metrics
    with pytest.raises(DataError, match="limit is 0"):
        sl.first_answers(tiny["llava"], "pope", data, limit=0)
