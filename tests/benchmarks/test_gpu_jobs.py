"""Processes, time and files of the GPU benchmark; nothing of a model is needed here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import benchmarks.gpu_jobs as gpu_jobs
import pytest
from benchmarks.gpu import CONTENDERS, Report, jobs_of, main, parser
from benchmarks.gpu_jobs import Job, run_jobs
from benchmarks.gpu_table import ratios
from benchmarks.gpu_worker import environment_of

ROOT = Path(__file__).parents[2]
WORKER = """
import json, os, sys, time
def write(figures):  # at once, as the real one does
    with open(order["figures"] + ".new", "w") as file:
        json.dump(figures, file)
    os.replace(order["figures"] + ".new", order["figures"])
job = json.loads(sys.stdin.readline())
order = json.loads(sys.stdin.readline())
for number in range(3):
    write({"state": "running", "number": number})
    time.sleep(0.2)
    if job["name"] == "crash" and number == 1:
        sys.exit(3)
    if job["name"] == "slow" and number == 1:
        time.sleep(60)
write({"state": "done", "seconds": order["seconds"]})
"""


@pytest.fixture()
def workers(monkeypatch, tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    monkeypatch.setattr(gpu_jobs, "WORKER", (sys.executable, str(script)))
    monkeypatch.setattr(gpu_jobs, "GRACE", 0.2)


@pytest.mark.processes
@pytest.mark.parametrize("ahead", [False, True])
def test_every_job_has_its_process_and_every_stage_its_time(workers, ahead):
    seen: list[tuple[str, dict[str, object]]] = []
    jobs = [
        Job(stage="steps", name="first"),
        Job(stage="steps", name="crash"),
        Job(stage="profile", name="slow"),
        Job(stage="profile", name="late"),
        Job(stage="qlora", name="last"),
    ]
    budgets = {"steps": 40.0, "profile": 3.0, "qlora": 30.0}
    run_jobs(jobs, budgets, lambda job, found: seen.append((job.name, found)), ahead=ahead)
    last = dict(seen)
    assert last["first"]["state"] == last["last"]["state"] == "done"
    assert 15 < last["first"]["seconds"] <= 20  # two share the stage
    assert last["crash"] == {"state": "failed: it ended with 3, see its output", "number": 1}
    assert last["slow"].pop("number", 0) <= 1  # as far as it came
    assert last["slow"] == {"state": "stopped: the time of its stage was over"}
    assert "no time was left (--seconds profile=...)" in str(last["late"]["state"])
    numbers = [found["number"] for name, found in seen if name == "first" and "number" in found]
    assert numbers == sorted(numbers) and len(set(numbers)) >= 2  # they came while it ran


def test_the_files_are_whole_after_every_figure(tmp_path, capsys):
    report = Report(tmp_path)
    job = Job(stage="steps", name="llava pair tree")
    step = {"seconds": 0.5, "least": 0.4, "peak_mb": 2048.0, "new": [0.5], "host": 0.1, "tflops": 1.0}
    report.change(job, {"state": "running", **step})
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["stages"]["steps"]["llava pair tree"] == {"state": "running", **step}
    report.change(
        Job(stage="steps", name="llava pair trl"), {"state": "done", **step, "seconds": 1.5, "peak_mb": 4096.0}
    )
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["ratios"] == {"llava pair tree": {"trl": {"faster": 3.0, "memory": 0.5}}}
    assert "trl 3.00x 0.50" in (tmp_path / "gpu.md").read_text()
    assert "llava pair tree: 0.500 s (0.400), 2.0 GB, 1 draws; running" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpu.json", "gpu.md"]


def test_failures_make_the_command_fail(tmp_path):
    report = Report(tmp_path)
    report.change(Job(stage="steps", name="llava pair rows"), {"state": "out of memory"})
    report.change(Job(stage="gradients", name="segments"), {"state": "done", "wrong": False})
    assert report.right()
    report.change(Job(stage="gradients", name="merge"), {"state": "done", "wrong": True})
    assert not report.right()
    report.change(Job(stage="gradients", name="merge"), {"state": "failed: it ended with 1"})
    assert not report.right()


def test_ratios_stay_within_a_model_and_a_task():
    step = {"seconds": 1.0, "peak_mb": 0.0}
    steps = {
        "llava pair tree": step,
        "llava group trl": step,
        "qwen pair trl": step,
        "llava pair trl": {"state": "running"},
    }
    assert ratios(steps) == {}
    assert ratios({**steps, "llava pair trl+checkpointing": step}) == {
        "llava pair tree": {"trl+checkpointing": {"faster": 1.0}}
    }


def test_memory_in_segments_that_grow_is_asked_for_before_torch_is_imported():
    options = parser().parse_args(["--json", "x", "--only", "steps", "--contenders", "trl+expandable"])
    job = jobs_of(options)[-1]
    assert job.contender == "trl+expandable"
    assert environment_of(job)["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
    assert "PYTORCH_CUDA_ALLOC_CONF" not in environment_of(replace(job, contender="trl"))


def test_what_runs_by_default():
    jobs = jobs_of(parser().parse_args(["--json", "x"]))
    assert jobs[0].stage == "machine"
    assert [job.form for job in jobs if job.stage == "gradients"] == ["segments", "gather", "merge", "tower"]
    steps = [job for job in jobs if job.stage == "steps"]
    assert [job.contender for job in steps] == [*CONTENDERS, *CONTENDERS]
    assert {(job.task, job.answers, job.groups, job.image) for job in steps} == {
        ("pair", 2, 4, 576),
        ("group", 8, 4, 576),
    }
    assert len({(job.stage, job.name) for job in jobs}) == len(jobs)


def test_what_cannot_run_is_refused(tmp_path, capsys):
    for arguments, said in [
        (["--device", "cpu"], "Add --tiny"),
        (["--lengths", "9", "4"], "--lengths 9 4 is no range"),
        (["--answers", "1"], "at least 2 answers"),
        (["--device", "cpu", "--tiny", "--contenders", "tree+expandable"], "Leave out --device cpu"),
        (["--one-process", "--contenders", "trl+expandable"], "set before a process begins"),
    ]:
        assert main(["--json", str(tmp_path / "out"), *arguments]) == 2
        assert said in capsys.readouterr().err
    for arguments, said in [
        (["--contenders", "trl+compile"], "trl+compile is no contender"),
        (["--seconds", "step=3"], "step=3 names no stage"),
    ]:
        with pytest.raises(SystemExit):
            main(["--json", str(tmp_path / "out"), *arguments])
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.processes
def test_a_killed_run_leaves_its_results_and_no_process(tmp_path):
    """Killed while the first step is on its way: what came before is in the files."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--json", str(tmp_path), "--device", "cpu", "--tiny"]
    command += ["--only", "steps", "--contenders", "tree", "--tasks", "pair"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    run = subprocess.Popen(command, env=environment, cwd=ROOT, start_new_session=True)
    try:
        _wait_for(lambda: "steps" in _stages(tmp_path), run)
        run.send_signal(signal.SIGTERM)
        assert run.wait(30) == 143
    finally:
        run.kill()
    stages = _stages(tmp_path)
    assert stages["machine"]["machine"]["matmul_tflops"] > 0
    assert "state" in stages["steps"]["llava pair tree"]
    assert "matrix product" in (tmp_path / "gpu.md").read_text()
    with pytest.raises(ProcessLookupError):
        os.killpg(run.pid, 0)


def _stages(folder: Path) -> dict[str, dict[str, dict[str, object]]]:
    path = folder / "gpu.json"
    return json.loads(path.read_text())["stages"] if path.exists() else {}


def _wait_for(condition, run) -> None:
    until = time.monotonic() + 120
    while not condition():
        assert run.poll() is None and time.monotonic() < until
        time.sleep(0.1)
