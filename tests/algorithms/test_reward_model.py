import math
from types import SimpleNamespace

import pytest
import torch

from sightline.algorithms.registry import build_algorithm
from sightline.algorithms.reward_model import RewardModel, ranked_below
from sightline.errors import DataError, RecipeError
from sightline.types import Scores


def run(algorithm, batch, scores, world):
    terms, stats = algorithm.loss(batch, Scores(reward=torch.as_tensor(scores)), world)
    named = {name: stat.sum.item() / stat.count for name, stat in stats.items() if stat.count}
    return {term.name: term for term in terms}, named


def test_bradley_terry_of_known_scores(flat_batch, world):
    # Margins 2 - 0.5 = 1.5 and -1 - 0.5 = -1.5: log(1 + e^-1.5), log(1 + e^1.5).
    batch = flat_batch([1, 1, 1], [(0, 1), (2, 1)], pair_weight=[1.0, 0.5])
    terms, stats = run(RewardModel(), batch, [2.0, 0.5, -1.0], world)
    assert terms["bradley_terry"].unit == "pair"
    assert terms["bradley_terry"].values.tolist() == pytest.approx([0.2014133, 0.5 * 1.7014133], abs=1e-6)
    assert stats == pytest.approx(
        {"accuracy": 0.5, "margin": 0.0, "mean_reward": 0.5, "rewards/chosen": 0.5, "rewards/rejected": 0.5}
    )


def test_margin_comes_from_the_given_rewards(flat_batch, world):
    # 1.5 - 0.5 (4 - 1) = 0; 3 - 0.5 (4 - 4) = 3.
    batch = flat_batch([1, 1, 1], [(0, 1), (0, 2)], rewards=[4.0, 1.0, 4.0])
    algorithm = RewardModel(margin=0.5)
    terms, stats = run(algorithm, batch, [2.0, 0.5, -1.0], world)
    assert terms["bradley_terry"].values.tolist() == pytest.approx([math.log(2), 0.0485874], abs=1e-6)
    assert stats["margin"] == 2.25
    assert algorithm.needs == {"rewards"} and RewardModel().needs == frozenset()


def test_centering_penalises_the_sum_of_a_pair(flat_batch, world):
    batch = flat_batch([1, 1, 1], [(0, 1), (0, 2)], pair_weight=[1.0, 2.0])
    terms, _ = run(RewardModel(center_rewards_coefficient=0.01), batch, [2.0, 0.5, -1.0], world)
    assert terms["centering"].values.tolist() == [6.25, 2.0]
    assert terms["centering"].coefficient == 0.01 and terms["centering"].unit == "pair"


def test_plackett_luce_of_a_ranked_list(flat_batch, world):
    # Scores 1, 2, 0, -1 of responses ranked 1 > 0 > 2 > 3, by the formula of the list loss:
    expected = (
        math.log(sum(map(math.exp, (2, 1, 0, -1))) / math.exp(2))
        + math.log(sum(map(math.exp, (1, 0, -1))) / math.exp(1))
        + math.log(1 + math.exp(-1))
    )
    assert expected == pytest.approx(0.4401897 + 0.4076060 + 0.3132617, abs=1e-6)
    chain, every = [(1, 0), (0, 2), (2, 3)], [(1, 0), (1, 2), (1, 3), (0, 2), (0, 3), (2, 3)]
    for edges in (chain, every):
        terms, stats = run(
            RewardModel(objective="plackett_luce"), flat_batch([1] * 4, edges), [1.0, 2.0, 0.0, -1.0], world
        )
        assert terms["plackett_luce"].unit == "group"
        assert terms["plackett_luce"].values.tolist() == pytest.approx([expected], abs=1e-6)
        assert stats["accuracy"] == 1.0 and stats["margin"] == pytest.approx((1 + 2 + 3 + 1 + 2 + 1) / 6)


def test_plackett_luce_of_two_is_bradley_terry(flat_batch, world):
    batch = flat_batch([1, 1], [(1, 0)], pair_weight=[0.7])
    for scores in ([0.3, 1.1], [2.0, -1.0]):
        listwise, _ = run(RewardModel(objective="plackett_luce"), batch, scores, world)
        pairwise, _ = run(RewardModel(), batch, scores, world)
        assert listwise["plackett_luce"].values.item() == pytest.approx(pairwise["bradley_terry"].values.item())


def test_plackett_luce_makes_no_claim_about_what_is_not_ranked(flat_batch, world):
    # 0 beats 1 and 2, which are not compared: one choice among three. The weights of its edges are 1 and 0.5.
    batch = flat_batch([1] * 3, [(0, 1), (0, 2)], pair_weight=[1.0, 0.5])
    terms, _ = run(RewardModel(objective="plackett_luce"), batch, [0.0, 0.0, 0.0], world)
    assert terms["plackett_luce"].values.item() == pytest.approx(0.75 * math.log(3))


def test_comparisons_in_a_circle_are_refused():
    pairs = torch.tensor([(0, 1), (1, 2), (2, 0), (3, 0)])
    with pytest.raises(DataError, match="3 responses rank below themselves"):
        ranked_below(pairs, 4)
    assert ranked_below(pairs[[0, 1, 3]], 4).int().tolist() == [[0, 1, 1, 0], [0, 0, 1, 0], [0] * 4, [1, 1, 1, 0]]


def test_regression_on_given_scores(flat_batch, world):
    batch = flat_batch([1, 1, 1], rewards=[1.0, 0.0, -2.0])
    terms, stats = run(RewardModel(objective="regression"), batch, [2.0, 0.5, -1.0], world)
    assert terms["regression"].values.tolist() == [1.0, 0.25, 1.0] and terms["regression"].unit == "response"
    assert stats["squared_error"] == 0.75 and "accuracy" not in stats


def test_swapping_a_pair_negates_its_margin(flat_batch, world):
    one, _ = run(RewardModel(), flat_batch([1, 1], [(0, 1)]), [0.8, 0.3], world)
    other, _ = run(RewardModel(), flat_batch([1, 1], [(1, 0)]), [0.3, 0.8], world)
    assert one["bradley_terry"].values.item() == other["bradley_terry"].values.item()


def test_gradients_are_those_of_the_formulas(flat_batch, world):
    # Bradley-Terry: -+σ(-m); Plackett-Luce: probability of each stage minus the choice.
    score = torch.tensor([0.5, -0.5, 0.0], requires_grad=True)
    terms, _ = run(RewardModel(), flat_batch([1] * 3, [(0, 1)]), score, world)
    (grad,) = torch.autograd.grad(terms["bradley_terry"].values.sum(), score)
    assert grad.tolist() == pytest.approx([-0.2689414, 0.2689414, 0.0], abs=1e-6)
    terms, _ = run(RewardModel(objective="plackett_luce"), flat_batch([1] * 3, [(0, 1), (1, 2)]), score, world)
    (grad,) = torch.autograd.grad(terms["plackett_luce"].values.sum(), score)
    first = torch.softmax(score.detach(), 0)
    second = torch.softmax(score.detach()[1:], 0)
    expected = first + torch.cat([torch.zeros(1), second]) - torch.tensor([1.0, 1.0, 0.0])
    assert torch.allclose(grad, expected, atol=1e-6)


def test_a_tie_counts_as_wrong_and_statistics_carry_no_gradient(flat_batch, world):
    scores = Scores(reward=torch.zeros(2, requires_grad=True))
    _, stats = RewardModel().loss(flat_batch([1, 1], [(0, 1)]), scores, world)
    assert stats["accuracy"].sum.item() == 0.0
    assert not any(stat.sum.requires_grad for stat in stats.values())


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"objective": "listwise"}, "objective"),
        ({"margin": -1.0}, "margin"),
        ({"margin": 1.0, "objective": "plackett_luce"}, "plackett_luce has no margin"),
        ({"center_rewards_coefficient": math.nan}, "center_rewards_coefficient"),
        ({"center_rewards_coefficient": 0.1, "objective": "regression"}, "regression"),
    ],
)
def test_options_that_cannot_be_honoured_are_refused(options, word):
    with pytest.raises(RecipeError, match=word):
        build_algorithm({"name": "reward_model", **options})


@pytest.mark.oracle
@pytest.mark.parametrize("margin", [False, True])
def test_loss_and_metrics_equal_those_of_trl(flat_batch, world, margin):
    """TRL's own ``compute_loss`` on the same scores; it lays out all chosen rows, then all rejected ones."""
    trl = pytest.importorskip("trl", reason="trl is not installed (extra: bench)")
    chosen, rejected = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    given = torch.arange(10.0) / 3
    inputs = {"margin": 0.4 * (given[:5] - given[5:])} if margin else {}
    trainer = SimpleNamespace(
        args=SimpleNamespace(center_rewards_coefficient=0.02, use_cache=False),
        accelerator=SimpleNamespace(gather_for_metrics=lambda value: value, gather=lambda value: value),
        model=SimpleNamespace(training=False),
        _metrics={"eval": {name: [] for name in ("min_reward", "mean_reward", "max_reward", "accuracy", "margin")}},
        _total_train_tokens=0,
    )
    logits = torch.cat([chosen, rejected])[:, None]
    theirs = trl.RewardTrainer.compute_loss(trainer, lambda **_: SimpleNamespace(logits=logits), inputs)

    algorithm = RewardModel(margin=0.4 if margin else 0.0, center_rewards_coefficient=0.02)
    pairs = [(row, row + 5) for row in range(5)]
    batch = flat_batch([1] * 10, pairs, rewards=given.tolist())
    terms, stats = run(algorithm, batch, torch.cat([chosen, rejected]), world)
    ours = sum(term.coefficient * term.values.sum() / batch.count(term.unit) for term in terms.values())
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)
    for name in ("accuracy", "margin", "mean_reward"):
        assert stats[name] == pytest.approx(trainer._metrics["eval"][name][0], abs=1e-6)


@pytest.mark.parametrize("objective", ["bradley_terry", "plackett_luce", "regression"])
def test_answers_to_other_questions_are_no_worse_answers(flat_batch, world, objective):
    batch = flat_batch([1, 1], [(0, 1)], pair_kind=["mismatched"], rewards=[1.0, 0.0])
    with pytest.raises(RecipeError, match="reward_model was given mismatched answers, which only kto can read"):
        run(RewardModel(objective=objective), batch, [2.0, 0.5], world)


@pytest.mark.parametrize("objective", ["bradley_terry", "plackett_luce"])
def test_large_scores_neither_overflow_nor_underflow(flat_batch, world, objective):
    """In order nothing is lost; in reverse the gaps are: 190, 1095 and 905 of the pairs, 1095 and 905 of the list."""
    batch = flat_batch([1, 1, 1], [(0, 1), (0, 2), (1, 2)])
    for values, expected in (([1000.0, 95.0, -95.0], 0.0), ([-95.0, 95.0, 1000.0], None)):
        score = torch.tensor(values, requires_grad=True)
        (term,), _ = RewardModel(objective=objective).loss(batch, Scores(reward=score), world)
        term.values.sum().backward()
        by_pair, by_list = 190 + 1095 + 905, 1095 + 905
        wrong = by_pair if objective == "bradley_terry" else by_list
        assert term.values.sum().item() == pytest.approx(wrong if expected is None else expected, abs=1e-3)
        assert score.grad.isfinite().all()
