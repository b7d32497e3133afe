"""One process = two gloo processes, whose shares of groups, tokens, pairs and pictures differ; whole parameters on each
(DDP) = parameters spread over both (FSDP)."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import killed_processes
import pytest
import torch
import train_runs
import two_processes
from safetensors.torch import load_file

from sightline.recipes.load import dump_recipe
from sightline.recipes.schema import ModelSpec, PartsSpec
from sightline.train.checkpoint import latest, load_checkpoint
from sightline.train.loop import train

KINDS = (*two_processes.SHARDED, "kto", "aot", "mixture", "buffer", "papo", "vppo")
SHARDED = tuple(f"fsdp {kind}" for kind in two_processes.SHARDED)
STOP = 3
"""Step at which runs are stopped that are taken up again; the one before it was saved."""


def launch(*arguments):
    """Two processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*launcher, *map(str, arguments)], env=train_runs.environment(), capture_output=True, text=True, timeout=1800
    )


def long_run(model, folder):
    spec = ModelSpec(path=str(model), parts=PartsSpec(vision="full"))
    return train_runs.recipe(model, folder, responses=2, model=spec, max_steps=5, save_every=2)


def spread(recipe):
    return replace(recipe, train=replace(recipe.train, distribution="fsdp"))


@pytest.fixture(scope="module")
def one(tiny, tmp_path_factory):
    return two_processes.measure(tiny["llava"], tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def unbroken(tiny, tmp_path_factory):
    """Losses of a run in one process that nothing stopped."""
    recipe = long_run(tiny["llava"], tmp_path_factory.mktemp("whole"))
    train(recipe, quiet=True)
    return train_runs.losses(Path(recipe.output_dir))


@pytest.fixture(scope="module")
def two(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    recipe = long_run(tiny["llava"], folder / "stopped")
    train_runs.stop(recipe, STOP)
    (folder / "stopped.yaml").write_text(dump_recipe(spread(recipe)))
    done = launch(two_processes.__file__, tiny["llava"], folder)
    assert done.returncode == 0, done.stderr[-4000:]
    threads = [(folder / f"threads-{rank}.txt").read_text().splitlines() for rank in (0, 1)]
    return torch.load(folder / "found.pt", weights_only=True) | {"threads": threads}


@pytest.mark.processes
def test_two_processes_ran(one, two):
    assert (one["size"], two["size"]) == (1, 2)
    assert (one["most"], two["most"]) == (5, 6)


@pytest.mark.processes
def test_threads_of_gloo_end_before_the_interpreter(two):
    for running, ended in two["threads"]:
        assert "gloo" in running
        assert "gloo" not in ended


@pytest.mark.processes
@pytest.mark.parametrize("kind", [*KINDS, *SHARDED])
def test_gradients_of_a_step(one, two, kind):
    expected, found = one[kind.removeprefix("fsdp ")]["gradients"], two[kind]["gradients"]
    assert found.keys() == expected.keys()
    scale = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(
            found[name], gradient, rtol=1e-5, atol=2e-6 * scale, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.processes
@pytest.mark.parametrize("kind", [*KINDS, *SHARDED])
def test_every_figure_of_a_run(one, two, kind):
    expected, found = one[kind.removeprefix("fsdp ")]["records"], two[kind]["records"]
    assert [record.keys() for record in found] == [record.keys() for record in expected]
    for right, left in zip(expected, found, strict=True):
        for name in filter(lambda name: not train_runs.is_timed(name), right):
            small = 2e-5 if name.startswith("looking/") else 2e-6  # differences of sums of 50 nats
            assert left[name] == pytest.approx(right[name], rel=2e-5, abs=small), (right["step"], name)


@pytest.mark.processes
@pytest.mark.parametrize(
    ("kind", "folder"), [("sft", "model"), ("lora", "model"), ("lora", "best"), ("reward model", "model")]
)
def test_spread_parameters_leave_the_same_model(one, two, kind, folder):
    expected, found = (Path(r["run"]) / folder for r in (one[kind], two[f"fsdp {kind}"]))
    files = {path.relative_to(expected) for path in expected.rglob("*")}
    assert {path.relative_to(found) for path in found.rglob("*")} == files
    weights = [file for file in files if file.suffix == ".safetensors"]
    assert len(weights) == 1 + (kind == "reward model")
    for file in weights:
        right, left = load_file(expected / file), load_file(found / file)
        assert left.keys() == right.keys()
        for name, value in right.items():
            # steps of Adam: where a gradient is next to nothing, rounding decides its sign
            assert float((left[name] - value).abs().median()) < 1e-6, name
    configs = [file for file in files if file.name in ("config.json", "adapter_config.json", "score_head.json")]
    assert configs
    for file in configs:
        assert json.loads((found / file).read_text()) == json.loads((expected / file).read_text())


@pytest.mark.processes
@pytest.mark.parametrize("kind", ["bf16", "bfloat16 weights"])
def test_bf16_rounds_alike_whether_parameters_are_spread_or_not(two, kind):
    expected, found = two[kind]["ddp"], two[kind]["fsdp"]
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient.dtype == torch.float32
        torch.testing.assert_close(found[name], gradient, rtol=1e-6, atol=1e-9, msg=name)


@pytest.mark.processes
def test_bfloat16_weights_that_are_spread_are_trained_in_float32(one, two):
    records, found = two["bfloat16 run"]["records"], two["bfloat16 run"]["run"]
    expected = [record["loss"] for record in one["sft"]["records"]]
    assert [record["loss"] for record in records] == pytest.approx(expected, rel=0.02)
    held = load_checkpoint(latest(Path(found))).weights
    assert {value.dtype for value in held.values()} == {torch.float32}
    saved = load_file(Path(found) / "model" / "model.safetensors")
    assert {value.dtype for value in saved.values()} == {torch.bfloat16}


@pytest.mark.processes
def test_bf16_rounds(one, two):
    exact, found = one["dpo"]["gradients"], two["bf16"]["fsdp"]
    assert any(float((gradient - exact[name]).abs().max()) > 1e-4 for name, gradient in found.items())


@pytest.mark.processes
def test_each_process_holds_its_half(two):
    for rank in two["held"]:
        assert rank.pop("inside") == 1.0  # whole while sampling
        assert rank == pytest.approx(dict.fromkeys(rank, 0.5), abs=0.01)


@pytest.mark.processes
def test_a_run_of_one_process_goes_on_with_spread_parameters(two, unbroken):
    assert {record["step"]: record["loss"] for record in two["resumed"]} == pytest.approx(unbroken, rel=2e-5)


@pytest.mark.processes
def test_a_killed_run_with_spread_parameters_goes_on_in_one_process(tiny, tmp_path, unbroken):
    recipe = long_run(tiny["llava"], tmp_path)
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(spread(recipe)))
    done = launch(killed_processes.__file__, path, STOP)
    assert "SIGKILL" in done.stderr
    run_dir = Path(recipe.output_dir)
    assert latest(run_dir).name == f"step-{STOP - 1:08d}"
    assert list(train_runs.losses(run_dir)) == [1, 2, 3]
    assert train(recipe, quiet=True).resumed_from == STOP - 1
    assert train_runs.losses(run_dir) == pytest.approx(unbroken, rel=2e-5)


@pytest.mark.processes
def test_what_does_not_run_is_refused(one, two):
    assert "train.distribution is ddp" in one["refusal"]
    assert "train.distribution is fsdp, but what runs is single with 1 process(es)" in one["refusal"]
    assert "train.distribution is single" in two["refusal"]


@pytest.mark.processes
def test_all_ranks_stop_and_name_the_group_of_the_rank_that_diverged(two):
    assert "the loss is nan" in two["divergence"]
    assert two["divergence"].count(".jsonl:") == 1
