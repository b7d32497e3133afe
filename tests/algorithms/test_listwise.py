import math

import pytest
import torch

from sightline.algorithms.dpo import DPO
from sightline.algorithms.listwise import ListwiseDPO
from sightline.errors import DataError, RecipeError
from sightline.types import Scores

RANKED = [(0, 1), (0, 2), (1, 2)]  # 0 over 1 over 2


def loss_of(algorithm, batch, logprobs, world):
    (term, *_), stats = algorithm.loss(batch, Scores(logprobs=torch.as_tensor(logprobs)), world)
    assert (term.name, term.unit) == ("dpo_listwise", "group")
    return term.values, stats


def test_likelihood_of_an_order(flat_batch, world):
    # Scores log 3, log 2, 0 (beta 1): p = 3/6 x 2/3 = 1/3. Gradients: softmax among those left, less 1.
    batch = flat_batch([1, 1, 1], RANKED, ref_logprobs=[0.0] * 3)
    logprobs = torch.tensor([math.log(3), math.log(2), 0.0], requires_grad=True)
    values, stats = loss_of(ListwiseDPO(beta=1.0), batch, logprobs, world)
    values.sum().backward()
    assert values.tolist() == pytest.approx([math.log(3)], abs=1e-6)
    assert logprobs.grad.tolist() == pytest.approx([3 / 6 - 1, 2 / 6 + 2 / 3 - 1, 1 / 6 + 1 / 3], abs=1e-6)
    assert stats["rewards/accuracies"].sum.item() == 3.0


def test_one_pair_is_dpo(flat_batch, world):
    batch = flat_batch([2, 1], [(1, 0)], ref_logprobs=[-9.0] * 3)
    logprobs = torch.tensor([-8.0, -10.0, -4.0])
    (dpo,), _ = DPO().loss(batch, Scores(logprobs=logprobs), world)
    assert loss_of(ListwiseDPO(), batch, logprobs, world)[0].tolist() == pytest.approx(dpo.values.tolist())


def test_ties_do_not_compete(flat_batch, world):
    # 0 beats 1 and 2, which are equal: p = 3/6
    batch = flat_batch([1, 1, 1], [(0, 1), (0, 2)], ref_logprobs=[0.0] * 3)
    values, _ = loss_of(ListwiseDPO(beta=1.0), batch, [math.log(3), math.log(2), 0.0], world)
    assert values.tolist() == pytest.approx([math.log(2)], abs=1e-6)


def test_start_values_of_the_stabilised_form(flat_batch, world):
    # Published for c = 0.01: 0.708 for two candidates, 3.199 for four (without it log 2 and log 24).
    for count, stabilised in ((2, 0.708), (4, 3.199)):
        pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
        batch = flat_batch([1] * count, pairs, ref_logprobs=[0.0] * count)
        values, _ = loss_of(ListwiseDPO(stabiliser=0.01), batch, [0.0] * count, world)
        assert values.item() == pytest.approx(stabilised, abs=5e-4)
        values, _ = loss_of(ListwiseDPO(), batch, [0.0] * count, world)
        assert values.item() == pytest.approx(math.log(math.factorial(count)), abs=1e-6)


def test_label_smoothing_adds_the_likelihood_of_any_other_order(flat_batch, world):
    # p = 1/3: 0.9 log 3 + 0.1 log 1.5
    batch = flat_batch([1, 1, 1], RANKED, ref_logprobs=[0.0] * 3)
    algorithm = ListwiseDPO(beta=1.0, label_smoothing=0.1)
    values, _ = loss_of(algorithm, batch, [math.log(3), math.log(2), 0.0], world)
    assert values.item() == pytest.approx(0.9 * math.log(3) + 0.1 * math.log(1.5), abs=1e-6)


def test_large_scores_neither_overflow_nor_underflow(flat_batch, world):
    batch = flat_batch([1, 1, 1], RANKED, ref_logprobs=[0.0] * 3)
    logprobs = torch.tensor([-2000.0, 0.0, 2000.0], requires_grad=True)
    values, _ = loss_of(ListwiseDPO(beta=1.0), batch, logprobs, world)
    values.sum().backward()
    assert values.item() == pytest.approx(6000.0) and logprobs.grad.tolist() == pytest.approx([-1.0, -1.0, 2.0])


def test_weights_of_edges_and_bad_options_are_refused(flat_batch, world):
    batch = flat_batch([1, 1], [(0, 1)], pair_weight=[0.5], ref_logprobs=[0.0] * 2)
    with pytest.raises(RecipeError, match="weights other than 1"):
        loss_of(ListwiseDPO(), batch, [0.0, 0.0], world)
    for options in ({"beta": 0.0}, {"stabiliser": -1.0}, {"label_smoothing": 0.6}):
        with pytest.raises(RecipeError, match=next(iter(options))):
            ListwiseDPO(**options)


def test_a_chain_is_the_order_it_says(flat_batch, world):
    """0 > 1 > 2 by two edges or by all three: (s1, s2 with 0) + (s2 with 1), in the same numbers."""
    logprobs = torch.tensor([2.0, 0.5, -1.0])
    scores = [0.2, 0.05, -0.1]
    expected = math.log(sum(map(math.exp, scores))) - scores[0]
    expected += math.log(math.exp(scores[1]) + math.exp(scores[2])) - scores[1]
    for pairs in ([(0, 1), (1, 2)], [(0, 1), (0, 2), (1, 2)]):
        batch = flat_batch([1, 1, 1], pairs, ref_logprobs=[0.0] * 3)
        ((term,), _) = ListwiseDPO(beta=0.1).loss(batch, Scores(logprobs=logprobs), world)
        assert term.values.tolist() == pytest.approx([expected], abs=1e-6)


def test_comparisons_in_a_circle_are_refused(flat_batch, world):
    batch = flat_batch([1, 1, 1], [(0, 1), (1, 2), (2, 0)], ref_logprobs=[0.0] * 3)
    with pytest.raises(DataError, match="run in a circle"):
        ListwiseDPO().loss(batch, Scores(logprobs=torch.zeros(3)), world)
