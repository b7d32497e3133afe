"""PPO against numbers worked out by hand: three answers, their log-probabilities and values moved."""

from math import exp, log

import pytest
import torch

from sightline.algorithms.ppo import PPO
from sightline.algorithms.registry import build_algorithm
from sightline.errors import RecipeError
from sightline.types import Scores

LENGTHS = (2, 1, 3)
REWARDS = (1.0, -2.0, 4.0)
OLD = (-1.0, -2.0, -1.5, -0.5, -1.0, -1.0)
REF = (-1.2, -1.5, -1.5, -1.0, -1.0, -0.8)
"""k1: 0.2, -0.5, 0, 0.5, 0, -0.2."""
VALUES = (0.5, 0.0, -1.0, 2.0, 1.0, 3.0)
PLAIN = {"whiten_advantages": False}


def batch_of(flat_batch, **columns):
    filled = {"rewards": REWARDS, "old_logprobs": OLD, "ref_logprobs": REF, "values": VALUES}
    return flat_batch(LENGTHS, **{name: value for name, value in (filled | columns).items() if value is not None})


def prepared(algorithm, batch, world):
    (ready,) = algorithm.prepare_step([batch], [True], world)
    return ready


def test_a_critic_of_zeros_gives_the_reward_to_go(flat_batch, world):
    algorithm = PPO(lam=1.0, kl_coefficient=0.1, **PLAIN)
    ready = prepared(algorithm, batch_of(flat_batch, values=(0.0,) * 6), world)
    to_go = [1 - 0.1 * (0.2 - 0.5), 1 + 0.1 * 0.5, -2.0, 4 - 0.1 * (0.5 - 0.2), 4 + 0.1 * 0.2, 4 + 0.1 * 0.2]
    assert ready.returns.tolist() == pytest.approx(to_go) and ready.advantages.tolist() == pytest.approx(to_go)


def test_advantages_by_hand(flat_batch, world):
    """γ = 0.9, λ = 0.5, no KL. Answer 3: δ = (0.9·1 - 2, 0.9·3 - 1, 4 - 3) = (-1.1, 1.7, 1)."""
    ready = prepared(PPO(gamma=0.9, lam=0.5, kl_coefficient=0, **PLAIN), batch_of(flat_batch, ref_logprobs=None), world)
    third = [-1.1 + 0.45 * (1.7 + 0.45), 1.7 + 0.45, 1.0]
    first = [-0.5 + 0.45 * 1.0, 1.0]
    assert ready.advantages.tolist() == pytest.approx([*first, -1.0, *third])
    assert ready.returns.tolist() == pytest.approx([a + v for a, v in zip([*first, -1.0, *third], VALUES, strict=True)])


def test_equal_policies_pay_nothing(flat_batch, world):
    batch = batch_of(flat_batch, ref_logprobs=OLD)
    for options in ({}, {"kl": "k2"}, {"kl": "k3"}, {"kl_clamp": True}):
        paid = prepared(PPO(kl_coefficient=5.0, **PLAIN, **options), batch, world)
        free = prepared(PPO(kl_coefficient=0, **PLAIN), batch_of(flat_batch, ref_logprobs=None), world)
        assert paid.advantages.tolist() == pytest.approx(free.advantages.tolist())


@pytest.mark.parametrize(
    ("options", "prices"),
    [
        ({}, [0.2, -0.5, 0, 0.5, 0, -0.2]),
        ({"kl_clamp": True}, [0.2, 0, 0, 0.5, 0, 0]),
        ({"kl": "k2"}, [0.02, 0.125, 0, 0.125, 0, 0.02]),
        ({"kl": "k3"}, [exp(-d) - 1 + d for d in (0.2, -0.5, 0, 0.5, 0, -0.2)]),
    ],
)
def test_what_leaving_the_reference_costs(flat_batch, world, options, prices):
    """With γ = 0 the return of a token is its own reward."""
    ready = prepared(PPO(gamma=0, lam=0, kl_coefficient=0.5, reward_scale=10, **options), batch_of(flat_batch), world)
    scores = [0, 1, -2, 0, 0, 4]
    rewards = [10 * (score - 0.5 * price) for score, price in zip(scores, prices, strict=True)]
    assert ready.returns.tolist() == pytest.approx(rewards, rel=1e-6, abs=1e-6)


def test_advantages_are_whitened_over_the_round_and_not_over_what_runs_for_company(flat_batch, world):
    plain = prepared(PPO(**PLAIN), batch_of(flat_batch), world).advantages
    company = batch_of(flat_batch, rewards=(100.0, 100.0, 100.0))
    algorithm = PPO()
    white, _ = algorithm.prepare_step([batch_of(flat_batch), company], [True, False], world)
    assert torch.allclose(white.advantages, (plain - plain.mean()) / plain.std(), atol=1e-5)
    halves = algorithm.prepare_step([batch_of(flat_batch), batch_of(flat_batch)], [True, True], world)
    twice = torch.cat([half.advantages for half in halves])
    assert twice.mean().item() == pytest.approx(0, abs=1e-6) and twice.std().item() == pytest.approx(1, abs=1e-6)


def test_rewards_are_whitened_about_their_mean(flat_batch, world):
    options = {"gamma": 0.0, "lam": 0.0, "kl_coefficient": 0.5}
    raw = prepared(PPO(**options), batch_of(flat_batch), world).returns
    white = prepared(PPO(**options, whiten_rewards=True), batch_of(flat_batch), world).returns
    assert torch.allclose(white, (raw - raw.mean()) / raw.std() + raw.mean(), atol=1e-5)


def loss_of(algorithm, batch, logprobs, values, world):
    logprobs, values = torch.tensor(logprobs).requires_grad_(), torch.tensor(values).requires_grad_()
    terms, stats = algorithm.loss(batch, Scores(logprobs=logprobs, values=values), world)
    assert [(term.name, term.unit) for term in terms] == [("policy", "token"), ("value", "token")]
    policy, value = (term.coefficient * term.values.sum() / batch.count(term.unit) for term in terms)
    (policy + value).backward()
    return policy.item(), value.item(), logprobs.grad.tolist(), values.grad.tolist(), stats


def test_the_loss_by_hand(flat_batch, world):
    """Ratios 1.5, 0.9, 0.5, 1.1, 1.25, 0.7 and advantages 1, -1, 2, 1, -2, -1: the bound counts for the first, and
    for the last, whose ratio fell where the advantage is negative. The third may fall as far as it likes."""
    advantages, returns = (1.0, -1.0, 2.0, 1.0, -2.0, -1.0), (1.0, 0.05, -2.0, 2.0, 1.0, 1.0)
    batch = batch_of(flat_batch, advantages=advantages, returns=returns)
    ratios = (1.5, 0.9, 0.5, 1.1, 1.25, 0.7)
    moved = [old + log(ratio) for old, ratio in zip(OLD, ratios, strict=True)]
    values = [1.0, 0.1, -1.1, 2.5, 1.0, 2.9]  # bounds of 0.2: 0.7, 0.1, -1.1, 2.2, 1.0, 2.9
    policy, value, slope, value_slope, stats = loss_of(PPO(value_coefficient=0.1), batch, moved, values, world)
    gains = [1.2, -0.9, 1.0, 1.1, -2.5, -0.8]
    assert policy == pytest.approx(-sum(gains) / 6)
    errors = [max(0.0, 0.3**2), 0.05**2, 0.9**2, max(0.5**2, 0.2**2), 0.0, 1.9**2]
    assert value == pytest.approx(0.1 * sum(errors) / 2 / 6, rel=1e-5)
    assert slope == pytest.approx([0, 0.9 / 6, -1.0 / 6, -1.1 / 6, 2.5 / 6, 0])
    # where the bound counts (the first), nothing pulls the value
    assert value_slope == pytest.approx([0, 0.1 * 0.05 / 6, 0.1 * 0.9 / 6, 0.1 * 0.5 / 6, 0, 0.1 * 1.9 / 6], abs=1e-6)
    assert float(stats["clip_ratio/region_mean"].sum) == 2 and float(stats["val/clipfrac_avg"].sum) == 1
    free = loss_of(PPO(value_coefficient=0.1, value_epsilon=None), batch, moved, values, world)
    assert free[1] == pytest.approx(0.1 * (0 + 0.05**2 + 0.9**2 + 0.5**2 + 1.9**2) / 2 / 6, rel=1e-5)


def test_at_the_first_step_of_a_round_the_ratio_is_one(flat_batch, world):
    batch = batch_of(flat_batch, advantages=(1.0,) * 6, returns=VALUES)
    rounded = [old + 1e-4 for old in OLD]  # another batch, another rounding
    on_policy = batch.__class__(**{**vars(batch), "on_policy": True})
    policy, _, slope, _, stats = loss_of(PPO(), on_policy, rounded, VALUES, world)
    assert policy == -1 and slope == pytest.approx([-1 / 6] * 6)
    assert float(stats["val/ratio_max"].sum) == 1


def test_the_price_comes_near_its_target(flat_batch, world):
    """KL per answer: (0.2 - 0.5 + 0 + 0.5 - 0.2) / 3 = 0, then with other references 6 / 3 = 2."""
    algorithm = PPO(kl_target=1.0, kl_horizon=30, kl_coefficient=0.5)
    below = algorithm.after_round([batch_of(flat_batch)], [True], world)
    assert below.kl_coefficient == pytest.approx(0.5 * (1 - 0.2 * 3 / 30))
    far = batch_of(flat_batch, ref_logprobs=tuple(old - 1 for old in OLD))
    assert algorithm.after_round([far], [True], world).kl_coefficient == pytest.approx(0.5 * (1 + 0.2 * 3 / 30))
    near = batch_of(flat_batch, ref_logprobs=tuple(old - 0.55 for old in OLD))  # 3.3 / 3 = 1.1: error 0.1
    assert algorithm.after_round([near], [True], world).kl_coefficient == pytest.approx(0.5 * (1 + 0.1 * 3 / 30))
    both = algorithm.after_round([near, far], [True, False], world)
    assert both.kl_coefficient == pytest.approx(0.5 * (1 + 0.1 * 3 / 30))
    assert PPO().after_round([far], [True], world).kl_coefficient == 0.05


def test_what_is_needed(flat_batch):
    assert build_algorithm({"name": "ppo"}).needs == {"rewards", "old_logprobs", "values", "ref_logprobs"}
    assert "ref_logprobs" not in PPO(kl_coefficient=0).needs
    assert "rollout_logprobs" in PPO(mismatch="tis").needs


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"gamma": 1.5}, "from 0 to 1"),
        ({"lam": -0.1}, "0 or more"),
        ({"epsilon": -1.0}, "0 or more"),
        ({"value_epsilon": 0.0}, "above 0"),
        ({"kl": "k4"}, "'k1', 'k2' or 'k3'"),
        ({"kl_target": 1.0, "kl_coefficient": 0.0}, "which is 0"),
        ({"mismatch": "sis"}, "choose one of"),
    ],
)
def test_wrong_options_are_refused(options, told):
    with pytest.raises(RecipeError, match=told):
        build_algorithm({"name": "ppo", **options})
