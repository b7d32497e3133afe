"""Runs on stored rows, on weighted sources, and with a part of their rows held out."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import train_runs

from sightline.data.sampler import Sampler, SourceShare
from sightline.data.stored import StoredGroups
from sightline.errors import RecipeError
from sightline.recipes.load import load_recipe
from sightline.recipes.schema import DatasetSpec, DataSpec, LookingSpec, NegativeSpec, ReadsSpec, Recipe, VisualSpec
from sightline.train.loop import fit, train, train_step
from sightline.train.metrics import read_metrics
from sightline.train.session import Session, open_session

STORED = ("sft", "dpo", "cache", "visual", "reward model", "mixture", "validation", "online")


def of(kind: str, model: Path, folder: Path, cache: str | None) -> Recipe:
    """A run with rows in a store, or in memory."""
    rows = folder / "data" / "9-2.jsonl"
    source: dict[str, Any] = {"path": str(rows)}
    own: dict[str, Any] = {}
    if kind == "online":
        recipe = train_runs.online(model, folder, "train_runs:CountsE", max_steps=2)
        return replace(recipe, data=DatasetSpec(cache_dir=cache))
    if kind == "visual":
        source["visual"] = VisualSpec(relation="mdpo", negative=NegativeSpec(kind="other"))
        own["on_bad_row"] = "skip"  # rows without a picture
    if kind == "reward model":
        own["reads"] = ReadsSpec(criteria="default")
    sources = [DataSpec(**source)]
    if kind == "mixture":
        sources = [replace(sources[0], weight=0.5), DataSpec(path=str(folder / "data" / "4-2.jsonl"), weight=2.0)]
        train_runs.data(folder / "data", 4, 2)
    if kind == "validation":
        own["validation"] = 0.4
    options: dict[str, Any] = {"max_steps": 4, "save_every": 2, "eval_every": 2}
    if kind in ("sft", "reward model"):
        options |= {"algorithm": {"name": "reward_model"}, "reference": "none"}
    if kind == "sft":
        options["algorithm"] = {"name": "sft", "responses": "chosen"}
    if kind not in ("dpo", "visual", "reward model"):
        options["looking"] = LookingSpec(every=0)
    if kind == "cache":
        options["reference"] = "cache"
    data = DatasetSpec(train=tuple(sources), cache_dir=cache, **own)
    return train_runs.recipe(model, folder, size=9, responses=2, data=data, **options)


def told(run: Path) -> list[dict[str, float]]:
    records = read_metrics(run / "metrics.jsonl")
    return [{name: value for name, value in one.items() if not train_runs.is_timed(name)} for one in records]


@pytest.mark.parametrize("kind", STORED)
def test_a_run_on_a_store_is_the_run_in_memory_and_each_goes_on_with_the_other(
    tiny: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    plain = of(kind, tiny["llava"], tmp_path / "plain", None)
    train(plain, quiet=True)
    expected = told(tmp_path / "plain/run")
    stored = of(kind, tiny["llava"], tmp_path / "stored", str(tmp_path / "cache"))
    with open_session(stored) as session:
        kinds = {type(session.source._groups)} if kind != "online" else {type(session.source.prompts)}
        assert kinds == {StoredGroups}
        stop(session)
    memory = replace(stored, data=replace(stored.data, cache_dir=None)) if stored.data else stored
    assert train(memory, quiet=True).resumed_from == (2 if kind != "online" else 0)
    assert len(told(tmp_path / "stored/run")) == len(expected)
    for one, other in zip(told(tmp_path / "stored/run"), expected, strict=True):
        assert one == pytest.approx(other, rel=1e-6), kind
    assert train(stored, quiet=True).resumed_from == stored.train.max_steps


def stop(session: Session) -> None:
    """Ends a run behind the checkpoint of its second step."""

    class Stopped(BaseException):
        pass

    save = session.save

    def saved() -> None:
        save()
        raise Stopped

    if session.recipe.online is not None:
        return
    session.save = saved  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        fit(session, quiet=True)


def test_a_mixture_takes_of_each_source_what_its_weight_says(tiny: dict[str, Path], tmp_path: Path) -> None:
    recipe = of("mixture", tiny["llava"], tmp_path, None)
    with open_session(recipe) as session:
        seen: Counter[str] = Counter()
        for _ in range(session.source.steps(2)):
            seen.update(Path(group.source).name for group in session.source._wanted(session.step))
            train_step(session)
        counts = session.source.drawn(session.step)
    # 9 x 0.5 and 4 x 2 an epoch
    assert counts == {"0-9-2.jsonl": 8, "1-4-2.jsonl": 16}
    assert sum(count for name, count in seen.items() if name.startswith("4-2")) == 16
    facts = json.loads((tmp_path / "run/environment.json").read_text())
    assert facts["rows"]["mixture"] == "0-9-2.jsonl: 4 of 9 groups an epoch; 1-4-2.jsonl: 8 of 4 groups an epoch"
    train(replace(recipe, output_dir=str(tmp_path / "logged")), quiet=True)
    last = read_metrics(tmp_path / "logged/metrics.jsonl")[-1]
    assert last["groups/0-9-2.jsonl"] + last["groups/1-4-2.jsonl"] == 12


def test_no_group_comes_again_before_all_of_its_source_have_come() -> None:
    mixture = (SourceShare(name="a", size=7, weight=0.4), SourceShare(name="b", size=3, weight=1.5))
    sampler = Sampler(size=10, batch_size=4, seed=5, mixture=mixture)
    assert (sampler.taken, sampler.steps_per_epoch) == (3 + 4, 2)
    order = [index for step in range(14) for index in sampler.indices(step)]
    first, second = ([index for index in order if (index < 7) is side] for side in (True, False))
    assert len(first) == 21 and len(second) == 28
    assert set(Counter(first).values()) == {3}
    assert sampler.drawn(14) == {"a": 21, "b": 28}
    for steps in range(14):
        some = [index for step in range(steps) for index in sampler.indices(step)]
        assert sampler.drawn(steps) == {"a": sum(i < 7 for i in some), "b": sum(i >= 7 for i in some)}


def test_weights_of_one_change_no_order() -> None:
    mixture = (SourceShare(name="a", size=7), SourceShare(name="b", size=3))
    for shuffle in (True, False):
        plain = Sampler(size=10, batch_size=4, seed=5, shuffle=shuffle)
        assert [plain.indices(s) for s in range(6)] == [replace(plain, mixture=mixture).indices(s) for s in range(6)]


def test_rows_that_are_held_out_share_no_picture_with_those_that_are_trained(
    tiny: dict[str, Path], tmp_path: Path
) -> None:
    recipe = of("validation", tiny["llava"], tmp_path, None)
    with open_session(recipe) as session:
        trained, held = (
            {path for group in groups for path in group.prompts[0].images}
            for groups in (session.source._groups, session.held_out)
        )
        assert trained and held and not trained & held
        assert len(session.source._groups) + len(session.held_out) == 9
        assert session.source.steps(1) == -(-len(session.source._groups) // 3)
    train(recipe, quiet=True)
    assert "eval/loss" in read_metrics(tmp_path / "run/metrics.jsonl")[-1]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.eval.0.path=a", "data.eval.0.weight=2"], "an evaluation takes every row once"),
        (["data.validation=0.1", "data.eval.0.path=a"], "found validation: 0.1 and data.eval, expected one"),
        (["data.validation=1"], "data.validation: found 1"),
        (["data.train.0.weight=0"], "data.train.0.weight: found 0"),
        (
            ["data.validation=0.1", "data.train.0.visual={relation: mdpo, negative: {kind: other}}"],
            "pictures of other rows",
        ),
    ],
)
def test_what_would_be_silently_wrong_is_refused(tmp_path: Path, overrides: list[str], message: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "name: a\noutput_dir: b\nmodel: {path: c}\nalgorithm: {name: dpo}\ndata: {train: [{path: rows.jsonl}]}\n"
    )
    with pytest.raises(RecipeError, match=message):
        load_recipe(path, overrides)
