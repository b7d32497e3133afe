"""What a call is given that it cannot use is said before anything is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sightline as sl
from sightline.errors import DataError, RecipeError
from sightline.evaluation.bench import Result
from sightline.evaluation.results import Measured

ASKED = sl.Prompt(id="a", messages=({"role": "user", "content": "x"},))
GROUP = sl.Group(prompts=(ASKED,), responses=(sl.Response(text="a", reward=1.0), sl.Response(text="b", reward=0.0)))
RESULT = Measured(result=Result(bench="pope", protocol="official", metrics={}, metrics_printed={}))
COMPARISON = sl.Comparison(before=(RESULT,), after=(RESULT,), rows=(), notes=())
NAN = replace(GROUP, responses=tuple(replace(one, reward=float("nan")) for one in GROUP.responses))


class Gives:
    """A reward of one value."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def reward(self, group: sl.Group) -> sl.Group:
        return replace(group, responses=tuple(replace(one, reward=self.value) for one in group.responses))


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: sl.load_recipe("r.yaml", ["seed=1"]), r"override \['seed=1'\]: expected texts\. Write each by itself"),
        (lambda: sl.load_recipe(None), r"found None, expected the path of a YAML file"),
        (lambda: sl.pairs([GROUP], relation="bst"), r"relation is 'bst', expected one of best_worst, ranked"),
        (lambda: sl.pairs([GROUP], min_gap=-1), r"min-gap is -1, expected 0 or more"),
        (lambda: sl.pairs([GROUP], min_gap=float("nan")), r"min-gap is nan, expected 0 or more"),
        (lambda: sl.pairs([{"a": 1}]), r"groups: found \{'a': 1\}, expected Groups\. Read rows first"),
        (lambda: sl.pairs([NAN]), r"answer 0 of group a \(counted from 0\) is nan\. Score it anew"),
        (
            lambda: sl.score([GROUP], {"repetition": 1.0}, failed="skip"),
            r"failed is 'skip', expected one of stop, drop",
        ),
        (lambda: sl.score([GROUP], Gives("high")), r"a: the reward Gives gave what is no number .*Give a number"),
        (lambda: sl.write_groups("never.jsonl", GROUP.prompts), r"groups: found Prompt.*expected Groups"),
        (lambda: sl.grade("pope", {"a": None}, "data"), r"answers: the answer to 'a' is None, expected a text to"),
        (lambda: sl.grade("pope", {1: "yes"}, "data"), r"answers: the answer to 1 is 'yes', expected a text to the id"),
        (
            lambda: sl.grade("pope", {}, "data", grading="official"),
            r"grading is 'official', expected sl\.Grading\.",
        ),
        (lambda: sl.evaluate("m", "pope", answers="greedy"), r"answers is 'greedy', expected sl\.AnswerSpec"),
        (lambda: sl.compare(RESULT, RESULT, resamples=0), r"resamples is 0, expected a number of at least 1"),
        (lambda: COMPARISON.named("beter"), r"verdict is 'beter', expected one of better, worse, no clear change"),
    ],
)
def test_it_is_said(call: Callable[[], object], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((RecipeError, DataError), match=told):
        call()
    assert not list(tmp_path.iterdir())


def test_rewards_of_numpy_are_plain_numbers(tmp_path: Path) -> None:
    scored = sl.score([GROUP], Gives(np.float32(0.5)))
    assert sl.write_groups(tmp_path / "scored.jsonl", scored) == 1
    assert [type(one.reward) for one in scored[0].responses] == [float, float]


def test_a_run_whose_folder_is_gone_can_still_be_printed(tmp_path: Path) -> None:
    run = sl.Run(path=tmp_path / "gone")
    assert "no recipe that can be read" in repr(run) and "nothing logged yet" in repr(run)
    assert "no recipe that can be read" in run._repr_html_()
