import pytest
import torch

from sightline.algorithms.simpo import SimPO
from sightline.errors import RecipeError
from sightline.types import Scores


def test_margin_of_means_less_the_target(flat_batch, world):
    # Means -1 and -2: 2 (1 - 0.5) = 1, -log σ(1) = 0.3132616875;
    # the slope 2 σ(-1) = 0.5378828427 over two tokens and one.
    logprobs = torch.tensor([-0.5, -1.5, -2.0], requires_grad=True)
    (term,), stats = SimPO().loss(flat_batch([2, 1], [(0, 1)]), Scores(logprobs=logprobs), world)
    term.values.sum().backward()
    assert (term.name, term.unit, term.coefficient) == ("simpo", "pair", 1.0)
    assert term.values.item() == pytest.approx(0.3132616875, abs=1e-6)
    assert logprobs.grad.tolist() == pytest.approx([-0.2689414214] * 2 + [0.5378828427], abs=1e-6)
    assert stats["rewards/margins"].sum.item() == 2.0 and stats["logps/chosen"].sum.item() == -2.0


def test_length_alone_does_not_matter(flat_batch, world):
    short, _ = SimPO().loss(flat_batch([1, 1], [(0, 1)]), Scores(logprobs=torch.tensor([-1.0, -2.0])), world)
    long, _ = SimPO().loss(flat_batch([3, 2], [(0, 1)]), Scores(logprobs=torch.tensor([-1.0] * 3 + [-2.0] * 2)), world)
    assert long[0].values.item() == pytest.approx(short[0].values.item())


def test_label_smoothing_and_the_likelihood_term(flat_batch, world):
    # 0.9 x 0.3132616875 + 0.1 x 1.3132616875
    algorithm = SimPO(label_smoothing=0.1, sft_weight=0.2)
    terms, _ = algorithm.loss(flat_batch([1, 1], [(0, 1)]), Scores(logprobs=torch.tensor([-1.0, -2.0])), world)
    assert terms[0].values.item() == pytest.approx(0.4132616875, abs=1e-6)
    assert (terms[1].name, terms[1].coefficient, terms[1].values.tolist()) == ("sft", 0.2, [1.0])


@pytest.mark.parametrize("options", [{"beta": 0.0}, {"gamma_beta_ratio": -0.1}, {"label_smoothing": 0.5}])
def test_options_that_cannot_be_honoured_are_refused(options):
    with pytest.raises(RecipeError, match=next(iter(options))):
        SimPO(**options)
