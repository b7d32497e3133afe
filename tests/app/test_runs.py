"""Runs: how far they are, stopped as Ctrl-C does, resumed as the command does."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from sightline.app.folders import Folders
from sightline.app.runs import Runs, look_words, read_records, run_html, stamp
from sightline.data.schema import write_groups
from sightline.errors import CheckpointError, DataError
from sightline.recipes.load import load_recipe
from sightline.scenes.world import Scenes
from sightline.train.loop import train
from sightline.train.process import note_process, started_in, working_on
from sightline.train.run_folder import RunDirectory

STEPS = 4


@pytest.fixture(scope="module")
def stopped(tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a run was stopped by Ctrl-C after two of four steps; what an unbroken one logs is beside it."""
    folder = tmp_path_factory.mktemp("runs")
    write_groups(folder / "rows.jsonl", Scenes().groups("train", 8, folder / "images", kinds=("caption",)))
    recipe = {
        "name": "sft",
        "output_dir": "runs/sft",
        "model": {"path": str(tiny["llava"]), "parts": {"language": "full", "projector": "frozen"}},
        "data": {"train": [{"path": "rows.jsonl"}]},
        "algorithm": {"name": "sft"},
        "train": {"max_steps": STEPS, "batch_size": 2, "learning_rate": 1e-3, "log_every": 1, "save_every": 1},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    here = Path.cwd()
    os.chdir(folder)
    try:
        whole = train(load_recipe("recipe.yaml", ["output_dir=runs/whole"]), quiet=True)
        assert whole.steps == STEPS

        def stop(record: object) -> None:
            if json.loads(json.dumps(record))["step"] == 3:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(load_recipe("recipe.yaml"), quiet=True, on_log=stop)
    finally:
        os.chdir(here)
    return folder


def ended(process: subprocess.Popen[bytes]) -> None:
    """Waits without collecting the end of the process, which the app does."""
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)


def test_a_stopped_run_goes_on_with_the_numbers_of_an_unbroken_one(
    stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    monkeypatch.chdir(stopped)
    runs, run = Runs(folders=Folders.of([stopped])), stopped / "runs/sft"
    assert started_in(RunDirectory(path=run)) == stopped
    assert working_on(RunDirectory(path=run)) is None, "this process goes on, and works on it no more"
    before = runs.standing(run)
    assert (before.state, before.step, before.checkpoint) == ("stopped", 3, 2)
    assert "Resumed as process" in runs.resume(run)
    with pytest.raises(DataError, match="is running as process"):
        runs.resume(run)
    assert runs.standing(run).state == "running"
    ended(runs._started[run])
    assert runs.standing(run).state == "finished", (run / "resumed.log").read_text()
    losses = [
        {record["step"]: record["loss"] for record in read_records(stopped / f"runs/{name}/metrics.jsonl")}
        for name in ("sft", "whole")
    ]
    assert losses[0] == losses[1] and len(losses[0]) == STEPS
    assert "4 steps done" in (run / "resumed.log").read_text()
    with pytest.raises(DataError, match="is finished after 4 steps"):
        runs.resume(run)


def worked_on(run: Path, process: subprocess.Popen[bytes]) -> None:
    run.mkdir(exist_ok=True)
    pid = os.getpid
    os.getpid = lambda: process.pid  # type: ignore[assignment]
    try:
        note_process(RunDirectory(path=run))
    finally:
        os.getpid = pid


def test_a_run_that_a_process_trains_is_not_trained_by_another(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(stopped)
    run = stopped / "runs/other"
    with subprocess.Popen(["sleep", "600"]) as process:
        worked_on(run, process)
        with pytest.raises(CheckpointError, match=rf"is in use: process {process.pid} trains there"):
            train(load_recipe("recipe.yaml", [f"output_dir={run}"]), quiet=True)
        process.kill()
    assert working_on(RunDirectory(path=run)) is None


def test_stop_is_ctrl_c_and_asked_again_it_is_kill(tmp_path: Path) -> None:
    runs, run = Runs(folders=Folders.of([tmp_path])), tmp_path / "run"
    program = "trap '' INT; echo deaf; while :; do sleep 0.05; done"
    with subprocess.Popen(["sh", "-c", program], stdout=subprocess.PIPE) as deaf:
        assert deaf.stdout is not None and deaf.stdout.readline() == b"deaf\n"
        worked_on(run, deaf)
        assert runs.standing(run).state == "running"
        assert "asked to stop" in runs.stop(run)
        time.sleep(0.2)
        assert deaf.poll() is None and "told to end at once" in runs.stop(run)
        assert deaf.wait(10) == -signal.SIGTERM
    # programs in the background of a script, and what they start, ignore Ctrl-C unless they ask for it
    program = (
        "import signal, time; signal.signal(signal.SIGINT, signal.SIG_DFL); print('hears', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as hears:
        assert hears.stdout is not None and hears.stdout.readline() == b"hears\n"
        worked_on(run, hears)
        runs.stop(run)
        assert hears.wait(10) == -signal.SIGINT
    with pytest.raises(DataError, match="no process of this machine works on it"):
        runs.stop(run)


def test_a_number_that_another_process_got_is_not_the_run(tmp_path: Path) -> None:
    run = RunDirectory(path=tmp_path)
    assert working_on(run) is None and started_in(run) is None
    note_process(run)
    assert working_on(run) == os.getpid() and started_in(run) == Path.cwd()
    told = json.loads(run.process.read_text())
    for changed in ({"started": "1"}, {"host": "elsewhere"}, {"pid": 2**22 - 1}, {"pid": "x"}):
        run.process.write_text(json.dumps(told | changed))
        assert working_on(run) is None
    run.process.write_text("[]")
    assert working_on(run) is None and started_in(run) is None


def test_runs_that_were_moved_or_took_several_processes_are_not_resumed(stopped: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("recipe.yaml", "metrics.jsonl", "process.json", "environment.json"):
        (moved / name).write_bytes((stopped / "runs/whole" / name).read_bytes())
    runs = Runs(folders=Folders.of([tmp_path]))
    with pytest.raises(CheckpointError, match="as another folder"):
        runs.resume(moved)
    facts = json.loads((moved / "environment.json").read_text())
    (moved / "environment.json").write_text(json.dumps(facts | {"processes": 2}))
    with pytest.raises(CheckpointError, match="2 processes worked on it"):
        runs.resume(moved)
    with pytest.raises(DataError, match="outside of the folders"):
        runs.resume(stopped / "runs/whole")


def test_a_run_is_shown_with_what_there_is(tmp_path: Path, pictures: list[str]) -> None:
    runs, run = Runs(folders=Folders.of([tmp_path])), tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text("name: x\n")
    assert "Nothing was logged yet" in run_html(run, runs.standing(run), runs.folders)
    first = stamp(run)
    figures = {"looking/margin": 0.5, "looking/other": 0.3, "looking/other/low": 0.1, "looking/other/high": 0.4}
    lines = [{"step": step, "loss": 1 / step, "learning_rate": 0.1, **figures} for step in (1, 2, 3)]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 4, "lo'
    (run / "metrics.jsonl").write_text(text)
    groups = [*Scenes().groups("train", 9, run / "images", kinds=("caption",))]
    write_groups(run / "samples.jsonl", groups)
    assert stamp(run) != first and len(read_records(run / "metrics.jsonl")) == 3
    html = run_html(run, runs.standing(run), runs.folders)
    assert html.count('<svg class="chart"') == 1 and "Loss" in html, "what never changed is no curve"
    assert "another picture takes +0.3 away [+0.1, +0.4]: it looks" in html
    assert html.count("data:image/png") == 6 and groups[-1].responses[0].text in html, "the last ones"
    assert html.index(groups[-1].responses[0].text) < html.index(groups[-2].responses[0].text)
    hidden = run_html(run, runs.standing(run), Folders.of([tmp_path / "run/images"]))
    assert "data:image/png" in hidden and Folders.of([tmp_path]).holds(run)


def test_a_run_that_is_damaged_or_gone_is_told(tmp_path: Path) -> None:
    runs, run = Runs(folders=Folders.of([tmp_path])), tmp_path / "run"
    run.mkdir()
    lines = ['{"step": 1, "loss": 1.0}', '{"step": "two", "loss": 1}', "[]", '{"step": 3, "loss": NaN}']
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    (run / "samples.jsonl").write_text('{"a": 1}\n')
    html = run_html(run, runs.standing(run), runs.folders)
    assert "no Group but a row with a" in html and "Loss in 1 of 2 records, first at step 3" in html
    shutil.rmtree(run)
    for asked in (runs.standing, runs.resume):
        with pytest.raises(DataError, match="is not there any more"):
            asked(run)


def test_the_look_meter_in_words() -> None:
    record = {
        "step": 9,
        "looking/margin": 1.0,
        "looking/blank": 0.0,
        "looking/blank/low": -0.1,
        "looking/blank/high": 0.1,
    }
    assert look_words({"step": 1}) is None
    assert str(look_words(record)).endswith("a white picture takes +0 away [−0.1, +0.1]: not certain yet.")
    assert str(look_words(record | {"looking/blind": 1.0})).endswith("the preference does not depend on the picture.")
