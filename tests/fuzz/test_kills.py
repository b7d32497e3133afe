"""Work that SIGKILL ends at chosen changes of the disk and at chosen times, run again, ends as if it had not died."""

import hashlib
import random
import shutil
import time
from dataclasses import replace

import pytest
from killing import TIMES, killed
from train_runs import losses, recipe

import sightline.demo.demo as demo
import sightline.demo.league as league
from sightline.data.schema import read_groups
from sightline.errors import CheckpointError
from sightline.models.assemble import TinyLlava
from sightline.recipes.evaluation import EvaluationSpec
from sightline.train.loop import train
from sightline.train.run_folder import model_step, open_run

OPTIONS = {"size": 4, "batch_size": 2, "max_steps": 2, "schedule": "constant", "warmup": 0, "save_every": 1}
SMALL = demo.DemoSize(
    scenes=8, prompts=4, presence=1, held_out=4, overrides=("train.max_steps=1", "train.batch_size=2")
)
SMALL_LEAGUE = league.LeagueSize(
    steps=1, groups=2, prompts=4, presence=1, samples=4, held_out=4, questions=1, sft_steps=1
)


def points(changes, number, seed):
    """Some of the places where work that makes so many changes can die, the same in every run of the suite."""
    every = range(1, changes + 1)
    return sorted(random.Random(seed).sample(every, min(number * TIMES, changes)))


def weights(folder):
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory):
    """A recipe of four steps, and the folders of it after two of them and after four."""
    root = tmp_path_factory.mktemp("runs")
    whole = recipe(tiny["llava"], root, **OPTIONS, evaluation=EvaluationSpec(), output_dir=str(root / "short"))
    longer = replace(whole, train=replace(whole.train, max_steps=4))
    assert killed(lambda: train(whole, quiet=True), root / "short")
    shutil.copytree(root / "short", root / "long")
    began = time.monotonic()
    changes = killed(lambda: train(replace(longer, output_dir=str(root / "long")), quiet=True), root / "long/model") - 1
    seconds = time.monotonic() - began
    assert weights(root / "short/model") != weights(root / "long/model")
    assert (model_step(root / "short/model"), model_step(root / "long/model")) == (2, 4)
    return longer, root, changes, seconds


def extend_after(runs, tmp_path, *, below="model", **when):
    """Extends a run of two steps to four, is killed, and extends it again."""
    longer, root, _, _ = runs
    run = tmp_path / "run"
    shutil.copytree(root / "short", run)
    again = replace(longer, output_dir=str(run))
    finished = killed(lambda: train(again, quiet=True), run / below, **when)
    assert not (finished and "at" in when), "there are as many changes"
    if (run / "model").exists():
        assert weights(run / "model") in (weights(root / "short/model"), weights(root / "long/model"))
        assert names(run / "model") == names(root / "long/model")
    assert killed(lambda: train(again, quiet=True), run)
    assert weights(run / "model") == weights(root / "long/model") and model_step(run / "model") == 4
    assert losses(run) == losses(root / "long")
    assert names(run) == names(root / "long"), when
    shutil.rmtree(run)


def test_an_extended_run_that_dies_while_it_saves_the_model(runs, tmp_path):
    for at in points(runs[2], 5, seed=0):
        extend_after(runs, tmp_path, at=at)


def test_an_extended_run_that_dies_anywhere(runs, tmp_path):
    for number in range(TIMES):
        extend_after(runs, tmp_path, below="", at=random.Random(f"change {number}").randint(1, 140))
        extend_after(runs, tmp_path, after=random.Random(f"time {number}").uniform(0, runs[3]))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda model: (model / "model.safetensors").write_bytes(b"half"), "missing or damaged"),
        (lambda model: (model / "processor_config.json").unlink(), "missing or damaged"),
        (lambda model: (model / "trained.json").write_text('{"step'), "missing or damaged"),
        (lambda model: shutil.rmtree(model), "missing or damaged"),
        (lambda model: shutil.copytree(model.parents[1] / "short/model", model, dirs_exist_ok=True), "that of step 2"),
    ],
)
def test_a_model_that_is_not_that_of_the_last_step_is_written_again(runs, tmp_path, caplog, spoil, told):
    longer, root, _, _ = runs
    shutil.copytree(root / "long", tmp_path / "run")
    shutil.copytree(root / "short", tmp_path / "short")
    spoil(tmp_path / "run/model")
    result = train(replace(longer, output_dir=str(tmp_path / "run")), quiet=True)
    assert result.steps == result.resumed_from == 4
    assert weights(tmp_path / "run/model") == weights(root / "long/model")
    assert f"{told}: it is written again from the checkpoint of step 4" in caplog.text


def test_a_whole_model_is_left_alone(runs, tmp_path):
    longer, root, _, _ = runs
    shutil.copytree(root / "long", tmp_path / "run")
    (tmp_path / "run/model/chat_template.jinja").write_text("edited by hand")
    train(replace(longer, output_dir=str(tmp_path / "run")), quiet=True)
    assert (tmp_path / "run/model/chat_template.jinja").read_text() == "edited by hand"


def test_a_run_that_dies_at_its_very_start_leaves_nothing_aside(runs, tmp_path):
    run = replace(runs[0], output_dir=str(tmp_path / "run"))
    assert not killed(lambda: train(run, quiet=True), tmp_path / "run/environment.json", at=2)
    assert not (tmp_path / "run/recipe.yaml").exists() and list((tmp_path / "run").glob("*.tmp"))
    assert open_run(run, resume=None, overwrite=False) is None
    assert not list((tmp_path / "run").glob("*.tmp"))


def test_a_run_that_dies_while_it_takes_the_place_of_another(runs, tmp_path):
    """What is left is never taken for the beginning of the new run."""
    longer, root, _, _ = runs
    other = replace(longer, output_dir=str(tmp_path / "run"), train=replace(longer.train, learning_rate=2e-2))
    killed(lambda: train(other, quiet=True), tmp_path / "run")
    expected = losses(tmp_path / "run")
    for at in points(120, 2, seed=1):
        shutil.rmtree(tmp_path / "run")
        shutil.copytree(root / "long", tmp_path / "run")
        assert not killed(lambda: train(other, quiet=True, overwrite=True), tmp_path / "run", at=at)
        try:
            train(other, quiet=True)
        except CheckpointError as error:
            assert "other settings (train.learning_rate: 0.01 there, 0.02 here)" in str(error)
            killed(lambda: train(other, quiet=True, overwrite=True), tmp_path / "run")
        assert losses(tmp_path / "run") == expected


def test_a_model_from_nothing_is_there_as_a_whole(tmp_path):
    words, at = ["red", "circle"], 1
    whole = TinyLlava().build(tmp_path / "whole", words, seed=0)
    while not killed(lambda: TinyLlava().build(tmp_path / "base", words, seed=0), tmp_path / "base", at=at):
        assert not (tmp_path / "base").exists() or names(tmp_path / "base") == names(whole)
        at += 5 if TIMES == 1 else 1
    assert names(tmp_path / "base") == names(whole) and weights(tmp_path / "base") == weights(whole)


def test_a_demo_that_dies_ends_as_if_it_had_not(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "QUICK", SMALL)
    changes = killed(lambda: demo.run_stages(seed=0, out=tmp_path / "whole", quick=True), tmp_path / "whole") - 1
    for at in points(changes, 1, seed=2):
        out = tmp_path / str(at)
        assert not killed(lambda out=out: demo.run_stages(seed=0, out=out, quick=True), out, at=at)
        assert killed(lambda out=out: demo.run_stages(seed=0, out=out, quick=True), out)
        same_answers(tmp_path / "whole", out, "before/answers.jsonl", "after/answers.jsonl")


def test_a_comparison_that_dies_ends_as_if_it_had_not(tmp_path):
    def compare(out):
        return lambda: league.run_league(seeds=(0,), methods=("dpo",), out=out, size=SMALL_LEAGUE)

    changes = killed(compare(tmp_path / "whole"), tmp_path / "whole") - 1
    for at in points(changes, 1, seed=3):
        out = tmp_path / str(at)
        assert not killed(compare(out), out, at=at)
        assert killed(compare(out), out)
        same_answers(
            tmp_path / "whole/seed-0", out / "seed-0", "answers/base/answers.jsonl", "answers/dpo/answers.jsonl"
        )


def same_answers(whole, out, *files):
    for file in files:
        said = [
            [(group.id, [r.text for r in group.responses]) for group in read_groups(f / file)] for f in (whole, out)
        ]
        assert said[0] == said[1]
