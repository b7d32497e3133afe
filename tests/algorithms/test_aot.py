"""AOT against sorting by hand: four pairs, beta 0.1."""

import math

import pytest
import torch

from sightline.algorithms.aot import AOT
from sightline.errors import RecipeError

# Per pair (log π(w), log π(l), log π_ref(w), log π_ref(l))
PAIRS = [(-2.0, -9.0, -5.0, -6.0), (-4.0, -3.0, -4.0, -8.0), (-1.0, -4.0, -3.0, -1.0), (-7.0, -5.0, -2.0, -9.0)]
# policy margins 7, -1, 3, -2; sorted -2, -1, 3, 7. Reference margins 1, 4, -2, 7; sorted -2, 1, 4, 7.
# pair 0: 7 - 7, pair 1: -1 - 1, pair 2: 3 - 4, pair 3: -2 + 2
PAIRED = [0.0, -2.0, -1.0, 0.0]
# winners' log-ratios 3, 0, 2, -5 sorted -5, 0, 2, 3; losers' -3, 5, -3, 4 sorted -3, -3, 4, 5
# winners: 3 - 5, 0 + 3, 2 - 4, -5 + 3 ; losers: -3 <- -5, 5 <- 3, -3 <- 0, 4 <- 2
UNPAIRED_WINNERS = [-2.0, 3.0, -2.0, -2.0]
UNPAIRED_LOSERS = [-2.0, -2.0, 3.0, -2.0]


def sigma(x):
    return 1 / (1 + math.exp(-x))


def batch_of(flat_batch, numbers):
    batch = flat_batch(
        [1] * (2 * len(numbers)),
        [(2 * i, 2 * i + 1) for i in range(len(numbers))],
        ref_logprobs=[value for row in numbers for value in row[2:]],
    )
    return batch, [value for row in numbers for value in row[:2]]


def test_paired_margins_are_compared_rank_by_rank(flat_batch, step):
    batch, logprobs = batch_of(flat_batch, PAIRS)
    loss, (gradient,) = step(AOT(), [batch], [logprobs])
    assert loss == pytest.approx(sum(-math.log(sigma(0.1 * d)) for d in PAIRED) / 4, rel=1e-6)
    slopes = [-0.1 * sigma(-0.1 * d) / 4 for d in PAIRED]
    assert gradient[0::2].tolist() == pytest.approx(slopes, rel=1e-5)
    assert gradient[1::2].tolist() == pytest.approx([-slope for slope in slopes], rel=1e-5)


def test_unpaired_winners_and_losers_are_compared_rank_by_rank(flat_batch, step):
    batch, logprobs = batch_of(flat_batch, PAIRS)
    loss, (gradient,) = step(AOT(paired=False, label_smoothing=0.1), [batch], [logprobs])

    def smoothed(d):
        return -0.9 * math.log(sigma(0.1 * d)) - 0.1 * math.log(sigma(-0.1 * d))

    def slope(d):
        return 0.1 * (sigma(0.1 * d) - 0.9) / 4

    assert loss == pytest.approx(sum(map(smoothed, UNPAIRED_WINNERS)) / 4, rel=1e-6)
    assert gradient[0::2].tolist() == pytest.approx([slope(d) for d in UNPAIRED_WINNERS], rel=1e-5)
    # two losers tie at -3: which of them meets -5 and which 0 is open, their sum is not
    found, expected = gradient[1::2], [-slope(d) for d in UNPAIRED_LOSERS]
    assert found[[1, 3]].tolist() == pytest.approx([expected[1], expected[3]], rel=1e-5)
    assert (found[0] + found[2]).item() == pytest.approx(expected[0] + expected[2], rel=1e-5)


@pytest.mark.parametrize("paired", [True, False])
def test_micro_batches_and_ranks_give_the_gradient_of_one(flat_batch, step, two_ranks, paired):
    algorithm = AOT(paired=paired)
    batch, logprobs = batch_of(flat_batch, PAIRS)
    loss, (whole,) = step(algorithm, [batch], [logprobs])
    parts = [batch_of(flat_batch, PAIRS[:1]), batch_of(flat_batch, PAIRS[1:])]
    batches, values = zip(*parts, strict=True)
    split_loss, split = step(algorithm, batches, values)
    assert split_loss == pytest.approx(loss, rel=1e-6)
    torch.testing.assert_close(torch.cat(split), whole)
    company = batch_of(flat_batch, PAIRS[:2])

    def on(world):
        own = [parts[world.rank], company] if world.rank == 0 else [parts[world.rank]]
        result = step(algorithm, [b for b, _ in own], [v for _, v in own], world, [True, False][: len(own)])
        if world.rank == 1:
            world.sum(torch.tensor(0))
        return result

    (loss_0, (first, aside)), (loss_1, (second,)) = two_ranks.run(on)
    assert loss_0 + loss_1 == pytest.approx(loss, rel=1e-6)
    torch.testing.assert_close(torch.cat([first, second]), whole)
    assert aside.abs().sum() == 0


def test_what_cannot_be_honoured_is_refused(flat_batch, world):
    zeros = {"ref_logprobs": [0.0, 0.0], "old_logprobs": [0.0, 0.0]}
    with pytest.raises(RecipeError, match="weights other than 1"):
        AOT().prepare_step([flat_batch([1, 1], [(0, 1)], pair_weight=[2.0], **zeros)], [True], world)
    with pytest.raises(RecipeError, match="mismatched"):
        AOT().prepare_step([flat_batch([1, 1], [(0, 1)], pair_kind=["mismatched"], **zeros)], [True], world)
    with pytest.raises(RecipeError, match="beta"):
        AOT(beta=0)
