import random

import numpy as np
import pytest
import torch
from accelerate.utils import DistributedType

from sightline.errors import MissingExtra, RecipeError
from sightline.train.runtime import Runtime


@pytest.mark.parametrize(
    ("variable", "kind"), [("ACCELERATE_USE_FSDP", "FSDP"), ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed")]
)
def test_settings_that_accelerate_would_replace_in_silence_are_refused(monkeypatch, variable, kind):
    monkeypatch.setenv(variable, "true")
    with pytest.raises(RecipeError, match=rf"asks for {kind}.*set train\.distribution=fsdp"):
        Runtime()


@pytest.mark.parametrize("wanted", ["ddp", "fsdp"])
def test_one_process_is_not_several(wanted):
    with pytest.raises(RecipeError, match=f"train.distribution is {wanted}, but what runs is single.*torchrun"):
        Runtime(distribution=wanted)


def test_parameters_that_are_not_held_as_they_should_be_are_noticed(monkeypatch):
    runtime, module = Runtime(), torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(module.parameters())
    assert runtime.prepare(module, optimizer)[0] is module
    monkeypatch.setattr(runtime, "_spread", True)
    monkeypatch.setattr(runtime._accelerator.state, "distributed_type", DistributedType.MULTI_CPU)
    with pytest.raises(RecipeError, match="distribution is fsdp, but the parameters are held as with single"):
        runtime.prepare(module, optimizer)


def test_a_launcher_that_did_not_reach_accelerate_is_noticed(monkeypatch):
    runtime = Runtime()
    assert (runtime.kind, runtime.size, runtime.rank) == ("single", 1, 0)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match="2 processes"):
        Runtime()


def test_a_tracker_that_is_not_installed_names_its_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'sightline\[wandb\]'"):
        Runtime(trackers=("wandb",))


def test_random_numbers_go_on_from_a_state():
    runtime = Runtime()
    runtime.seed(5)
    state = runtime.rng_state()

    def draws():
        return random.random(), np.random.rand(), float(torch.rand(()))

    first = draws()
    assert draws() != first
    runtime.set_rng_state(state)
    assert draws() == first


def test_clipping_returns_the_norm_before_it():
    runtime, parameter = Runtime(), torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([3.0, 4.0])
    assert runtime.clip([parameter], 0) == 5
    assert parameter.grad.tolist() == [3, 4]
    assert runtime.clip([parameter], 1.0) == 5
    torch.testing.assert_close(parameter.grad, torch.tensor([0.6, 0.8]))


def test_bf16_is_used_in_forwards_only_where_asked():
    weight = torch.ones(2, 2)
    for precision, dtype in (("no", torch.float32), ("bf16", torch.bfloat16)):
        runtime = Runtime(mixed_precision=precision)
        with runtime.autocast():
            assert (weight @ weight).dtype == dtype
        assert (weight @ weight).dtype == torch.float32
