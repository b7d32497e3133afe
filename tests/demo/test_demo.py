"""The demo on two processes: all of it, once, in little; and how it ends when something breaks."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sightline.data.schema import read_groups
from sightline.demo import launch, run_demo
from sightline.demo.demo import QUICK, _span
from sightline.errors import CheckpointError, SightlineError
from sightline.train.metrics import read_metrics


class Rank:
    def __init__(self, rank, size):
        self.rank, self.size = rank, size


@pytest.mark.parametrize(("number", "size"), [(7, 1), (7, 2), (8, 2), (1, 2), (10, 3)])
def test_every_scene_is_drawn_by_one_process(number, size):
    spans = [_span(number, Rank(rank, size), start=5) for rank in range(size)]
    assert [index for span in spans for index in span] == list(range(5, 5 + number))


def test_the_processes_are_as_many_on_every_machine_and_take_no_gpu(monkeypatch):
    found = []
    for cores in (1, 2, 64):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        monkeypatch.setenv("WORLD_SIZE", "16")  # of a job that the demo is started in
        found.append([{**one, "MASTER_PORT": ""} for one in launch._variables()])
    assert found[0] == found[1] == found[2]
    ranks = [(one["RANK"], one["WORLD_SIZE"], one["OMP_NUM_THREADS"], one["CUDA_VISIBLE_DEVICES"]) for one in found[0]]
    assert ranks == [("0", "2", "1", ""), ("1", "2", "1", "")]


@pytest.mark.processes
def test_the_whole_demo_in_little(tmp_path, capfd):
    results = run_demo(seed=3, out=tmp_path / "demo", quick=True)
    out, err = capfd.readouterr()
    assert "Hal" in out and "Report: " in out and out.count("Cover") == 1  # the second process says nothing
    assert "SFT: step 20/20, loss " in err and "DPO: step 20/20, loss " in err and err.count("exam after") == 1
    assert "Warning" not in err  # of a library, about what a user cannot change
    lessons = list(read_groups(tmp_path / "demo/data/train.jsonl"))
    assert [group.source for group in lessons] == [f"scenes:train-{index:06d}" for index in range(QUICK.scenes)]
    assert all(Path(group.prompts[0].images[0]).is_file() for group in lessons)
    answers = [list(read_groups(tmp_path / f"demo/{side}/answers.jsonl")) for side in ("before", "after")]
    ids = [[group.id for group in side] for side in answers]
    assert ids[0] == ids[1] and len(set(ids[0])) == len(ids[0]) >= 2 * QUICK.held_out
    assert all(len(group.responses) == 1 for side in answers for group in side)
    assert json.loads((tmp_path / "demo/sft/environment.json").read_text())["processes"] == 2
    first, last = read_metrics(tmp_path / "demo/sft/metrics.jsonl")
    assert last["loss"] < first["loss"] - 0.5
    assert results["metrics"]["hal"]["before"]["value"] > 0 and (tmp_path / "demo/report.html").stat().st_size > 10_000
    with pytest.raises(CheckpointError, match="holds a demo with"):
        run_demo(seed=4, out=tmp_path / "demo", quick=True)


def test_a_process_that_fails_ends_the_demo_and_the_other_process(tmp_path, monkeypatch):
    program = "import os, sys, time; time.sleep(60 if os.environ['RANK'] == '0' else 0); sys.exit(3)"
    monkeypatch.setattr(sys, "executable", _interpreter(tmp_path, program))
    began = time.monotonic()
    with pytest.raises(SightlineError, match=r"exit code 3.*the same command goes on"):
        run_demo(out=tmp_path / "demo")
    assert time.monotonic() - began < 30


def test_a_process_does_not_outlive_a_killed_launcher(tmp_path):
    worker = "from sightline.demo.launch import end_with_the_launcher as e; import time; e(); time.sleep(60)"
    starting = (
        "import sys, time; from sightline.demo.launch import _start; "
        f"print(_start([sys.executable, '-c', {worker!r}], {{}}).pid, flush=True); time.sleep(60)"
    )
    launcher = subprocess.Popen([sys.executable, "-c", starting], stdout=subprocess.PIPE)
    pid = int(launcher.stdout.readline())
    launcher.kill()
    launcher.wait()
    ended = time.monotonic() + 30
    while _runs(pid) and time.monotonic() < ended:
        time.sleep(0.05)
    assert not _runs(pid)


def _runs(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def _interpreter(folder, program):
    """Something that is started like Python and runs ``program``, whatever it is asked to run."""
    path = folder / "python"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{program}"\n')
    path.chmod(0o755)
    return str(path)
