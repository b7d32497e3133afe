"""Entropic optimal transport, against its definition and against closed forms."""

import math
from itertools import permutations

import pytest
import torch

from sightline.errors import DivergenceError
from sightline.ops.transport import calibrated, cosine_cost, sinkhorn, sinkhorn_divergence


def features(n, seed, d=6):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_cosine_cost():
    source = torch.tensor([[1.0, 0.0], [3.0, 4.0], [0.0, 0.0]])
    target = torch.tensor([[0.0, 2.0], [-1.0, 0.0]])
    assert cosine_cost(source, target).tolist() == [[1.0, 2.0], pytest.approx([0.2, 1.6]), [1.0, 1.0]]


def test_two_by_two_has_a_closed_form():
    # C = [[0, 1], [1, 0]], equal weights: π_00 = π_11 = 1/2 · 1/(1 + e^(-1/ε)), by symmetry.
    for regularisation in (0.1, 0.5, 2.0):
        solved = sinkhorn(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), regularisation)
        stays = 0.5 / (1 + math.exp(-1 / regularisation))
        assert solved.plan.tolist() == [
            pytest.approx([stays, 0.5 - stays], abs=1e-7),
            pytest.approx([0.5 - stays, stays], abs=1e-7),
        ]
        moves = 1 - 2 * stays
        entropy = 2 * (stays * math.log(4 * stays) + (0.5 - stays) * math.log(4 * (0.5 - stays)))
        assert solved.value == pytest.approx(moves + regularisation * entropy, abs=1e-7)


def test_little_regularisation_gives_the_best_assignment():
    # The cheapest permutation of this matrix is (0→1, 1→2, 2→0) with cost (1 + 2 + 1) / 3.
    cost = torch.tensor([[4.0, 1.0, 3.0], [2.0, 0.0, 2.0], [1.0, 2.0, 5.0]])
    best = min(sum(cost[row, column].item() for row, column in enumerate(p)) for p in permutations(range(3)))
    assert best == 4.0
    solved = sinkhorn(cost, 0.02)
    assert float((solved.plan * cost).sum()) == pytest.approx(best / 3, abs=1e-4)


def test_the_plan_has_the_marginals_and_minimises():
    cost, weights = cosine_cost(features(7, 0), features(5, 1)), torch.softmax(features(7, 2)[:, 0].double(), 0)
    solved = sinkhorn(cost, 0.3, weights=weights, tolerance=1e-12)
    assert (solved.plan.sum(1) - weights).abs().sum() < 1e-11
    assert (solved.plan.sum(0) - 1 / 5).abs().sum() < 1e-9
    product = weights.double()[:, None] / 5

    def objective(plan):
        return float((plan * cost).sum() + 0.3 * (plan * (plan / product).log()).sum())

    assert solved.value == pytest.approx(objective(solved.plan), abs=1e-10)
    swap = torch.zeros_like(solved.plan)
    swap[0, 0], swap[0, 1], swap[1, 0], swap[1, 1] = 1, -1, -1, 1  # keeps both marginals
    for step in (1e-4, -1e-4):
        assert objective(solved.plan + step * swap) > solved.value


def test_the_calibrated_potential_is_the_slope_of_the_value():
    """Weight taken evenly from all other sources and given to one, by finite differences."""
    cost = cosine_cost(features(6, 3), features(4, 4))
    scores = calibrated(sinkhorn(cost, 0.1, tolerance=1e-12).source)
    step = 1e-4
    for chosen in range(6):
        values = []
        for sign in (1, -1):
            weights = torch.full((6,), 1 / 6 - sign * step / 5, dtype=torch.float64)
            weights[chosen] = 1 / 6 + sign * step
            values.append(sinkhorn(cost, 0.1, weights=weights, tolerance=1e-12).value)
        assert float(scores[chosen]) == pytest.approx((values[0] - values[1]) / (2 * step), abs=1e-5)


def test_calibration_removes_the_constant():
    assert calibrated(torch.tensor([1.0, 2.0, 6.0])).tolist() == [-3.0, -1.5, 4.5]
    assert calibrated(torch.tensor([11.0, 12.0, 16.0])).tolist() == [-3.0, -1.5, 4.5]
    with pytest.raises(ValueError, match="cannot be ranked"):
        calibrated(torch.tensor([1.0]))


def test_divergence_is_zero_for_equal_sets_and_positive_otherwise():
    one = features(8, 5)
    assert sinkhorn_divergence(one, one[torch.randperm(8)], 0.1) == pytest.approx(0.0, abs=1e-6)
    assert sinkhorn_divergence(one, features(6, 6), 0.1) > 0.02


def test_what_does_not_converge_is_an_error():
    with pytest.raises(DivergenceError, match="Raise the regularisation"):
        sinkhorn(cosine_cost(features(7, 0), features(5, 1)), 1e-3, iterations=20)
