import math

import pytest
import torch

from sightline.ops.sampling import draw, sampling_probabilities

# probabilities 0.5, 0.3, 0.15, 0.05
LOGITS = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()


def test_temperature_one_is_the_softmax():
    assert sampling_probabilities(LOGITS, 1.0)[0].tolist() == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=1e-6)


def test_temperature_raises_probabilities_to_its_inverse_power():
    squares = [0.25, 0.09, 0.0225, 0.0025]
    expected = [value / sum(squares) for value in squares]
    assert sampling_probabilities(LOGITS, 0.5)[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_top_k_keeps_the_likeliest():
    assert sampling_probabilities(LOGITS, 1.0, top_k=2)[0].tolist() == pytest.approx([0.625, 0.375, 0, 0], abs=1e-6)
    assert sampling_probabilities(LOGITS, 1.0, top_k=9)[0].tolist() == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=1e-6)


@pytest.mark.parametrize(
    ("top_p", "expected"),
    [
        (0.4, [1.0, 0, 0, 0]),
        (0.6, [0.625, 0.375, 0, 0]),
        (0.9, [0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0]),
        (0.96, [0.5, 0.3, 0.15, 0.05]),
        (1e-6, [1.0, 0, 0, 0]),
    ],
)
def test_top_p_keeps_the_fewest_that_reach_it(top_p, expected):
    shuffled = LOGITS[:, [2, 0, 3, 1]]
    found = sampling_probabilities(shuffled, 1.0, top_p=top_p)[0]
    assert found.tolist() == pytest.approx([expected[i] for i in (2, 0, 3, 1)], abs=1e-6)


def test_top_p_over_more_tokens_than_are_ranked_at_first():
    # 4096 tokens: one row puts 0.9 on token 7, the other is flat, where half of the tokens are needed.
    peaked = torch.full((4096,), 0.1 / 4095)
    peaked[7] = 0.9
    logits = torch.stack([peaked, torch.full((4096,), 1 / 4096)]).log()
    found = sampling_probabilities(logits, 1.0, top_p=0.5)
    assert found[0].nonzero().tolist() == [[7]] and found[0, 7] == 1.0
    assert int((found[1] > 0).sum()) == pytest.approx(2048, abs=2)
    assert found[1].sum().item() == pytest.approx(1.0, abs=1e-5)


def test_top_p_is_taken_after_top_k():
    # Of 0.625 and 0.375, the first reaches 0.6 alone; of all four it would not.
    assert sampling_probabilities(LOGITS, 1.0, top_k=2, top_p=0.6)[0].tolist() == [1.0, 0, 0, 0]


def test_barred_tokens_stay_barred():
    barred = LOGITS.index_fill(1, torch.tensor([0]), -math.inf)
    assert sampling_probabilities(barred, 1.0, top_p=0.5)[0].tolist() == pytest.approx([0, 1.0, 0, 0], abs=1e-6)


def test_draw_inverts_the_cumulated_distribution():
    probabilities = torch.tensor([0.25, 0.0, 0.5, 0.25]).expand(5, -1)
    uniform = torch.tensor([0.0, 0.2499, 0.25, 0.7499, 0.75])
    assert draw(probabilities, uniform).tolist() == [0, 0, 2, 2, 3]


def test_the_largest_uniform_number_draws_the_last_possible_token():
    largest = 1 - 2.0**-24
    probabilities = torch.tensor([[0.3, 0.7, 0.0], [0.1, 0.2, 0.3]])  # the second row was not normalised
    assert draw(probabilities, torch.full((2,), largest)).tolist() == [1, 2]


def test_draws_follow_the_distribution():
    size = 40_000
    uniform = torch.rand(size, generator=torch.Generator().manual_seed(0))
    counts = draw(LOGITS.exp().expand(size, -1), uniform).bincount(minlength=4) / size
    # three standard deviations of a share near 0.5 are 0.0075
    assert counts.tolist() == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.0075)
