"""Advantages of single tokens, against numbers worked out by hand and a loop over the definition."""

from __future__ import annotations

import pytest
import torch

from sightline.ops.gae import at_the_end, gae

RESPONSE = torch.tensor([1, 0, 1, 1, 0, 3])  # in any order; response 2 has no token
REWARDS = torch.tensor([1.0, 0.0, 0.0, 2.0, 3.0, -1.0], dtype=torch.float64)
VALUES = torch.tensor([0.5, 0.25, 1.0, -1.0, 0.5, 2.0], dtype=torch.float64)


def by_definition(gamma: float, lam: float) -> tuple[list[float], list[float]]:
    advantages = [0.0] * 6
    for response in range(4):
        tokens = [index for index in range(6) if int(RESPONSE[index]) == response]
        deltas = []
        for place, token in enumerate(tokens):
            after = float(VALUES[tokens[place + 1]]) if place + 1 < len(tokens) else 0.0
            deltas.append(float(REWARDS[token]) + gamma * after - float(VALUES[token]))
        for place, token in enumerate(tokens):
            advantages[token] = sum((gamma * lam) ** k * delta for k, delta in enumerate(deltas[place:]))
    return advantages, [advantage + float(value) for advantage, value in zip(advantages, VALUES, strict=True)]


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (0.99, 0.95), (1.0, 0.0), (0.0, 1.0), (0.5, 0.5)])
def test_advantages_follow_the_definition(gamma: float, lam: float) -> None:
    advantages, returns = gae(REWARDS, VALUES, RESPONSE, 4, gamma=gamma, lam=lam)
    expected = by_definition(gamma, lam)
    assert torch.allclose(advantages, torch.tensor(expected[0], dtype=torch.float64), atol=1e-12)
    assert torch.allclose(returns, torch.tensor(expected[1], dtype=torch.float64), atol=1e-12)


def test_by_hand() -> None:
    """Response 0: tokens of reward 0, 3 and value 0.25, 0.5. δ = (0 + 0.9·0.5 - 0.25, 3 - 0.5) = (0.2, 2.5);
    A_0 = 0.2 + 0.9·0.8·2.5 = 2.0."""
    advantages, returns = gae(REWARDS, VALUES, RESPONSE, 4, gamma=0.9, lam=0.8)
    assert advantages[1].item() == pytest.approx(2.0) and advantages[4].item() == pytest.approx(2.5)
    assert returns[1].item() == pytest.approx(2.25) and returns[4].item() == pytest.approx(3.0)


def test_a_critic_of_zeros_gives_the_reward_to_go() -> None:
    advantages, returns = gae(REWARDS, torch.zeros(6, dtype=torch.float64), RESPONSE, 4)
    assert advantages.tolist() == [3.0, 3.0, 2.0, 2.0, 3.0, -1.0] and torch.equal(advantages, returns)


def test_returns_with_lambda_one_do_not_depend_on_the_critic() -> None:
    assert torch.allclose(gae(REWARDS, VALUES, RESPONSE, 4)[1], gae(REWARDS, 7 * VALUES, RESPONSE, 4)[1])


def test_no_tokens() -> None:
    nothing = torch.zeros(0)
    assert [column.shape for column in gae(nothing, nothing, torch.zeros(0, dtype=torch.long), 2)] == [(0,), (0,)]


def test_scores_stand_at_the_last_token_whatever_the_order() -> None:
    assert at_the_end(torch.tensor([5.0, 7.0, 11.0, 13.0]), RESPONSE).tolist() == [0, 0, 0, 7, 5, 13]
