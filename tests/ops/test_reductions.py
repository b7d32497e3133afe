import math

import pytest
import torch

from sightline.ops.reductions import segment_logsumexp, segment_mean, segment_position, segment_sum

VALUES = torch.tensor([1.0, 2.0, 4.0, 8.0])
INDEX = torch.tensor([1, 0, 1, 3])


def test_segment_sum_adds_values_of_each_segment_in_any_order():
    assert segment_sum(VALUES, INDEX, 5).tolist() == [2.0, 5.0, 0.0, 8.0, 0.0]


def test_segment_sum_of_nothing_is_zero_and_still_has_a_gradient():
    values = torch.zeros(0, requires_grad=True)
    total = segment_sum(values, torch.zeros(0, dtype=torch.long), 2)
    total.sum().backward()
    assert total.tolist() == [0.0, 0.0] and values.grad is not None


def test_segment_mean_divides_by_values_present():
    assert segment_mean(VALUES, INDEX, 5).tolist() == [2.0, 2.5, 0.0, 8.0, 0.0]


def test_weighted_segment_mean_divides_by_weights():
    weights = torch.tensor([3.0, 0.0, 1.0, 2.0])
    # segment 1: (3*1 + 1*4) / 4; segment 0 has no weight at all.
    assert segment_mean(VALUES, INDEX, 5, weights).tolist() == [0.0, 1.75, 0.0, 8.0, 0.0]


def test_gradient_of_the_mean_is_the_share_of_the_weight():
    values = VALUES.clone().requires_grad_()
    segment_mean(values, INDEX, 5, torch.tensor([3.0, 0.0, 1.0, 2.0])).sum().backward()
    assert values.grad.tolist() == [0.75, 0.0, 0.25, 1.0]


def test_logsumexp_of_segments_neither_overflows_nor_underflows():
    values = torch.tensor([1000.0, -3.0, 1000.0, -1000.0], requires_grad=True)
    total = segment_logsumexp(values, torch.tensor([0, 2, 0, 2]), 4)
    assert total.tolist() == pytest.approx([1000 + math.log(2), -math.inf, -3.0, -math.inf])
    total[[0, 2]].sum().backward()
    assert values.grad.tolist() == pytest.approx([0.5, 1.0, 0.5, 0.0])


def test_position_within_segments_follows_the_flat_axis():
    assert segment_position(torch.tensor([2, 0, 2, 2, 0]), 3).tolist() == [0, 0, 1, 2, 1]
    assert segment_position(torch.tensor([], dtype=torch.long), 2).tolist() == []
