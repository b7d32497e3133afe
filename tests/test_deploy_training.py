"""The files of ``deploy/`` that train, run in bash with programs that note what they are given: each command in them is
one that there is."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from recipe_files import LOOPS
from sightline.recipes.load import load_recipe
from sightline.recipes.load_loop import load_loop
from test_docs import parsed

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
SCRIPTS = ("train.slurm", "loop.slurm")
GIVEN = {
    "RECIPE": "recipes/papers/rlaif_v_dpo.yaml",
    "OVERRIDES": "train.epochs=2 seed=1",
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NODELIST": "n[1-2]",
    "SLURM_NNODES": "2",
    "SLURM_GPUS_ON_NODE": "8",
    "SLURM_CPUS_PER_TASK": "64",
    "SKYPILOT_NUM_GPUS_PER_NODE": "8",
    "DISTRIBUTION": "ddp",
}
"""What the one who starts them sets, and what Slurm and SkyPilot do."""


def started(name: str, folder: Path, *, training: str = "") -> subprocess.Popen[str]:
    """The script under way, with programs that note their name and words in ``noted``.

    Args:
        name: of the file.
        folder: to work in.
        training: what ``sightline`` and ``torchrun`` do after they noted.
    """
    script = (DEPLOY / name).read_text(encoding="utf-8")
    script = script if name.endswith(".slurm") else yaml.safe_load(script)["run"]
    srun = f'echo cpus "$SRUN_CPUS_PER_TASK" >> "{folder}/noted"; "$@"'
    programs = {"sightline": training, "torchrun": training, "srun": srun, "scontrol": "echo n1; echo n2"}
    for program, does in programs.items():
        text = f'#!/bin/bash\n{{ printf "%q " {program} "$@"; echo; }} >> "{folder}/noted"\n{does}\n'
        (folder / program).write_text(text)
        (folder / program).chmod(0o755)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", **GIVEN}
    return subprocess.Popen(
        ["bash", "-c", script, name], env=environment, cwd=folder, stderr=subprocess.PIPE, text=True
    )


def noted(folder: Path) -> list[list[str]]:
    return [shlex.split(line) for line in (folder / "noted").read_text().splitlines()]


@pytest.mark.parametrize("name", [*SCRIPTS, "train.sky.yaml"])
def test_every_command_is_understood(name: str, tmp_path: Path) -> None:
    script = started(name, tmp_path)
    assert (script.communicate()[1], script.returncode) == ("", 0)
    found = [
        words[words.index("sightline") + 1 :] for words in noted(tmp_path) if words[0] in ("sightline", "torchrun")
    ]
    expected = {"loop.slurm": ["loop"], "train.slurm": ["data", "train"], "train.sky.yaml": ["show", "train"]}
    assert [words[0] for words in found] == expected[name]
    for words in found:
        _, context = parsed(words)
        recipe, overrides = context.params["recipe"], context.params.get("overrides") or ()
        recipe, *overrides = [recipe, *overrides] if isinstance(recipe, str | Path) else recipe
        assert str(recipe) == GIVEN["RECIPE"] and set(overrides) >= set(GIVEN["OVERRIDES"].split())
        assert words[0] != "train" or load_recipe(ROOT / recipe, overrides).train.distribution == "ddp"


def test_slurm_starts_a_process_for_every_gpu_of_every_node(tmp_path: Path) -> None:
    started("train.slurm", tmp_path).communicate()
    (launched,) = [words for words in noted(tmp_path) if words[0] == "torchrun"]
    pairs = dict(itertools.pairwise(launched))
    assert (pairs["--nnodes"], pairs["--nproc-per-node"], pairs["--rdzv-endpoint"]) == ("2", "8", "n1:29500")
    (checked,) = [words for words in noted(tmp_path) if words[:3] == ["sightline", "data", "check"]]
    assert checked[checked.index("--processes") + 1] == "16"
    assert ["cpus", "64"] in noted(tmp_path), "srun gives a task one processor unless it is told"


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_job_that_failed_says_so(name: str, tmp_path: Path) -> None:
    script = started(name, tmp_path, training='[ "$1" = data ] || exit 3')
    script.communicate()
    assert script.returncode == 3


def test_a_job_whose_time_ends_is_put_into_the_queue_again(tmp_path: Path) -> None:
    script = started("loop.slurm", tmp_path, training="sleep 300 & echo $! >> pid; wait")
    while not (tmp_path / "pid").exists():
        time.sleep(0.01)
    script.send_signal(signal.SIGUSR1)
    script.wait(timeout=120)
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    assert ["scontrol", "requeue", "7"] in noted(tmp_path)
    for name in SCRIPTS:
        lines = (DEPLOY / name).read_text().splitlines()
        assert {"#SBATCH --requeue", "#SBATCH --signal=B:USR1@300"} <= set(lines)


def test_the_task_of_skypilot_installs_what_there_is() -> None:
    task = yaml.safe_load((DEPLOY / "train.sky.yaml").read_text())
    assert set(task) == {"name", "resources", "workdir", "envs", "setup", "run"} and set(task["envs"]) <= set(GIVEN)
    extras = re.search(r"\.\[([\w,]+)\]", task["setup"])[1].split(",")
    assert all(f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text() for extra in extras)
    assert all((ROOT / name).exists() for name in re.findall(r"-c (\S+)", task["setup"]))


@pytest.mark.parametrize("name", [*SCRIPTS, "train.sky.yaml"])
def test_the_recipes_at_its_head_load_with_their_overrides(name: str) -> None:
    head = [line for line in (DEPLOY / name).read_text().splitlines() if line.startswith("#   ")]
    starts = [" ".join(shlex.split(line, comments=False)[1:]) for line in head if "RECIPE=" in line]
    assert starts
    for line in starts:
        recipe = ROOT / re.search(r"RECIPE=([\w/.]+)", line)[1]
        overrides = (re.search(r"OVERRIDES=(.*?)(?: deploy/|$)", line) or ["", ""])[1].split()
        load_loop(recipe, overrides) if recipe in LOOPS else load_recipe(recipe, overrides)
        assert (recipe in LOOPS) == (name == "loop.slurm") and f"deploy/{name}" in line
