"""One process = two gloo processes, whose shares of groups, tokens, pairs and pictures differ."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import train_runs
import two_processes

KINDS = ("sft", "text rows on one rank", "dpo", "checkpointed", "lora", "cache", "online", "reward model", "kto", "aot")
TIMED = ("seconds", "tokens_per_second")


@pytest.fixture(scope="module")
def one(tiny, tmp_path_factory):
    return two_processes.measure(tiny["llava"], tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def two(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = [str(Path(two_processes.__file__)), str(tiny["llava"]), str(folder)]
    done = subprocess.run(launcher + script, env=train_runs.environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    threads = [(folder / f"threads-{rank}.txt").read_text().splitlines() for rank in (0, 1)]
    return torch.load(folder / "found.pt", weights_only=True) | {"threads": threads}


@pytest.mark.processes
def test_two_processes_ran(one, two):
    assert (one["size"], two["size"]) == (1, 2)


@pytest.mark.processes
def test_threads_of_gloo_end_before_the_interpreter(two):
    for running, ended in two["threads"]:
        assert "gloo" in running
        assert "gloo" not in ended


@pytest.mark.processes
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_a_step(one, two, kind):
    expected, found = one[kind]["gradients"], two[kind]["gradients"]
    assert found.keys() == expected.keys()
    scale = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(
            found[name], gradient, rtol=1e-5, atol=2e-6 * scale, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.processes
@pytest.mark.parametrize("kind", KINDS)
def test_every_figure_of_a_run(one, two, kind):
    expected, found = one[kind]["records"], two[kind]["records"]
    assert [record.keys() for record in found] == [record.keys() for record in expected]
    for right, left in zip(expected, found, strict=True):
        for name in right.keys() - set(TIMED):
            small = 2e-5 if name.startswith("looking/") else 2e-6  # differences of sums of 50 nats
            assert left[name] == pytest.approx(right[name], rel=2e-5, abs=small), (right["step"], name)


@pytest.mark.processes
def test_what_does_not_run_is_refused(one, two):
    assert "train.distribution is ddp" in one["refusal"]
    assert "train.distribution is single" in two["refusal"]


@pytest.mark.processes
def test_all_ranks_stop_and_name_the_group_of_the_rank_that_diverged(two):
    assert "the loss is nan" in two["divergence"]
    assert two["divergence"].count(".jsonl:") == 1
