import pytest
import torch

from sightline.ops.advantages import group_mean, group_std, leave_one_out, length_weighted_mean, to_go

REWARDS = torch.tensor([1.0, 5.0, 2.0, 3.0, 9.0])
GROUP = torch.tensor([0, 1, 0, 0, 2])
"""Groups {1, 2, 3}, {5} and {9}, not next to each other."""


def test_group_statistics():
    assert group_mean(REWARDS, GROUP, 3).tolist() == [2, 5, 2, 2, 9]
    assert group_std(REWARDS, GROUP, 3, unbiased=True).tolist() == [1, 0, 1, 1, 0]
    population = (2 / 3) ** 0.5
    assert group_std(REWARDS, GROUP, 3, unbiased=False).tolist() == pytest.approx(
        [population, 0, population, population, 0]
    )


def test_leave_one_out_and_a_response_alone():
    assert leave_one_out(REWARDS, GROUP, 3).tolist() == [2.5, 5, 2, 1.5, 9]


def test_length_weighted_mean_and_a_group_without_tokens():
    lengths = torch.tensor([1.0, 4.0, 2.0, 1.0, 0.0])
    assert length_weighted_mean(REWARDS, lengths, GROUP, 3).tolist() == [2, 5, 2, 2, 0]
    longer = torch.tensor([7.0, 4.0, 2.0, 1.0, 3.0])  # (7 + 4 + 3) / 10
    assert length_weighted_mean(REWARDS, longer, GROUP, 3).tolist() == pytest.approx([1.4, 5, 1.4, 1.4, 9])


def test_the_baseline_by_length_is_the_one_of_least_variance():
    """Of all constants b, it minimises the sum over answers of length times (R - b)²."""
    rewards, lengths = torch.tensor([0.0, 1.0, 3.0]), torch.tensor([5.0, 2.0, 1.0])
    best = length_weighted_mean(rewards, lengths, torch.zeros(3, dtype=torch.long), 1)[0]
    spread = [float((lengths * (rewards - b).square()).sum()) for b in (best - 0.01, best, best + 0.01)]
    assert spread[1] == min(spread)


def test_to_go():
    values, segment = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0]), torch.tensor([1, 0, 1, 1, 0])
    assert to_go(values, segment, 2).tolist() == [13, 18, 12, 8, 16]
