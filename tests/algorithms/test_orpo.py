import math

import pytest
import torch

from sightline.algorithms.orpo import ORPO
from sightline.errors import RecipeError
from sightline.types import Scores


def test_odds_of_known_probabilities(flat_batch, world):
    # Mean log-probabilities log 0.5 and log 0.2: odds 1 and 1/4, so σ(log 4) = 0.8 and the loss is -log 0.8.
    batch = flat_batch([2, 1], [(0, 1)])
    logprobs = [math.log(0.5)] * 2 + [math.log(0.2)]
    terms, stats = ORPO(beta=0.3, sft_weight=0.7).loss(batch, Scores(logprobs=torch.tensor(logprobs)), world)
    odds, nll = terms
    assert (odds.name, odds.unit, odds.coefficient) == ("orpo", "pair", 0.3)
    assert odds.values.item() == pytest.approx(0.22314355, abs=1e-6)
    assert (nll.name, nll.unit, nll.coefficient) == ("sft", "chosen_token", 0.7)
    assert nll.values.tolist() == pytest.approx([math.log(2)] * 2)
    means = {name: (stat.sum / stat.count).item() for name, stat in stats.items() if stat.count}
    assert means["log_odds_chosen"] == pytest.approx(math.log(4), abs=1e-6)
    assert means["log_odds_ratio"] == pytest.approx(math.log(0.8), abs=1e-6)
    assert means["nll_loss"] == pytest.approx(math.log(2))
    assert means["rewards/margins"] == pytest.approx(0.3 * math.log(2.5))
    assert means["logps/chosen"] == pytest.approx(math.log(0.5))  # per token, as TRL's ORPO logs it


def test_gradient_of_the_odds_ratio(flat_batch, world):
    # d(-log σ(r))/dr = -σ(-r) = -0.2; d log odds / d logp = 1 / (1 - P) = 2 and 1.25; two tokens share the winner's.
    logprobs = torch.tensor([math.log(0.5)] * 2 + [math.log(0.2)], requires_grad=True)
    (term,), _ = ORPO(sft_weight=0.0).loss(flat_batch([2, 1], [(0, 1)]), Scores(logprobs=logprobs), world)
    term.values.sum().backward()
    assert logprobs.grad.tolist() == pytest.approx([-0.2, -0.2, 0.25], abs=1e-6)


def test_a_certain_answer_has_finite_odds_and_gradients(flat_batch, world):
    logprobs = torch.tensor([0.0, -1e-9, -60.0, -1e-7], requires_grad=True)
    batch = flat_batch([1] * 4, [(0, 1), (0, 2), (2, 1), (3, 2)])
    terms, _ = ORPO().loss(batch, Scores(logprobs=logprobs), world)
    sum(term.values.sum() for term in terms).backward()
    assert terms[0].values.isfinite().all() and logprobs.grad.isfinite().all()
    # the odds of 1 - ε, log(1/ε) = 15.94, against e^-60: the loser of pair 3 is certain
    assert terms[0].values[2].item() == pytest.approx(60 + 15.9424, abs=1e-3)


def test_half_precision_log_probabilities_are_taken_to_float32(flat_batch, world):
    terms, _ = ORPO().loss(
        flat_batch([1, 1], [(0, 1)]), Scores(logprobs=torch.tensor([-0.01, -0.02]).bfloat16()), world
    )
    assert terms[0].values.dtype == torch.float32


def test_weights_of_edges_multiply_their_loss(flat_batch, world):
    batch = flat_batch([1, 1], [(0, 1)], pair_weight=[0.5])
    terms, _ = ORPO().loss(batch, Scores(logprobs=torch.tensor([math.log(0.5), math.log(0.2)])), world)
    assert terms[0].values.item() == pytest.approx(0.5 * 0.22314355, abs=1e-6)


@pytest.mark.parametrize("options", [{"beta": -1.0}, {"sft_weight": -0.1}, {"beta": 0.0, "sft_weight": 0.0}])
def test_options_that_cannot_be_honoured_are_refused(options):
    with pytest.raises(RecipeError, match="algorithm"):
        ORPO(**options)
    assert ORPO().needs == frozenset()
