"""Each link against numbers worked out by hand: beta 0.1, margins 5 and -20 (scaled 0.5 and -2)."""

import pytest
import torch

from sightline.algorithms.links import LINKS

# log σ(0.5) = -0.4740769842, log σ(-0.5) = -0.9740769842, log σ(2) = -0.1269280110, log σ(-2) = -2.1269280110
# σ(-0.5) = 0.3775406688, σ(2) = 0.8807970780: d(-log σ(x))/dx = -σ(-x), times beta.
CASES = [
    # link, smoothing, losses, gradients with respect to the margin
    ("sigmoid", 0.0, [0.4740769842, 2.1269280110], [-0.03775406688, -0.08807970780]),
    # 0.9 * 0.474077 + 0.1 * 0.974077; gradient (σ(0.5) - 0.9) * 0.1 = (0.6224593312 - 0.9) * 0.1
    ("sigmoid", 0.1, [0.5240769842, 1.9269280110], [-0.02775406688, -0.07807970780]),
    # loss: 0.9 x 0.474077 less 0.1 x 0.974077, over 0.8; slope: 0.9 x 0.377541 plus 0.1 x 0.622459, x -0.1 / 0.8
    ("robust", 0.1, [0.4115769842, 2.3769280110], [-0.05025406688, -0.10057970780]),
    ("robust", 0.0, [0.4740769842, 2.1269280110], [-0.03775406688, -0.08807970780]),
    ("hinge", 0.0, [0.5, 3.0], [-0.1, -0.1]),
    # (5 - 5)^2 and (-20 - 5)^2; gradient 2 (m - 5)
    ("ipo", 0.0, [0.0, 625.0], [0.0, -50.0]),
]


@pytest.mark.parametrize(("link", "smoothing", "losses", "slopes"), CASES)
def test_loss_and_gradient(link, smoothing, losses, slopes):
    margin = torch.tensor([5.0, -20.0], dtype=torch.float64, requires_grad=True)
    loss = LINKS[link](margin, 0.1, smoothing)
    (slope,) = torch.autograd.grad(loss.sum(), margin)
    assert loss.tolist() == pytest.approx(losses, abs=1e-9)
    assert slope.tolist() == pytest.approx(slopes, abs=1e-9)


def test_hinge_stops_pushing_at_a_margin_of_one_over_beta():
    margin = torch.tensor([10.5, 30.0], requires_grad=True)
    loss = LINKS["hinge"](margin, 0.1, 0.0)
    (slope,) = torch.autograd.grad(loss.sum(), margin)
    assert loss.tolist() == [0.0, 0.0] and slope.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("link", ["sigmoid", "robust"])
def test_extreme_margins_stay_finite(link):
    margin = torch.tensor([-1e4, 1e4], requires_grad=True)
    loss = LINKS[link](margin, 1.0, 0.1)
    (slope,) = torch.autograd.grad(loss.sum(), margin)
    assert loss.isfinite().all() and slope.isfinite().all()
