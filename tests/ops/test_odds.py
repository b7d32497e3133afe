import math

import pytest
import torch

from sightline.ops.odds import log1mexp, log_odds


def test_log1mexp_keeps_its_digits_at_both_ends():
    # log(1 - e^x) in high precision: at -1e-6, -0.5, -0.7, -20
    x = torch.tensor([-1e-6, -0.5, -0.7, -20.0])
    expected = [math.log(-math.expm1(value)) for value in (-1e-6, -0.5, -0.7)] + [
        -math.exp(-20) * (1 + math.exp(-20) / 2)
    ]
    assert log1mexp(x).tolist() == pytest.approx(expected, rel=2e-6)
    # the plain formula has no right digit left at -20 and one at -1e-6
    assert torch.log(1 - torch.exp(x))[3].item() != pytest.approx(expected[3], rel=1e-2)


def test_gradient_of_log1mexp():
    x = torch.tensor([math.log(0.5), math.log(0.2), -1e-4, -100.0], requires_grad=True)
    log1mexp(x).sum().backward()
    assert x.grad.tolist() == pytest.approx([-1.0, -0.25, -9999.5, 0.0], rel=1e-3, abs=1e-6)  # -p / (1 - p)


def test_certainty_is_finite_with_finite_gradients():
    logp = torch.tensor([0.0, -1e-12, -200.0], requires_grad=True)
    odds = log_odds(logp)
    odds.sum().backward()
    assert odds[:2].tolist() == pytest.approx([15.942385] * 2, abs=1e-5) and odds[2].item() == -200.0
    assert logp.grad.tolist() == [1.0, 1.0, 1.0]
