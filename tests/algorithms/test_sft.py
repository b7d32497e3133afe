import pytest
import torch

from sightline.algorithms.sft import SFT
from sightline.errors import RecipeError
from sightline.types import Scores

LOGPROBS = torch.tensor([-1.0, -2.0, -4.0])


def test_loss_is_the_negative_log_likelihood_of_each_token(flat_batch, world):
    (term,), stats = SFT().loss(flat_batch([2, 1]), Scores(logprobs=LOGPROBS), world)
    assert (term.unit, term.coefficient, term.values.tolist()) == ("token", 1.0, [1.0, 2.0, 4.0])
    assert stats["nll"].sum.item() == 7.0 and stats["nll"].count == 3


def test_weights_multiply_values_and_leave_the_count(flat_batch, world):
    batch = flat_batch([2, 1], weights=[1.0, 0.0, 0.5])
    (term,), stats = SFT().loss(batch, Scores(logprobs=LOGPROBS), world)
    assert term.values.tolist() == [1.0, 0.0, 2.0] and batch.count(term.unit) == 3
    assert stats["nll"].sum.item() == 7.0


def test_entropy_is_reported_where_that_head_was_asked_for(flat_batch, world):
    scores = Scores(logprobs=LOGPROBS, entropy=torch.tensor([0.5, 1.0, 1.5]))
    _, stats = SFT().loss(flat_batch([2, 1]), scores, world)
    assert stats["entropy"].sum.item() == 3.0 and stats["entropy"].count == 3


def test_comparisons_are_refused_because_the_rejected_answer_would_be_trained(flat_batch, world):
    with pytest.raises(RecipeError, match="responses: chosen"):
        SFT().loss(flat_batch([2, 1], [(0, 1)]), Scores(logprobs=LOGPROBS), world)


def test_chosen_trains_winners_only(flat_batch, world):
    batch = flat_batch([2, 1], [(0, 1)], weights=[1.0, 3.0, 5.0])
    (term,), stats = SFT(responses="chosen").loss(batch, Scores(logprobs=LOGPROBS), world)
    assert term.values.tolist() == [1.0, 6.0] and term.unit == "chosen_token"
    assert batch.count("chosen_token") == 2 and stats["nll"].count == 2


def test_statistics_carry_no_gradient(flat_batch, world):
    _, stats = SFT().loss(flat_batch([2, 1]), Scores(logprobs=LOGPROBS.clone().requires_grad_()), world)
    assert not stats["nll"].sum.requires_grad


def test_answers_labelled_undesirable_are_refused(flat_batch, world):
    batch = flat_batch([1, 2], labels=[1.0, 0.0])
    with pytest.raises(RecipeError, match="1 answers that are labelled undesirable"):
        SFT().loss(batch, Scores(logprobs=torch.zeros(3)), world)
    liked = flat_batch([1, 2], labels=[1.0, 1.0])
    assert SFT().loss(liked, Scores(logprobs=-torch.ones(3)), world)[0][0].values.tolist() == [1.0] * 3
