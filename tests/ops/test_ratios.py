from math import exp

import pytest
import torch

from sightline.ops.mismatch import mismatch_ratio, mismatch_weight
from sightline.ops.ratios import clip_log_ratio, clipped_gain, log_ratio_at, soft_gain

LOG = torch.tensor([0.1, 0.3, -0.2, 0.5])
RESPONSE = torch.tensor([0, 0, 1, 0])


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("token", [0.1, 0.3, -0.2, 0.5]),
        ("sequence", [0.3, 0.3, -0.2, 0.3]),
        ("sequence_token", [0.3, 0.3, -0.2, 0.3]),
        ("product", [0.9, 0.9, -0.2, 0.9]),
    ],
)
def test_levels(level, expected):
    assert log_ratio_at(LOG, RESPONSE, 2, level).tolist() == pytest.approx(expected)


def test_gradients_of_levels():
    """Of the ratio of the first token: the whole answer's gradient, or its own."""
    slopes = {}
    for level in ("sequence", "sequence_token", "product"):
        leaf = LOG.clone().requires_grad_()
        (slope,) = torch.autograd.grad(log_ratio_at(leaf, RESPONSE, 2, level).exp()[0], leaf)
        slopes[level] = slope.tolist()
    assert slopes["sequence"] == pytest.approx([exp(0.3) / 3, exp(0.3) / 3, 0, exp(0.3) / 3])
    assert slopes["sequence_token"] == pytest.approx([exp(0.3), 0, 0, 0])
    assert slopes["product"] == pytest.approx([exp(0.9), exp(0.9), 0, exp(0.9)])


@pytest.mark.parametrize("level", ["token", "sequence", "sequence_token", "product"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_policy_against_itself_has_ratio_one_to_the_bit(level, dtype):
    logprobs = torch.tensor([-0.123, -4.567, -1.0001, -17.3], dtype=dtype, requires_grad=True)
    ratio = log_ratio_at(logprobs - logprobs.detach(), RESPONSE, 2, level).exp()
    assert ratio.tolist() == [1.0] * 4


def test_clipping_takes_the_smaller_gain():
    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5, 4.0, 1.1])
    advantage = torch.tensor([2.0, -2.0, 2.0, -2.0, -1.0, 3.0])
    assert clipped_gain(ratio, advantage, 0.2, 0.28).tolist() == pytest.approx([2.56, -3.0, 1.0, -1.6, -4.0, 3.3])
    assert clipped_gain(ratio, advantage, 0.2, 0.28, most=3.0).tolist() == pytest.approx(
        [2.56, -3.0, 1.0, -1.6, -3.0, 3.3]
    )


def test_log_ratios_are_clipped_on_the_side_of_the_advantage():
    log, advantage = torch.tensor([0.9, 0.9, -0.9, -0.9]), torch.tensor([1.0, -1.0, 1.0, -1.0])
    assert clip_log_ratio(log, advantage, 0.4, 0.5).tolist() == pytest.approx([0.5, 0.9, -0.9, -0.4])


def test_soft_gate():
    """4/τ σ(τ(r-1)) A: at r = 1 it is 2A/τ, with slope A."""
    ratio = torch.tensor([1.0, 1.0, 2.0], requires_grad=True)
    gain = soft_gain(ratio, torch.tensor([3.0, -3.0, 1.0]), 1.0, 1.5)
    assert gain.tolist() == pytest.approx([6.0, -4.0, 4 / (1 + exp(-1))])
    gain.sum().backward()
    assert ratio.grad[:2].tolist() == pytest.approx([3.0, -3.0])


def test_mismatch_ratios():
    gap = torch.tensor([0.1, 0.3, -0.2, 0.5])
    assert mismatch_ratio(gap, RESPONSE, 2, "token").tolist() == pytest.approx([exp(v) for v in gap.tolist()])
    whole, mean = exp(0.9), exp(0.3)
    assert mismatch_ratio(gap, RESPONSE, 2, "sequence").tolist() == pytest.approx([whole, whole, exp(-0.2), whole])
    assert mismatch_ratio(gap, RESPONSE, 2, "geometric").tolist() == pytest.approx([mean, mean, exp(-0.2), mean])


@pytest.mark.parametrize(
    ("action", "expected"),
    [("truncate", [0.5, 0.5, 1.5, 2.0, 2.0]), ("mask", [0, 0.5, 1.5, 2.0, 0]), ("reject", [0, 1, 1, 1, 0])],
)
def test_mismatch_weights_with_the_bounds_inside(action, expected):
    ratio = torch.tensor([0.4, 0.5, 1.5, 2.0, 6.0])
    assert mismatch_weight(ratio, action, 0.5, 2.0).tolist() == pytest.approx(expected)
