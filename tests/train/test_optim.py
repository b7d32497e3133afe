import math

import pytest
import torch
from torch import nn

from sightline.recipes.schema import TrainSpec
from sightline.train.optim import Schedule, build_optimizer, parameter_groups


def parts():
    def two(name):
        return [(f"{name}.weight", nn.Parameter(torch.ones(2, 3))), (f"{name}.bias", nn.Parameter(torch.ones(3)))]

    return {"language": two("a"), "projector": two("b"), "vision": [("c.conv", nn.Parameter(torch.ones(2, 3, 4, 4)))]}


def test_each_part_has_its_rate_and_only_matrices_decay():
    spec = TrainSpec(learning_rate=1e-3, vision_learning_rate=1e-5, weight_decay=0.1)
    found = {g["name"]: (g["lr"], g["weight_decay"], len(g["params"])) for g in parameter_groups(parts(), spec)}
    assert found == {
        "language/decay": (1e-3, 0.1, 1),
        "language/no_decay": (1e-3, 0.0, 1),
        "projector/decay": (1e-3, 0.1, 1),
        "projector/no_decay": (1e-3, 0.0, 1),
        "vision/decay": (1e-5, 0.1, 1),
    }


def test_one_step_of_adamw_in_closed_form():
    """After one step the bias-corrected moments are g and g**2, so the step is lr * g / (|g| + eps)."""
    spec = TrainSpec(learning_rate=0.1, weight_decay=0.5, epsilon=0.25, betas=(0.8, 0.9))
    named = parts()
    optimizer = build_optimizer(named, spec)
    weight, bias = (parameter for _, parameter in named["language"])
    weight.grad, bias.grad = torch.full((2, 3), 0.75), torch.full((3,), -0.75)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.full((2, 3), 1 - 0.1 * 0.5 - 0.1 * 0.75 / (0.75 + 0.25)))
    torch.testing.assert_close(bias.detach(), torch.full((3,), 1 + 0.1 * 0.75 / (0.75 + 0.25)))
    assert torch.equal(named["projector"][0][1], torch.ones(2, 3))  # no gradient, no step


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, 1.0, 1.0, 0.5 + 0.5 / math.sqrt(2), 0.5, 0.5 - 0.5 / math.sqrt(2)]),
    ],
)
def test_schedules(kind, expected):
    schedule = Schedule(kind=kind, total_steps=6, warmup_steps=2)
    assert [schedule.factor(step) for step in range(6)] == pytest.approx(expected)
    assert kind == "constant" or schedule.factor(6) == pytest.approx(0)


@pytest.mark.parametrize(("warmup", "steps"), [(0.03, 3), (0.035, 4), (0, 0), (5, 5), (1, 1)])
def test_warm_up_is_a_share_below_one_and_steps_from_one_on(warmup, steps):
    assert Schedule.of(TrainSpec(warmup=warmup), total_steps=100).warmup_steps == steps


def test_a_schedule_multiplies_the_rate_of_every_part():
    optimizer = build_optimizer(parts(), TrainSpec(learning_rate=1e-3, vision_learning_rate=1e-5))
    for _ in range(2):  # twice: the factor is on the base rate, not on the last one
        Schedule(kind="linear", total_steps=4).apply(optimizer, 2)
    assert {group["name"].split("/")[0]: group["lr"] for group in optimizer.param_groups} == pytest.approx(
        {"language": 5e-4, "projector": 5e-4, "vision": 5e-6}
    )
