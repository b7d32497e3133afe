"""Made pictures, by their pixels."""

import random

import numpy as np
import pytest
from PIL import Image

from sightline.negatives.pictures import blank, crop, noise, patches, signal


def gradient(width, height):
    """Red is the column, green the row: where a piece was taken can be read from it."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[..., 0] = np.arange(width)[None, :]
    pixels[..., 1] = np.arange(height)[:, None]
    return Image.fromarray(pixels)


@pytest.mark.parametrize("area", [(0.01, 0.2), (0.5, 0.8), (0.8, 1.0)])
def test_a_piece_keeps_the_area_that_is_asked_for(area):
    whole = gradient(200, 120)
    shares = []
    for seed in range(50):
        piece = np.asarray(crop(whole, random.Random(seed), area), dtype=float)
        assert piece.shape == (120, 200, 3)
        # enlarged from w to 200 columns, the red goes up by w / 200 per column; edges are flattened, so not there
        width = 200 * (piece[60, 150, 0] - piece[60, 50, 0]) / 100
        height = 120 * (piece[90, 100, 1] - piece[30, 100, 1]) / 60
        shares.append(width * height / (200 * 120))
    assert area[0] - 0.02 <= min(shares) and max(shares) <= area[1] + 0.02
    assert max(shares) - min(shares) > 0.5 * (area[1] - area[0])


def test_a_piece_is_a_function_of_the_seed():
    whole = gradient(50, 70)
    pieces = [crop(whole, random.Random(seed), (0.01, 0.2)).tobytes() for seed in (1, 1, 2)]
    assert pieces[0] == pieces[1] != pieces[2]


def test_a_piece_of_a_strip_has_at_least_a_pixel():
    assert crop(gradient(200, 1), random.Random(0), (0.01, 0.02)).size == (200, 1)


def test_the_signal_that_is_left_by_a_step():
    """ᾱ = Π (1 - β), β from 1e-5 to 5e-3 on a sigmoid; the first β is 1e-5 + 4.99e-3 / (1 + e^6)."""
    assert signal(0) == pytest.approx(1 - (1e-5 + 4.99e-3 / (1 + np.exp(6))), rel=1e-9)
    assert signal(500) == pytest.approx(0.744799, abs=1e-6)
    assert signal(999) == pytest.approx(0.081249, abs=1e-6)


def test_noise_shrinks_the_picture_and_adds_its_variance():
    grey = Image.new("RGB", (200, 200), (160, 160, 160))  # 0.255 on [-1, 1]
    noisy = np.asarray(noise(grey, np.random.default_rng(0), 200), dtype=float) / 127.5 - 1
    share = signal(200)
    assert share > 0.95  # so small a noise is not clipped
    assert noisy.mean() == pytest.approx(np.sqrt(share) * (160 / 127.5 - 1), abs=0.003)
    assert noisy.std() == pytest.approx(np.sqrt(1 - share), rel=0.02)
    late = np.asarray(noise(grey, np.random.default_rng(0), 999))
    assert (late == 0).mean() > 0.1 and (late == 255).mean() > 0.1  # clipped, as a file must be


def test_patches_are_black_squares_and_leave_the_rest_as_it_is():
    whole = Image.new("RGB", (70, 45), (200, 100, 50))
    made = np.asarray(patches(whole, np.random.default_rng(0), 14, 0.6))
    black = (made == 0).all(-1)
    assert (made[~black] == (200, 100, 50)).all()
    squares = [black[y : y + 14, x : x + 14] for y in range(0, 45, 14) for x in range(0, 70, 14)]
    assert len(squares) == 20 and all(square.all() or not square.any() for square in squares)
    shares = [float((np.asarray(patches(whole, np.random.default_rng(i), 1, 0.6)) == 0).mean()) for i in range(20)]
    assert abs(np.mean(shares) - 0.6) < 4 * (0.24 / (20 * 70 * 45)) ** 0.5
    assert not np.asarray(patches(whole, np.random.default_rng(0), 14, 1.0)).any()


def test_blank_is_white():
    assert np.asarray(blank((7, 5))).tolist() == [[[255] * 3] * 7] * 5
