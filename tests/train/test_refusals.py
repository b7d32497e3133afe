"""Data that an algorithm would pass over in silence: one message, that names row and remedy."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import train_runs

from sightline.algorithms.presets import PRESETS
from sightline.algorithms.registry import BUILT_IN, build_algorithm
from sightline.data.schema import read_groups, write_groups
from sightline.errors import DataError, RecipeError, SightlineError
from sightline.recipes.schema import DatasetSpec, DataSpec, Recipe, SegmentSpec
from sightline.train.loop import train
from sightline.types import Group

FREE = {"sft", "reward_model"}


def recipe(tiny: Path, folder: Path, change: Callable[[int, Group], Group], **options: Any) -> Recipe:
    reference = "none" if options["algorithm"]["name"] in FREE else "copy"
    made = train_runs.recipe(tiny, folder, **({"responses": 2, "max_steps": 2, "reference": reference} | options))
    path = made.data.train[0].path
    write_groups(Path(path), [change(index, group) for index, group in enumerate(read_groups(path))])
    return made


def as_it_is(index: int, group: Group) -> Group:
    return group


def third_without_edges(index: int, group: Group) -> Group:
    return replace(group, edges=()) if index == 2 else group


def weighted(index: int, group: Group) -> Group:
    return replace(group, edges=tuple(replace(edge, weight=2.0) for edge in group.edges))


def fourth_without_reward(index: int, group: Group) -> Group:
    return replace(group, responses=tuple(replace(r, reward=None) for r in group.responses)) if index == 3 else group


@pytest.mark.parametrize(
    ("algorithm", "change", "kind", "words"),
    [
        ({"name": "dpo", "per": "group"}, third_without_edges, DataError, "2.jsonl, row 3 .*: there is no comparison"),
        ({"name": "dpo_listwise"}, third_without_edges, DataError, "2.jsonl, row 3 .*: there is no comparison"),
        (
            {"name": "reward_model", "objective": "plackett_luce"},
            third_without_edges,
            DataError,
            "2.jsonl, row 3 .*: there is no comparison",
        ),
        ({"name": "reward_model", "objective": "regression"}, weighted, RecipeError, "regression was given compari"),
        ({"name": "sft", "responses": "chosen"}, weighted, RecipeError, "sft was given comparisons with weights"),
        (
            {"name": "reward_model", "margin": 1.0},
            fourth_without_reward,
            DataError,
            "2.jsonl, row 4 .*: the algorithm needs rewards",
        ),
        ({"name": "kto"}, as_it_is, DataError, "needs labels.*relation: mismatched gives labels"),
    ],
)
def test_rows(
    tiny: dict[str, Path], tmp_path: Path, algorithm: dict, change: Any, kind: type[SightlineError], words: str
) -> None:
    made = recipe(tiny["llava"], tmp_path, change, algorithm=algorithm)
    with pytest.raises(kind, match=words):
        train(made, quiet=True)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_held_out_rows(tiny: dict[str, Path], tmp_path: Path) -> None:
    made = recipe(tiny["llava"], tmp_path, as_it_is, algorithm={"name": "dpo"})
    groups = list(read_groups(made.data.train[0].path))
    write_groups(tmp_path / "held_out.jsonl", [third_without_edges(i, group) for i, group in enumerate(groups)])
    held_out = (DataSpec(path=str(tmp_path / "held_out.jsonl")),)
    with pytest.raises(DataError, match=r"held_out.jsonl, row 3 .*: there is no comparison"):
        train(replace(made, data=replace(made.data, eval=held_out)), quiet=True)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()  # before the first step


def test_segments_of_answers_that_nothing_is_compared_with(tiny: dict[str, Path], tmp_path: Path) -> None:
    made = recipe(tiny["llava"], tmp_path, as_it_is, algorithm={"name": "sft"}, responses=1)
    with pytest.raises(DataError, match=r"1.jsonl:\d: there is no comparison of answers that data.segments could"):
        train(replace(made, data=replace(made.data, segments=SegmentSpec())), quiet=True)


def test_a_reward_model_samples_nothing(tiny: dict[str, Path], tmp_path: Path) -> None:
    made = train_runs.online(
        tiny["llava"], tmp_path, "train_runs:CountsE", algorithm={"name": "reward_model"}, reference="none"
    )
    with pytest.raises(RecipeError, match="online trains the policy that samples, and reward_model trains none"):
        train(made, quiet=True)


def test_kto_online(tiny: dict[str, Path], tmp_path: Path) -> None:
    made = train_runs.online(tiny["llava"], tmp_path, "train_runs:CountsE", algorithm={"name": "kto"})
    with pytest.raises(RecipeError, match="kto learns from labelled answers"):
        train(made, quiet=True)


def test_online_without_comparisons(tiny: dict[str, Path], tmp_path: Path) -> None:
    made = train_runs.online(tiny["llava"], tmp_path, "train_runs:CountsE", algorithm={"name": "dpo", "per": "group"})
    with pytest.raises(RecipeError, match="relation: none makes no comparisons, and dpo learns from nothing else"):
        train(replace(made, online=replace(made.online, relation="none")), quiet=True)


@pytest.mark.parametrize("name", BUILT_IN)
def test_who_learns_from_comparisons_alone_says_so(name: str) -> None:
    assert build_algorithm({"name": name}).compares == (name not in {"sft", "ppo", *PRESETS})


def test_who_may_learn_from_single_answers_says_so() -> None:
    assert build_algorithm({"name": "sft", "responses": "chosen"}).compares
    assert not build_algorithm({"name": "reward_model", "objective": "regression"}).compares


def test_prompts_of_an_online_run_are_bad_rows_like_others(tiny: dict[str, Path], tmp_path: Path) -> None:
    """Found before the first step, with their row; the data section says what to do about them."""
    made = train_runs.online(tiny["llava"], tmp_path, "train_runs:CountsE", max_steps=1)
    assert made.online is not None
    path = Path(made.online.prompts.path)
    groups = list(read_groups(path))
    holds = {"role": "user", "content": [{"type": "text", "text": "what is <pad><image>?"}]}
    long = {"role": "user", "content": [{"type": "text", "text": "why? " * 100}]}
    for index, message in ((1, holds), (2, long)):
        prompt = replace(groups[index].prompts[0], messages=(message,), images=())
        groups[index] = replace(groups[index], prompts=(prompt,))
    write_groups(path, groups)

    limited = replace(made, data=DatasetSpec(max_length=128))
    with pytest.raises(DataError, match=rf"{path.name}, row 2 .*contains <image>"):
        train(limited, quiet=True)
    train(replace(made, data=DatasetSpec(max_length=128, on_bad_row="skip")), quiet=True)
    bad = [json.loads(line) for line in (tmp_path / "run" / "bad_rows.jsonl").read_text().splitlines()]
    assert [(row["row"], row["reason"]) for row in bad] == [(2, "placeholders"), (3, "too long")]


def test_labelled_rows_without_a_relation_are_told_which_they_need(tiny, tmp_path):
    rows = tmp_path / "labelled.jsonl"
    rows.write_text(json.dumps({"prompt": "What is it?", "completion": "a cat", "label": True}) + "\n")
    run = train_runs.recipe(
        tiny["llava"],
        tmp_path,
        algorithm={"name": "kto"},
        reference="copy",
        data=DatasetSpec(train=(DataSpec(path=str(rows)),)),
    )
    with pytest.raises(
        DataError, match=r"kto learns from nothing else\. Set relation: mismatched on this source"
    ) as told:
        train(run, quiet=True)
    assert "sft" not in str(told.value) and "pairs" not in str(told.value)
