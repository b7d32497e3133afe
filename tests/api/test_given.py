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
        (lambda: sl.compare(RESULT, None), r"a result is None, expected a path\. Give a text or a pathlib\.Path"),
        (lambda: COMPARISON.write_page("."), r"path is '\.', a folder, expected a file to write\. Name one in it"),
        (lambda: COMPARISON.write_page(None), r"path is None, expected a path"),
        (lambda: sl.write_groups(".", [GROUP]), r"path is '\.', a folder"),
        (lambda: sl.read_groups(None), r"path is None, expected a path"),
        (lambda: sl.open_run(None), r"path is None, expected a path"),
        (lambda: sl.report(None), r"run is None, expected a path"),
        (lambda: sl.load(None), r"model is None, expected a path"),
        (lambda: sl.load("m", 5), r"adapter is 5, expected a path"),
        (lambda: sl.merge("r", None), r"out is None, expected a path"),
        (lambda: sl.assemble(None, "v", "o"), r"language is None, expected a path"),
        (lambda: sl.convert("s", "o", vision_tower=None), r"vision_tower is None, expected a path"),
        (lambda: sl.grade("pope", None, "data"), r"answers is None, expected a path"),
        (lambda: sl.questions("scenes", drawn=None), r"drawn is None, expected a path"),
        (lambda: sl.preferences(None, []), r"model is None, expected a path"),
        (lambda: sl.check(None), r"found None, expected a recipe\. Give its file"),
        (lambda: sl.explain(None), r"found None, expected a recipe\. Give its file"),
        (lambda: sl.loop(None), r"found None, expected the recipe of a loop\. Give its file"),
        (lambda: sl.league(bases=[None]), r"a base is None, expected a path"),
        (lambda: sl.SamplingSpec(n=0), r"^sl\.SamplingSpec: n: found 0 \(whole number\), expected a value >= 1\.$"),
        (lambda: sl.SamplingSpec(temp=1), r"^sl\.SamplingSpec: unknown key 'temp'\. .*temperature"),
        (
            lambda: replace(sl.SamplingSpec(), top_p=2),
            r"^sl\.SamplingSpec: top_p: found 2 .*expected a value <= 1\.$",
        ),
        (lambda: sl.DataSpec(), r"^sl\.DataSpec: missing key 'path'\. Add it"),
        (lambda: sl.SamplingSpec(4), r"^sl\.SamplingSpec: found 4 without a name, expected name=value\."),
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
