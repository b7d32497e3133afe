"""PAPO, VPPO and the entropy reward of VES-RFT against numbers: four answers, each under two pictures."""

from math import exp, log

import pytest
import torch

from sightline.algorithms.masked import taken_apart
from sightline.algorithms.registry import build_algorithm
from sightline.errors import RecipeError
from sightline.types import Scores

LENGTHS = (3, 1, 2, 1)
OWN = (-1.0, -2.0, -0.5, -1.5, -1.0, -3.0, -2.0)
GAP = (log(2.0), 0.0, -log(2.0), log(4.0), log(2.0), 0.0, 0.0)
"""Log-probability with the picture less that without it."""
K3 = (log(2.0) - 0.5, 0.0, 1 - log(2.0), log(4.0) - 0.75, log(2.0) - 0.5, 0.0, 0.0)
"""exp(-d) - 1 + d."""
REWARDS = (1.0, 0.0, 3.0, 1.0)
MASKED = tuple(own - gap for own, gap in zip(OWN, GAP, strict=True))


@pytest.fixture
def batch(flat_batch):
    """Two groups of two answers: answers of a group, then the same under its masked picture."""
    lengths = (*LENGTHS[:2], *LENGTHS[:2], *LENGTHS[2:], *LENGTHS[2:])
    made = flat_batch(
        lengths, pairs=((0, 2), (1, 3), (4, 6), (5, 7)),
        rewards=(*REWARDS[:2], *REWARDS[:2], *REWARDS[2:], *REWARDS[2:]),
        old_logprobs=spread(OWN, MASKED),
    )  # fmt: skip
    return made.__class__(**{**vars(made), "group": torch.tensor((0, 0, 0, 0, 1, 1, 1, 1)), "num_groups": 2})


def spread(own, masked):
    """Numbers of tokens, in the order of the batch: the first group has 4 tokens under each picture, the second 3."""
    return (*own[:4], *masked[:4], *own[4:], *masked[4:])


def gathered(values):
    """(own, masked) of [N] numbers."""
    values = list(values)
    return values[:4] + values[8:11], values[4:8] + values[11:]


def losses(algorithm, batch, world):
    """Terms as the loop would make them, and gradients with and without the picture of their sum."""
    (ready,) = algorithm.prepare_step([batch], [True], world)
    leaf = batch.old_logprobs.clone().requires_grad_()
    terms, stats = algorithm.loss(ready, Scores(logprobs=leaf), world)
    made = {t.name: t.coefficient * t.values.sum() / ready.count(t.unit) for t in terms}
    sum(made.values()).backward()
    return {name: one.item() for name, one in made.items()}, gathered(leaf.grad.tolist()), stats, ready


def test_a_batch_is_taken_apart_in_any_order_of_answers_and_tokens(flat_batch):
    made = flat_batch((2, 1, 1, 2), pairs=((3, 0), (2, 1)), rewards=(9.0, 8.0, 7.0, 6.0))
    apart = taken_apart(made)
    assert apart.own.tolist() == [3, 4, 5] and apart.masked.tolist() == [2, 0, 1]
    assert apart.batch.response.tolist() == [1, 0, 0] and apart.batch.rewards.tolist() == [6, 7]
    mixed = taken_apart(flat_batch((2, 1, 1, 2), pairs=((3, 0), (2, 1)), order=(4, 0, 3, 2, 1, 5)))  # 3 0 2 1 0 3
    assert mixed.own.tolist() == [0, 2, 5] and mixed.masked.tolist() == [1, 3, 4]
    assert apart.spread(torch.tensor([1.0, 2.0, 3.0]), 6).tolist() == [0, 0, 0, 1, 2, 3]


def test_papo(batch, world):
    """Each answer counts once: means are over 7 tokens, not 14."""
    options = {"kind": "papo", "gamma": 0.2, "entropy": 0.3, "masked_entropy": 0.4}
    algorithm = build_algorithm({"name": "dapo", "scale": "none", "perception": options})
    made, (own, masked), stats, ready = losses(algorithm, batch, world)
    assert made["kl_prcp"] == pytest.approx(-0.2 * sum(K3) / 7)
    assert made["ori_entropy"] == pytest.approx(0.3 * 11 / 7)
    assert made["aug_entropy"] == pytest.approx(0.4 * -sum(MASKED) / 7)
    advantage = (0.5, 0.5, 0.5, -0.5, 1.0, 1.0, -1.0)
    # d k3 / d (log π) = 1 - exp(-d), and the opposite under the masked picture
    slope = [1 - exp(-gap) for gap in GAP]
    assert own == pytest.approx([(-a - 0.2 * s - 0.3) / 7 for a, s in zip(advantage, slope, strict=True)], abs=1e-7)
    assert masked == pytest.approx([(0.2 * s - 0.4) / 7 for s in slope], abs=1e-7)
    assert float(stats["kl_prcp"].sum) == pytest.approx(sum(K3)) and stats["kl_prcp"].count == 7
    assert gathered(ready.advantages.tolist())[1] == [0] * 7


def test_papo_may_leave_the_masked_picture_alone(batch, world):
    options = {"kind": "papo", "gamma": 0.2, "entropy": 0.0, "masked_entropy": 0.0, "through_masked": False}
    made, (_, masked), _, _ = losses(build_algorithm({"name": "grpo", "perception": options}), batch, world)
    assert masked == [0] * 7 and set(made) == {"policy", "kl_prcp"}
    tokens = sum(K3[:3]) / 3, K3[3], sum(K3[4:6]) / 2, K3[6]  # GRPO: mean over an answer, then over the four
    assert made["kl_prcp"] == pytest.approx(-0.2 * sum(tokens) / 4)


def test_papo_has_no_gradient_beyond_the_largest_divergence(batch, world):
    options = {"kind": "papo", "gamma": 1.0, "entropy": 0.0, "masked_entropy": 0.0, "most": 0.3}
    made, (own, _), _, _ = losses(
        build_algorithm({"name": "dapo", "scale": "none", "baseline": "none", "objective": "plain", "epsilon": 0.2,
                         "epsilon_high": None, "perception": options}),
        batch.with_columns(rewards=torch.zeros(8)), world,
    )  # fmt: skip
    assert made["kl_prcp"] == pytest.approx(-(2 * (log(2.0) - 0.5) + 0.3 + 0.3) / 7)  # 0.307 and 0.636 are cut
    assert own == pytest.approx([-0.5 / 7, 0, 0, 0, -0.5 / 7, 0, 0], abs=1e-7)


SCORES = (K3[0] / 3 + K3[2] / 3, K3[3], K3[4] / 2, 0.0)
PLACES = tuple(score / K3[3] for score in SCORES)
SLOPE = 0.4 / (sum(PLACES) / 4)


def test_vppo(batch, world):
    """Weights from 0.6 for the answer that depends least, with mean 1; of 3, 1, 2 and 1 tokens 2, 1, 1 and 1 stay."""
    options = {"kind": "vppo", "share": 0.5, "least": 0.6, "entropy": 0.25}
    algorithm = build_algorithm({"name": "dapo", "scale": "none", "perception": options})
    made, (own, masked), stats, ready = losses(algorithm, batch, world)
    weights = [0.6 + SLOPE * place for place in PLACES]
    assert sum(weights) / 4 == pytest.approx(1) and min(weights) == 0.6
    first = 0.5 * weights[0]
    # the first answer's tokens depend by 0.193, 0 and 0.307
    expected = [first, 0, first, -0.5 * weights[1], weights[2], 0, -weights[3]]
    assert gathered(ready.advantages.tolist())[0] == pytest.approx(expected)
    assert made["entropy_penalty"] == pytest.approx(0.25 * 11 / 7)
    assert own == pytest.approx([(-a - 0.25) / 7 for a in expected]) and masked == [0] * 7
    assert float(stats["sensitivity_score_mean"].sum) == pytest.approx(sum(SCORES))
    assert (float(stats["perception_token_fraction"].sum), stats["perception_token_fraction"].count) == (5, 7)
    assert float(stats["low_var_kl_mean_rejected"].sum) == 0 and stats["low_var_kl_mean_selected"].count == 5


def test_vppo_weighs_alike_where_nothing_depends_on_the_picture(batch, world):
    same = batch.with_columns(old_logprobs=torch.tensor(spread(OWN, OWN)))
    algorithm = build_algorithm({"name": "grpo", "scale": "none", "perception": {"kind": "vppo", "share": 1.0}})
    (ready,) = algorithm.prepare_step([same], [True], world)
    assert gathered(ready.advantages.tolist())[0] == [0.5, 0.5, 0.5, -0.5, 1.0, 1.0, -1.0]


def test_vppo_is_over_all_ranks_and_micro_batches(flat_batch, world, two_ranks):
    """A rank whose passes run for company only has no say."""
    algorithm = build_algorithm({"name": "grpo", "scale": "none", "perception": {"kind": "vppo", "least": 0.0}})

    def part(first, gaps, rewards):
        own = [-1.0 - 0.1 * n for n in range(first, first + 2)]
        masked = [o - g for o, g in zip(own, gaps, strict=True)]
        return flat_batch((1, 1, 1, 1), pairs=((0, 2), (1, 3)), rewards=rewards * 2, old_logprobs=(*own, *masked))

    parts = part(0, (0.1, 2.0), (1.0, 0.0)), part(2, (0.5, 1.0), (2.0, 1.0)), part(4, (3.0, 0.0), (0.0, 5.0))
    whole = [made.advantages for made in algorithm.prepare_step(parts, [True] * 3, world)]

    def work(rank):
        mine = (parts[:2], [True, True]) if rank.rank == 0 else ((parts[2], parts[0]), [True, False])
        return [made.advantages for made in algorithm.prepare_step(*mine, rank)]

    (first, second), (third, _) = two_ranks.run(work)
    for found, expected in zip((first, second, third), whole, strict=True):
        torch.testing.assert_close(found, expected)


def test_the_entropy_reward_of_ves_rft(batch, world):
    entropy = (2.0, 1.0, 3.0, 0.5, 1.0, 1.0, 4.0), (3.0, 3.0, 3.0, 0.0, 1.0, 2.0, 4.0)
    given = batch.with_columns(old_entropy=torch.tensor(spread(*entropy)))
    algorithm = build_algorithm(
        {"name": "grpo", "scale": "none", "perception": {"kind": "visual_entropy", "weight": 0.5}}
    )
    _, (own, masked), stats, ready = losses(algorithm, given, world)
    # means over the answers: 1, -0.5, 0.5 and 0
    rewards = 1.5, -0.25, 3.25, 1.0
    half, other = (rewards[0] - rewards[1]) / 2, (rewards[2] - rewards[3]) / 2
    expected = [half, half, half, -half, other, other, -other]
    assert gathered(ready.advantages.tolist())[0] == pytest.approx(expected)
    assert own == pytest.approx([-half / 12] * 3 + [half / 4] + [-other / 8] * 2 + [other / 4]) and masked == [0] * 7
    gain = stats["rewards/visual_entropy/mean"]
    assert float(gain.sum) == pytest.approx(1.0) and gain.count == 4
    assert batch.rewards.tolist()[:2] == [1, 0]


def test_the_entropy_reward_is_a_part_among_others_under_gdpo(batch, world):
    entropy = (2.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0), (3.0, 3.0, 3.0, 2.0, 1.0, 1.0, 1.0)
    parts = torch.tensor([[1.0], [0.0], [1.0], [0.0], [3.0], [1.0], [3.0], [1.0]])
    given = batch.with_columns(old_entropy=torch.tensor(spread(*entropy)), reward_parts=parts)
    given = given.__class__(**{**vars(given), "reward_names": ("right",)})
    options = {"scale": "none", "std_epsilon": 1e-12, "perception": {"kind": "visual_entropy", "weight": 0.25}}
    (ready,) = build_algorithm({"name": "gdpo", **options}).prepare_step([given], [True], world)
    unit = 0.5**0.5  # 0.5 over a deviation of sqrt(0.5), of both parts in the first group and of one in the second
    assert gathered(ready.advantages.tolist())[0] == pytest.approx(
        [1.25 * unit] * 3 + [-1.25 * unit] + [unit] * 2 + [-unit]
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "grpo", "perception": {"kind": "papo", "gamma": 0.0}}, "perception.gamma is 0.0; it must"),
        ({"name": "grpo", "perception": {"kind": "vppo", "share": 1.5}}, "perception.share is 1.5; it must"),
        ({"name": "grpo", "perception": {"kind": "vppo", "least": -1.0}}, "perception.least"),
        ({"name": "grpo", "perception": {"kind": "vpo"}}, "'papo', 'vppo', 'visual_entropy'"),
        ({"name": "grpo", "perception": {"kind": "papo", "share": 0.5}}, "perception.papo.share"),
        ({"name": "gspo", "perception": {"kind": "vppo"}}, "one ratio for all tokens"),
        ({"name": "remax", "perception": {"kind": "visual_entropy"}}, "Set another baseline"),
        ({"name": "gdpo", "part_weights": {"visual_entropy": 2.0}, "perception": {"kind": "visual_entropy"}}, "weight"),
    ],
)  # fmt: skip
def test_values_without_a_meaning_are_refused(options, message):
    with pytest.raises(RecipeError, match=message):
        build_algorithm(options)
