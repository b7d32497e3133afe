"""Advantages and returns of single tokens from rewards and a critic's values."""

from __future__ import annotations

import torch
from torch import Tensor

from sightline.ops.reductions import segment_count, segment_position


def gae(
    rewards: Tensor, values: Tensor, response: Tensor, size: int, *, gamma: float = 1.0, lam: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2015, arXiv 1506.02438, equation 16) along each response.

    ``δ_t = r_t + γ V_{t+1} - V_t`` and ``A_t = δ_t + γλ A_{t+1}``, both 0 after the last token: an answer ends there,
    whether it ended its turn or was cut.

    Args:
        rewards: [N] float, the reward for writing each token.
        values: [N] float, the critic's value of the state in which each token was written.
        response: [N] long, the response of each token, in 0..size-1; tokens of a response in their order.
        size: number of responses.
        gamma: discount, in [0, 1].
        lam: λ, in [0, 1]; 1: the whole reward to come, 0: one step.

    Returns:
        advantages [N], and returns [N]: ``A_t + V_t``, what the critic is trained towards.

    >>> rewards, values = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.5, 0.5, 0.5])
    >>> gae(rewards, values, torch.tensor([0, 0, 0]), 1, gamma=1.0, lam=0.5)[0]
    tensor([0.1250, 0.2500, 0.5000])
    """
    if not rewards.shape[0]:
        return rewards.clone(), rewards.clone()
    place = segment_position(response, size)
    longest = int(place.max()) + 1
    reward_RL, value_RL = (_by_response(column, response, place, size, longest) for column in (rewards, values))
    after_R = ahead_R = rewards.new_zeros(size)
    advantage_RL = torch.zeros_like(reward_RL)
    for step in reversed(range(longest)):  # places past the end of a response hold 0, and give 0
        delta_R = reward_RL[:, step] + gamma * after_R - value_RL[:, step]
        ahead_R = delta_R + gamma * lam * ahead_R
        advantage_RL[:, step] = ahead_R
        after_R = value_RL[:, step]
    advantages = advantage_RL[response, place]
    return advantages, advantages + values


def _by_response(column: Tensor, response: Tensor, place: Tensor, size: int, longest: int) -> Tensor:
    """[R, longest]: the column, row by row, zeros behind."""
    rows = column.new_zeros(size, longest)
    rows[response, place] = column
    return rows


def at_the_end(scores: Tensor, response: Tensor) -> Tensor:
    """Rewards of tokens from scores of responses: each stands at the last token of its response, all others get 0.

    Args:
        scores: [R] float.
        response: [N] long, as in :func:`gae`.

    Returns:
        [N].

    >>> at_the_end(torch.tensor([2.0, 3.0]), torch.tensor([0, 0, 1]))
    tensor([0., 2., 3.])
    """
    place = segment_position(response, scores.shape[0])
    length = segment_count(response, scores.shape[0])
    return torch.where(place == length[response] - 1, scores[response], scores.new_zeros(()))
