"""Presets and choices of the policy gradient against numbers: two groups of answers, their log-probabilities moved."""

from math import exp, log
from pathlib import Path

import pytest
import torch

from sightline.algorithms.mismatch import MISMATCHES
from sightline.algorithms.policy_gradient import PolicyGradient
from sightline.algorithms.presets import PRESETS, presets_table
from sightline.algorithms.registry import build_algorithm
from sightline.errors import DataError, RecipeError
from sightline.types import Scores

LENGTHS = (2, 1, 1, 2)
"""Tokens of four answers: two of each group."""
REWARDS = (1.0, 0.0, 3.0, 1.0)
GROUP = (0, 0, 1, 1)
OLD = (-1.0, -2.0, -1.5, -0.5, -1.0, -1.0)
MOVED = (log(1.5), log(0.9), log(0.5), log(1.1), log(1.25), log(0.7))
"""Log-ratio of each token; the answers' are (ln 1.5 + ln 0.9) / 2, ln 0.5, ln 1.1 and (ln 1.25 + ln 0.7) / 2."""
SCALED = 0.5 / (0.5**0.5 + 1e-4)
"""Advantage of the better answer of the first group: deviation sqrt(((0.5)² + (0.5)²) / 1)."""
SCALED_2 = 1.0 / (2**0.5 + 1e-4)
HIGH = {"advantages": [SCALED, SCALED, -SCALED, SCALED_2, -SCALED_2, -SCALED_2]}
PLAIN = [name for name in PRESETS if build_algorithm({"name": name}).masked == "no"]
"""Those that read no answer under a masked picture (test_perception.py)."""


def batch_of(flat_batch, **columns):
    made = flat_batch(LENGTHS, **({"rewards": REWARDS, "old_logprobs": OLD} | columns))
    return made.__class__(**{**vars(made), "group": torch.tensor(GROUP), "num_groups": 2})


def policy_loss(algorithm, batch, world, moved=MOVED, term="policy"):
    """The term as the loop would make it, and its gradient at the tokens."""
    old = torch.tensor(OLD)
    logprobs = (old + torch.tensor(moved)).requires_grad_()
    (ready,) = algorithm.prepare_step([batch], [True], world)
    terms, stats = algorithm.loss(ready, Scores(logprobs=logprobs), world)
    one = next(t for t in terms if t.name == term)
    loss = one.values.sum() / ready.count(one.unit)
    loss.backward()
    return loss.item(), logprobs.grad.tolist(), stats


def clipped(ratio, advantage, low=0.2, high=0.2):
    return -min(ratio * advantage, min(max(ratio, 1 - low), 1 + high) * advantage)


def test_grpo(flat_batch, world):
    loss, slope, stats = policy_loss(build_algorithm({"name": "grpo"}), batch_of(flat_batch), world)
    tokens = [
        clipped(1.5, SCALED), clipped(0.9, SCALED), clipped(0.5, -SCALED), clipped(1.1, SCALED_2),
        clipped(1.25, -SCALED_2), clipped(0.7, -SCALED_2),
    ]  # fmt: skip
    assert loss == pytest.approx(
        ((tokens[0] + tokens[1]) / 2 + tokens[2] + tokens[3] + (tokens[4] + tokens[5]) / 2) / 4
    )
    # 1.5, 0.5 and 0.7 are beyond their bounds: no gradient there
    expected = [0, -0.9 * SCALED / 8, 0, -1.1 * SCALED_2 / 4, 1.25 * SCALED_2 / 8, 0]
    assert slope == pytest.approx(expected)
    assert float(stats["clip_ratio/high_mean"].sum) == 1 and float(stats["clip_ratio/low_mean"].sum) == 2
    assert stats["clip_ratio/region_mean"].count == 6
    assert float(stats["clip_ratio/high_max"].sum) == 0.5  # of the first answer's two tokens


def test_dr_grpo_divides_by_a_constant_and_not_by_a_deviation(flat_batch, world):
    loss, _, _ = policy_loss(build_algorithm({"name": "dr_grpo", "length": 10}), batch_of(flat_batch), world)
    tokens = [
        clipped(1.5, 0.5),
        clipped(0.9, 0.5),
        clipped(0.5, -0.5),
        clipped(1.1, 1),
        clipped(1.25, -1),
        clipped(0.7, -1),
    ]
    assert loss == pytest.approx(sum(tokens) / 10 / 4)
    assert build_algorithm({"name": "dr_grpo"}).for_answers(64, {}).length == 64
    assert build_algorithm({"name": "dr_grpo", "length": 10}).for_answers(64, {}).length == 10
    with pytest.raises(RecipeError, match="length is not set"):
        policy_loss(build_algorithm({"name": "dr_grpo"}), batch_of(flat_batch), world)


def test_dapo_clips_higher_and_averages_over_tokens(flat_batch, world):
    loss, _, _ = policy_loss(build_algorithm({"name": "dapo"}), batch_of(flat_batch), world)
    ratios = (1.5, 0.9, 0.5, 1.1, 1.25, 0.7)
    tokens = [clipped(r, a, high=0.28) for r, a in zip(ratios, HIGH["advantages"], strict=True)]
    assert loss == pytest.approx(sum(tokens) / 6)
    other, _, _ = policy_loss(build_algorithm({"name": "bnpo"}), batch_of(flat_batch), world)
    assert other - loss == pytest.approx((1.28 - 1.2) * SCALED / 6, rel=1e-4)


def test_gspo_and_its_token_form(flat_batch, world):
    """Wide bounds: the ratio is the geometric mean; its gradient is spread over the answer, or the token's own."""
    first, last = (1.5 * 0.9) ** 0.5, (1.25 * 0.7) ** 0.5
    wide = {"epsilon": 0.6, "epsilon_high": 0.6}
    loss, slope, stats = policy_loss(build_algorithm({"name": "gspo", **wide}), batch_of(flat_batch), world)
    assert loss == pytest.approx(-(first * SCALED - 0.5 * SCALED + 1.1 * SCALED_2 - last * SCALED_2) / 4)
    assert slope[:2] == pytest.approx([-first * SCALED / 8] * 2)
    assert stats["clip_ratio/low_mean"].count == 4  # answers, not tokens
    loss_t, slope_t, _ = policy_loss(build_algorithm({"name": "gspo_token", **wide}), batch_of(flat_batch), world)
    assert loss_t == pytest.approx(loss) and slope_t == pytest.approx(slope)
    tight, none, _ = policy_loss(build_algorithm({"name": "gspo"}), batch_of(flat_batch), world)
    assert none[:3] == [0, 0, 0] and tight == pytest.approx(
        -(1.0004 * SCALED - 0.9997 * SCALED + 1.0004 * SCALED_2 - 0.9997 * SCALED_2) / 4, abs=1e-6
    )


def test_luspo_counts_an_answer_by_its_length(flat_batch, world):
    wide = {"epsilon": 0.6, "epsilon_high": 0.6}
    loss, _, _ = policy_loss(build_algorithm({"name": "luspo", **wide}), batch_of(flat_batch), world)
    first, last = (1.5 * 0.9) ** 0.5, (1.25 * 0.7) ** 0.5
    assert loss == pytest.approx(-(2 * first * SCALED - 0.5 * SCALED + 1.1 * SCALED_2 - 2 * last * SCALED_2) / 4)


def test_gmpo_clips_log_ratios_before_their_mean(flat_batch, world):
    loss, slope, stats = policy_loss(build_algorithm({"name": "gmpo"}), batch_of(flat_batch), world)
    first = exp((0.4 + log(0.9)) / 2)  # ln 1.5 = 0.405 is beyond 0.4, ln 0.5 beyond -0.4
    last = exp((log(1.25) + log(0.7)) / 2)
    assert loss == pytest.approx(-(first * SCALED - exp(-0.4) * SCALED + 1.1 * SCALED_2 - last * SCALED_2) / 4)
    assert slope[0] == 0 and slope[1] == pytest.approx(-first * SCALED / 8) and slope[2] == 0
    assert float(stats["clip_ratio/high_mean"].sum) == 1 and float(stats["clip_ratio/low_mean"].sum) == 1


def test_cispo_keeps_every_token_and_caps_its_weight(flat_batch, world):
    loss, slope, stats = policy_loss(build_algorithm({"name": "cispo", "cap": 1.2}), batch_of(flat_batch), world)
    weights = [1.2, 0.9, 0.5, 1.1, 1.2, 0.7]
    assert slope == pytest.approx([-w * a / 6 for w, a in zip(weights, HIGH["advantages"], strict=True)])
    logprobs = [o + m for o, m in zip(OLD, MOVED, strict=True)]
    assert loss == pytest.approx(sum(s * p for s, p in zip(slope, logprobs, strict=True)), rel=1e-5)
    assert float(stats["cispo_clip_ratio"].sum) == 1  # 1.5 with a positive advantage; 1.25 has a negative one


def test_sapo(flat_batch, world):
    _, slope, _ = policy_loss(build_algorithm({"name": "sapo"}), batch_of(flat_batch), world)

    def gate(ratio, tau):
        sigmoid = 1 / (1 + exp(-tau * (ratio - 1)))
        return 4 * sigmoid * (1 - sigmoid) * ratio  # d/dlogp of 4/τ σ(τ(r-1))

    assert slope[0] == pytest.approx(-gate(1.5, 1.0) * SCALED / 8)
    assert slope[2] == pytest.approx(gate(0.5, 1.05) * SCALED / 4)


def test_rloo_takes_kl_off_the_reward_and_the_others_as_baseline(flat_batch, world):
    reference = [o - d for o, d in zip(OLD, (0.2, 0.1, 0.4, -0.3, 0.0, 0.5), strict=True)]
    batch = batch_of(flat_batch, ref_logprobs=reference)
    algorithm = build_algorithm({"name": "rloo", "beta": 0.5})
    (ready,) = algorithm.prepare_step([batch], [True], world)
    net = [1 - 0.5 * 0.3, 0 - 0.5 * 0.4, 3 + 0.5 * 0.3, 1 - 0.5 * 0.5]
    expected = [net[0] - net[1], net[0] - net[1], net[1] - net[0], net[2] - net[3], net[3] - net[2], net[3] - net[2]]
    assert ready.advantages.tolist() == pytest.approx(expected)
    loss, _, stats = policy_loss(algorithm, batch, world)
    whole = [1.5 * 0.9, 0.5, 1.1, 1.25 * 0.7]
    advantages = (expected[0], expected[2], expected[3], expected[4])
    assert loss == pytest.approx(sum(clipped(r, a) for r, a in zip(whole, advantages, strict=True)) / 4)
    assert float(stats["kl"].sum) == pytest.approx(0.9)


def test_reinforce_pp_charges_a_token_with_what_follows_and_whitens_over_tokens(flat_batch, world):
    distance = (0.2, 0.1, 0.4, -0.3, 0.0, 0.5)
    batch = batch_of(flat_batch, ref_logprobs=[o - d for o, d in zip(OLD, distance, strict=True)])
    (ready,) = build_algorithm({"name": "reinforce_pp", "beta": 1.0}).prepare_step([batch], [True], world)
    raw = torch.tensor([1 - 0.3, 1 - 0.1, 0 - 0.4, 3 + 0.3, 1 - 0.5, 1 - 0.5])
    torch.testing.assert_close(ready.advantages, (raw - raw.mean()) / raw.std(unbiased=False))
    base = build_algorithm({"name": "reinforce_pp_baseline"})
    (ready,) = base.prepare_step([batch], [True], world)
    raw = torch.tensor([0.5, 0.5, -0.5, 1.0, -1.0, -1.0])
    torch.testing.assert_close(ready.advantages, (raw - raw.mean()) / raw.std(unbiased=False))
    loss, _, _ = policy_loss(base, batch, world, term="kl")
    moved = [d + m for d, m in zip(distance, MOVED, strict=True)]
    assert loss == pytest.approx(sum(d * d / 2 for d in moved) / 6)


def advantages_of(flat_batch, world, **columns):
    options = columns.pop("options")
    (ready,) = build_algorithm(options).prepare_step([batch_of(flat_batch, **columns)], [True], world)
    return ready.advantages.tolist()


def test_other_advantages(flat_batch, world):
    def found(**options):
        return advantages_of(flat_batch, world, options=options)

    opo = [1 - 2 / 3, 1 - 2 / 3, -2 / 3, 3 - 5 / 3, 1 - 5 / 3, 1 - 5 / 3]  # (2·1 + 1·0) / 3 and (1·3 + 2·1) / 3
    assert found(name="opo") == pytest.approx(opo)
    assert found(name="max_rl") == pytest.approx([1, 1, -1, 0.5, -0.5, -0.5], rel=1e-5)
    deviation = torch.tensor(REWARDS).std().item() + 1e-4
    batch = [0.5 / deviation, 0.5 / deviation, -0.5 / deviation, 1 / deviation, -1 / deviation, -1 / deviation]
    assert found(name="grpo", scale="batch") == pytest.approx(batch)
    whitened = torch.tensor([0.5, -0.5, 1.0, -1.0])
    whitened = (whitened / (whitened.std() + 1e-4))[[0, 0, 1, 2, 3, 3]].tolist()
    assert found(name="grpo", scale="whiten") == pytest.approx(whitened, rel=1e-5)
    assert found(name="grpo", std="population", std_epsilon=0)[0] == pytest.approx(1.0)
    remax = advantages_of(flat_batch, world, options={"name": "remax"}, values=[0.25, 0.25, 0.25, 2.0, 2.0, 2.0])
    assert remax == pytest.approx([0.75, 0.75, -0.25, 1, -1, -1])


def test_golden_vector_of_a_group_of_seven(flat_batch, world):
    """Published figures: population deviation, 1e-6 beside it."""
    rewards = (10.0, 9.0, 7.0, 7.0, 5.0, 3.0, 2.0)
    algorithm = PolicyGradient(std="population", std_epsilon=1e-6)
    (ready,) = algorithm.prepare_step([flat_batch([1] * 7, rewards=rewards)], [True], world)
    expected = [1.4037, 1.0398, 0.3119, 0.3119, -0.4159, -1.1437, -1.5076]
    assert ready.advantages.tolist() == pytest.approx(expected, abs=5e-5)


def test_gdpo_standardises_each_part_by_itself(flat_batch, world):
    parts = [[0.0, 10.0], [1.0, 10.0], [5.0, 0.0], [1.0, 4.0]]
    batch = batch_of(flat_batch, reward_parts=parts)
    batch = batch.__class__(**{**vars(batch), "reward_names": ("a", "b")})
    (ready,) = build_algorithm({"name": "gdpo", "part_weights": {"b": 2.0}}).prepare_step([batch], [True], world)
    unit = 0.5 / (0.5**0.5 + 1e-4)
    wide = [2 / (8**0.5 + 1e-4)] * 2
    sums = torch.tensor([-unit, unit, wide[0] - 2 * wide[1], -wide[0] + 2 * wide[1]])
    expected = ((sums - sums.mean()) / (sums.std() + 1e-4))[[0, 0, 1, 2, 3, 3]]
    torch.testing.assert_close(ready.advantages, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(DataError, match="names 'c', and the reward has a, b"):
        build_algorithm({"name": "gdpo", "part_weights": {"c": 1.0}}).prepare_step([batch], [True], world)
    # a term that judges other prompts alone is no part of this batch
    weights = {"a": 1.0, "b": 2.0, "elsewhere": 3.0}
    (same,) = build_algorithm({"name": "gdpo"}).for_answers(9, weights).prepare_step([batch], [True], world)
    assert torch.equal(same.advantages, ready.advantages)
    own = build_algorithm({"name": "gdpo", "part_weights": {"b": 5.0}}).for_answers(9, weights)
    assert own.part_weights == weights | {"b": 5.0}
    some = batch.with_columns(reward_parts=torch.tensor([[0.0, float("nan")], *parts[1:]]))
    with pytest.raises(DataError, match="some have the part 'b'"):
        build_algorithm({"name": "gdpo"}).prepare_step([some], [True], world)


def test_kl_in_the_loss(flat_batch, world):
    distance = (0.2, 0.1, 0.4, -0.3, 0.0, 0.5)
    batch = batch_of(flat_batch, ref_logprobs=[o - d for o, d in zip(OLD, distance, strict=True)])
    moved = [d + m for d, m in zip(distance, MOVED, strict=True)]
    estimates = [exp(-d) - 1 + d for d in moved]
    per_answer = (
        (estimates[0] + estimates[1]) / 2 + estimates[2] + estimates[3] + (estimates[4] + estimates[5]) / 2
    ) / 4
    loss, _, stats = policy_loss(build_algorithm({"name": "grpo", "beta": 0.1}), batch, world, term="kl")
    assert loss == pytest.approx(per_answer) and float(stats["kl"].sum) / 6 == pytest.approx(sum(estimates) / 6)
    by_ratio = build_algorithm({"name": "dapo", "beta": 0.1, "kl": "k1", "kl_by_ratio": True})
    loss, _, _ = policy_loss(by_ratio, batch, world, term="kl")
    assert loss == pytest.approx(sum(d * exp(m) for d, m in zip(moved, MOVED, strict=True)) / 6)


def test_mismatch_weighs_the_policy_term_alone(flat_batch, world):
    """IcePop: the second token's ratio of 0.4 is outside, and its gradient is gone; the rest is weighed."""
    gap = (log(1.5), log(0.4), 0.0, log(2.0), 0.0, log(6.0))
    columns = {"rollout_logprobs": [o - g for o, g in zip(OLD, gap, strict=True)], "ref_logprobs": OLD}
    options = {"name": "cispo", "beta": 0.1, "mismatch": "icepop"}
    _, slope, stats = policy_loss(build_algorithm(options), batch_of(flat_batch, **columns), world)
    weights = [1.5 * 1.5, 0, 0.5, 1.1 * 2, 1.25, 0]
    assert slope == pytest.approx([-w * a / 6 for w, a in zip(weights, HIGH["advantages"], strict=True)])
    assert float(stats["sampling/outside"].sum) == 2
    assert float(stats["sampling/importance_sampling_ratio/max"].sum) == pytest.approx(6.0)
    assert float(stats["sampling/sampling_logp_difference/max"].sum) == pytest.approx(log(6.0))
    plain, _, _ = policy_loss(
        build_algorithm({"name": "cispo", "beta": 0.1}), batch_of(flat_batch, **columns), world, term="kl"
    )
    own, _, _ = policy_loss(build_algorithm(options), batch_of(flat_batch, **columns), world, term="kl")
    assert own == plain
    assert build_algorithm(options).needs >= {"old_logprobs", "rollout_logprobs"}
    own_bounds = {"level": "sequence", "action": "truncate", "high": 1.0}
    assert build_algorithm({"name": "grpo", "mismatch": own_bounds}).mismatch.high == 1.0


@pytest.mark.parametrize("name", PLAIN)
def test_equal_rewards_and_answers_alone_have_no_gradient(flat_batch, world, name):
    """Where the advantage is made from the group; whatever else is trained has its own term."""
    options = {"dr_grpo": {"length": 8}, "rloo": {"kl": "k3", "kl_in": "loss"}}.get(name, {})
    algorithm = build_algorithm({"name": name, "beta": 0.0, **options})
    columns = {"values": [1.0] * 6, "reward_parts": [[2.0]] * 4, "rewards": [1.0] * 4}
    for group, size in ((GROUP, 2), ((0, 1, 2, 3), 4)):
        batch = batch_of(flat_batch, **columns)
        batch = batch.__class__(
            **{**vars(batch), "reward_names": ("a",), "group": torch.tensor(group), "num_groups": size}
        )
        (ready,) = algorithm.prepare_step([batch], [True], world)
        assert ready.advantages.tolist() == [0] * 6
        _, slope, _ = policy_loss(algorithm, batch, world)
        assert slope == [0] * 6


@pytest.mark.parametrize("name", PLAIN)
def test_answers_without_trained_tokens_count_in_the_group_alone(flat_batch, world, name):
    """A masked answer between two others: its reward is in the mean, it has no value and no gradient."""
    options = {"name": name, "length": 8} if name == "dr_grpo" else {"name": name}
    columns = {"values": [0.5] * 2, "reward_parts": [[1.0], [0.0], [5.0]], "ref_logprobs": [-1.0, -2.0]}
    made = flat_batch(
        (1, 0, 1), rewards=(1.0, 0.0, 5.0), old_logprobs=(-1.0, -2.0), rollout_logprobs=(-1.0, -2.0), **columns
    )
    made = made.__class__(**{**vars(made), "reward_names": ("a",)})
    algorithm = build_algorithm(options)
    (ready,) = algorithm.prepare_step([made], [True], world)
    leaf = torch.tensor([-1.0, -2.0], requires_grad=True)
    terms, stats = algorithm.loss(ready, Scores(logprobs=leaf), world)
    torch.stack([t.values.sum() for t in terms]).sum().backward()
    assert leaf.grad.isfinite().all() and all(stat.sum.isfinite() for stat in stats.values())
    if name == "grpo":
        assert ready.advantages.tolist() == pytest.approx([-1 / (7**0.5 + 1e-4), 3 / (7**0.5 + 1e-4)])
        assert leaf.grad.tolist() == pytest.approx([1 / (7**0.5 + 1e-4), -3 / (7**0.5 + 1e-4)])
        assert ready.count("response") == 3


@pytest.mark.parametrize("scale", ["batch", "whiten", "whiten_tokens"])
def test_statistics_of_the_batch_do_not_depend_on_ranks_and_micro_batches(flat_batch, world, two_ranks, scale):
    algorithm = PolicyGradient(scale=scale)
    parts = [
        flat_batch((2, 1), rewards=(1.0, 0.0)),
        flat_batch((1, 2), rewards=(3.0, 1.0)),
        flat_batch((3,), rewards=(7.0,)),
    ]
    expected = [batch.advantages for batch in algorithm.prepare_step(parts, [True] * 3, world)]

    def work(one):
        mine = parts[:1] if one.rank == 0 else [parts[2], parts[1], parts[0]]
        counted = [True] if one.rank == 0 else [True, True, False]  # the last is company
        return [batch.advantages for batch in algorithm.prepare_step(mine, counted, one)]

    first, second = two_ranks.run(work)
    for own, right in zip((first[0], second[1], second[0]), expected, strict=True):
        torch.testing.assert_close(own, right)


def test_on_the_first_step_of_a_round_the_ratio_is_one_whatever_was_computed_before(flat_batch, world):
    batch = batch_of(flat_batch, old_logprobs=[0.0] * 6)
    batch = batch.__class__(**{**vars(batch), "on_policy": True})
    _, slope, stats = policy_loss(build_algorithm({"name": "dapo"}), batch, world)
    assert slope == pytest.approx([-a / 6 for a in HIGH["advantages"]])
    assert float(stats["clip_ratio/region_mean"].sum) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"baseline": "best"}, "'group', 'leave_one_out'"),
        ({"baseline": "none"}, "scale is group and algorithm.baseline none"),
        ({"baseline": "greedy", "scale": "whiten"}, "baseline is greedy"),
        ({"per_part": True}, "per_part standardises each part"),
        ({"part_weights": {"a": 2.0}}, "read with per_part alone"),
        ({"ratio": "geometric", "objective": "soft"}, "no objective soft"),
        ({"delta": 3.0, "objective": "soft"}, "delta is read by objective: clip"),
        ({"delta": 0.5}, "delta is 0.5; it must be above 1"),
        ({"length": 5}, "normaliser: constant alone"),
        ({"beta": 0.1, "kl": "k1"}, "its gradient is 0 on average"),
        ({"kl_by_ratio": True}, "there is none"),
        ({"mismatch": "tiss"}, "choose one of tis, mis"),
        ({"mismatch": {"low": 2.0, "high": 1.0}}, "must be above 2"),
        ({"mismatch": {"lowest": 2.0}}, "lowest"),
        ({"epsilon": -0.1}, "must be 0 or more"),
        ({"objective": "detached", "epsilon_high": 5.0}, "epsilon_high is 5.0"),
        ({"cap": 3.0}, "cap is 3.0"),
        ({"temperature_negative": 3.0}, "objective: soft"),
        ({"scale": "none", "std": "population"}, "std is population"),
    ],
)
def test_choices_that_mean_nothing_are_refused(options, message):
    with pytest.raises(RecipeError, match=message):
        build_algorithm({"name": "grpo", **options})


def test_rewards_that_have_no_relative_size(flat_batch, world):
    batch = batch_of(flat_batch, rewards=(1.0, -2.0, 0.0, 0.0))
    with pytest.raises(DataError, match="reward -2, and scale: mean"):
        build_algorithm({"name": "max_rl"}).prepare_step([batch], [True], world)


def test_presets_can_be_changed_field_by_field():
    made = build_algorithm({"name": "gspo", "beta": 0.1, "epsilon": 1e-3})
    assert (made.ratio, made.epsilon, made.epsilon_high, made.beta) == ("sequence", 1e-3, 4e-4, 0.1)
    assert made.needs == {"rewards", "ref_logprobs"}


def test_the_page_lists_the_presets_as_they_are():
    page = (Path(__file__).parents[2] / "docs" / "algorithms" / "policy_gradient.md").read_text(encoding="utf-8")
    written = page.split("presets -->\n")[1].split("<!-- end")[0]
    assert written == presets_table(), "run python -m sightline.algorithms.presets"
    assert all(name in page for name in MISMATCHES)
