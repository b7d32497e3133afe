"""KTO with beta 0.1: σ(0.1 x 4) = 0.5986876601, σ(0.1 x 3) = 0.5744425168."""

import pytest
import torch

from sightline.algorithms.kto import KTO
from sightline.errors import RecipeError
from sightline.types import Scores

# Each group: a labelled answer and an answer to another question.
# Δ of labelled 6, -1, of mismatched 5, -1: z = max(0, (5 - 1) / 2) = 2.
KINDS = {"pair_kind": ["mismatched"] * 2}


@pytest.fixture
def batch(flat_batch):
    return flat_batch([2, 1, 1, 1], [(0, 2), (1, 3)], labels=[1.0, 0.0, 0.0, 0.0], ref_logprobs=[-9.0] * 5, **KINDS)


LOGPROBS = [-6.0, -6.0, -10.0, -4.0, -10.0]


def test_loss_gradient_and_statistics(batch, world):
    old = torch.tensor(LOGPROBS)
    logprobs = old.clone().requires_grad_()
    (ready,) = KTO().prepare_step([batch.with_columns(old_logprobs=old)], [True], world)
    (term,), stats = KTO(desirable_weight=2.0, undesirable_weight=3.0).loss(ready, Scores(logprobs=logprobs), world)
    term.values.sum().backward()
    # the desirable one is 4 above the baseline, the undesirable one 3 below it
    assert (term.name, term.unit) == ("kto", "pair")
    assert term.values.tolist() == pytest.approx([0.8026246799, 1.2766724496], abs=1e-6)
    # ∓ weight x beta x σ'(x): 0.2402607457 and 0.2444583117; the mismatched answers get none
    slopes = [-0.04805214914, -0.04805214914, 0.07333749350, 0.0, 0.0]
    assert logprobs.grad.tolist() == pytest.approx(slopes, abs=1e-7)
    means = {name: (stat.sum / stat.count).item() for name, stat in stats.items() if stat.count}
    assert means["kl"] == 2.0
    assert means["rewards/chosen"] == pytest.approx(0.6) and means["rewards/rejected"] == pytest.approx(-0.1)
    assert means["logps/chosen"] == -12.0 and means["rewards/accuracies"] == 1.0


def test_a_negative_estimate_counts_as_zero(batch, world):
    old = torch.tensor([-6.0, -6.0, -10.0, -20.0, -10.0])
    (ready,) = KTO().prepare_step([batch.with_columns(old_logprobs=old)], [True], world)
    assert ready.baseline.tolist() == [[0.0, 0.0]] * 2


def test_the_baseline_has_no_gradient(batch, world, step):
    one, _ = step(KTO(), [batch], [LOGPROBS])
    moved = [*LOGPROBS[:3], -4.5, -10.0]
    other, _ = step(KTO(), [batch], [moved])
    assert one != other  # the mismatched answer does change the loss
    _, (gradient,) = step(KTO(), [batch], [LOGPROBS])
    assert gradient[3:].tolist() == [0.0, 0.0]


def test_an_answer_that_is_mismatched_to_two_counts_once(flat_batch, world):
    # Rows with chosen and rejected share one mismatched answer: z is its Δ = 3, not diluted.
    batch = flat_batch(
        [1, 1, 1],
        [(0, 2), (1, 2)],
        labels=[1.0, 0.0, 0.0],
        ref_logprobs=[0.0] * 3,
        old_logprobs=[1.0, 1.0, 3.0],
        **KINDS,
    )
    (ready,) = KTO().prepare_step([batch], [True], world)
    assert ready.baseline.tolist() == [[3.0, 3.0]] * 2


def halves(flat_batch):
    def half(label):
        return flat_batch(
            [2, 1] if label else [1, 1],
            [(0, 1)],
            labels=[label, 0.0],
            pair_kind=["mismatched"],
            ref_logprobs=[-9.0] * (3 if label else 2),
        )

    return [half(1.0), half(0.0)], [[-6.0, -6.0, -4.0], [-10.0, -10.0]]


def test_micro_batches_give_the_gradient_of_one(batch, flat_batch, step):
    loss, (whole,) = step(KTO(), [batch], [LOGPROBS])
    parts, logprobs = halves(flat_batch)
    split_loss, (first, second) = step(KTO(), parts, logprobs)
    assert split_loss == pytest.approx(loss, rel=1e-6)
    assert first.tolist() == pytest.approx([*whole[:2].tolist(), 0.0], rel=1e-6)
    assert second.tolist() == pytest.approx([whole[2].item(), 0.0], rel=1e-6)


def test_ranks_give_the_gradient_of_one_process(batch, flat_batch, step, two_ranks):
    loss, (whole,) = step(KTO(), [batch], [LOGPROBS])
    parts, logprobs = halves(flat_batch)
    # the second rank has a micro-batch for company as well: it counts nowhere
    work = [([0], [True]), ([1, 0], [True, False])]

    def on(world):
        own, counted = work[world.rank]
        result = step(KTO(), [parts[i] for i in own], [logprobs[i] for i in own], world, counted)
        if world.rank == 0:  # meets the other rank's second micro-batch, as the loop's company does
            world.sum(torch.tensor(0))
        return result

    (loss_0, (first,)), (loss_1, (second, company)) = two_ranks.run(on)
    assert loss_0 + loss_1 == pytest.approx(loss, rel=1e-6)
    assert [*first[:2].tolist(), second[0].item()] == pytest.approx(whole[:3].tolist(), rel=1e-6)
    assert company.abs().sum() == 0


@pytest.mark.parametrize(
    ("pairs", "kind", "words"),
    [([], [], "without a mismatched"), ([(0, 1)], ["text"], "comparisons of kind text")],
)
def test_groups_without_a_mismatched_answer_are_refused(flat_batch, world, pairs, kind, words):
    zeros = [0.0, 0.0]
    batch = flat_batch([1, 1], pairs, pair_kind=kind, labels=[1.0, 0.0], ref_logprobs=zeros, old_logprobs=zeros)
    with pytest.raises(RecipeError, match=words) as error:
        KTO().prepare_step([batch], [True], world)
    assert "relation: mismatched" in str(error.value)


@pytest.mark.parametrize("name", ["beta", "desirable_weight", "undesirable_weight"])
def test_options_that_cannot_be_honoured_are_refused(name):
    with pytest.raises(RecipeError, match=name):
        KTO(**{name: 0.0})
    assert KTO().needs == {"ref_logprobs", "old_logprobs", "labels"}
