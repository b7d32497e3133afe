"""A loop that finds no pair any more ends well; a first round without one is an error. OViP's rounds can move."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from small_loops import RECIPE, Told, held, loop_of, world_of

from sightline.data.picture import read_picture
from sightline.data.schema import read_groups, write_groups
from sightline.errors import DataError, NothingToLearn
from sightline.files import read_settings
from sightline.loops.run import run_loop

METHOD = json.dumps({**RECIPE["method"], "reward": "small_loops:Told", "failed_rewards": "drop"})
OVIP = (
    "{name: ovip, reward: small_loops:Told, sampling: {n: 3, max_new_tokens: 4}, negatives: {kind: scenes}, "
    "selection: {good: -99, small: 99, small_gap: 0, bad: -100, fallback: none}, stages: {}, max_staleness: 1}"
)
WHY = {
    METHOD: "all rewards of each prompt are equal, or too near each other",
    OVIP: "no two answers to a prompt are as far apart as the selection asks",
}


@pytest.fixture
def told(monkeypatch):
    """Tells the reward what to do."""
    return lambda how: monkeypatch.setattr(Told, "how", how)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return world_of(tmp_path_factory.mktemp("world"), prompts=3)


@pytest.mark.parametrize("method", [METHOD, OVIP], ids=["self_rewarding", "ovip"])
def test_a_later_round_without_a_pair_ends_the_loop_and_a_first_one_is_an_error(world, tmp_path, told, run, method):
    def went(rounds):
        fixed = (f"method={method}", "train.max_steps=1", "exam=null")
        return run_loop(loop_of(world, tmp_path / "loop", *fixed, f"rounds={rounds}"), quiet=True)

    told("even")
    with pytest.raises(NothingToLearn, match=r"\(.*(all rewards|no two answers).*\).* more answers|online.sampling.n"):
        went(3)
    told("rank")
    shutil.rmtree(tmp_path / "loop")
    went(1)
    told("even")
    found = went(3)
    assert found.ended == f"converged: round 2 found no pair ({WHY[method]})" and found.best == 1
    assert found.model == tmp_path / "loop/round-1/model" and not (tmp_path / "loop/round-2/model").exists()
    assert not (tmp_path / "loop/round-2/train/checkpoints").exists()
    assert f"1 of 3 rounds are done. Ended: {found.ended}." in (tmp_path / "loop/report.html").read_text()
    code, out, _ = run("loop", tmp_path / "loop", "--status")
    assert code == 0 and f"ended: {found.ended}" in out and "no pair" in out.replace(found.ended, "")
    before = held(tmp_path / "loop")
    assert went(3) == replace(found, stages=0) and held(tmp_path / "loop") == before


def test_answers_that_were_not_judged_are_no_convergence(world, tmp_path, told):
    def went(rounds):
        fixed = (f"method={METHOD}", "train.max_steps=1", "exam.kl_prompts=0", f"rounds={rounds}")
        return run_loop(loop_of(world, tmp_path / "loop", *fixed), quiet=True)

    scored = tmp_path / "loop/round-2/scored.jsonl"
    first = went(1)
    told("fail")
    with pytest.raises(DataError, match=r"no pair .* 6 of 9 answers have no reward \(first: the judge is away\)"):
        went(2)
    scored.unlink()
    told("even")
    ended = went(2)
    assert ended.ended.startswith("converged: round 2 ") and (ended.best, ended.value) == (first.best, first.value)
    scored.unlink()
    told("rank")
    assert went(2).ended == "all rounds are done" and list(read_groups(scored.with_name("pairs.jsonl")))


def test_a_round_of_ovip_that_stopped_moves_with_the_pictures_of_its_loop(world, tmp_path, monkeypatch):
    """What waits in the checkpoint, and every file, names pictures below the loop by where it lies."""
    groups = list(read_groups(world / "prompts.jsonl"))

    def loop(folder):
        own = tmp_path / folder / "loop/own"
        if not own.exists():
            shutil.copytree(world / "images", own)
            shown = [(str(own / Path(group.prompts[0].images[0]).name),) for group in groups]
            asked = [replace(g, prompts=(replace(g.prompts[0], images=s),)) for g, s in zip(groups, shown, strict=True)]
            write_groups(own / "asked.jsonl", asked)
        fixed = (f"prompts={{path: {own / 'asked.jsonl'}}}", f"method={OVIP}", "exam=null", "rounds=1")
        return loop_of(world, tmp_path / folder / "loop", *fixed, "prompts_per_round=3")

    run_loop(loop("whole"), quiet=True)
    monkeypatch.setattr(Told, "stops", tmp_path / "here/loop/round-1/train/checkpoints")
    with pytest.raises(DataError, match="the reward is away"):
        run_loop(loop("here"), quiet=True)
    shutil.move(tmp_path / "here", tmp_path / "there")
    run_loop(loop("there"), quiet=True)
    whole, moved = (held(tmp_path / name / "loop") for name in ("whole", "there"))
    moved = {n: data.replace(str(tmp_path / "here/loop").encode(), b"LOOP") for n, data in moved.items()}
    assert not {name for name in whole if whole[name] != moved.get(name)}
    for file in (tmp_path / "there/loop/round-1/train").glob("*.jsonl"):
        kept = [] if file.name == "metrics.jsonl" else list(read_groups(file))
        assert all(read_picture(path) for group in kept for prompt in group.prompts for path in prompt.images)
    assert read_settings(tmp_path / "there/loop/state.json")["stages"]["round-1/train"]["starts"] == 2
