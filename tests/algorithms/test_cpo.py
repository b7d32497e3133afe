import pytest
import torch

from sightline.algorithms.cpo import CPO
from sightline.errors import RecipeError
from sightline.types import Scores


def test_scores_are_summed_log_likelihoods(flat_batch, world):
    # Sums -3 and -8: margin 5, beta 0.1.
    logprobs = torch.tensor([-1.0, -2.0, -8.0], requires_grad=True)
    (term, nll), stats = CPO(sft_weight=0.5).loss(flat_batch([2, 1], [(0, 1)]), Scores(logprobs=logprobs), world)
    term.values.sum().backward()
    assert term.values.item() == pytest.approx(0.4740769842, abs=1e-6)
    assert logprobs.grad.tolist() == pytest.approx([-0.03775406688] * 2 + [0.03775406688], abs=1e-7)
    assert (nll.unit, nll.coefficient, nll.values.tolist()) == ("chosen_token", 0.5, [1.0, 2.0])
    assert stats["nll_loss"].sum.item() == 3.0 and stats["nll_loss"].count == 2


def test_ipo_takes_means(flat_batch, world):
    # Means -1.5 and -8: (6.5 - 5)^2
    logprobs = torch.tensor([-1.0, -2.0, -8.0])
    terms, _ = CPO(link="ipo", sft_weight=0).loss(flat_batch([2, 1], [(0, 1)]), Scores(logprobs=logprobs), world)
    assert [term.name for term in terms] == ["cpo"] and terms[0].values.item() == pytest.approx(2.25)


@pytest.mark.parametrize(
    ("options", "word"),
    [({"link": "bco_pair"}, "bco_pair"), ({"link": "hinge", "label_smoothing": 0.1}, "hinge"), ({"beta": 0}, "beta")],
)
def test_options_that_cannot_be_honoured_are_refused(options, word):
    with pytest.raises(RecipeError, match=word):
        CPO(**options)
