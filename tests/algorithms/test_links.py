"""Each link against numbers worked out by hand: beta 0.1, scores (3, -2) and (-8, 12), margins 5 and -20.

With x = 0.1 w and y = 0.1 l the pairs are (0.3, -0.2) and (-0.8, 1.2); x - y is 0.5 and -2.
log σ(0.5) = -0.4740769842, log σ(-0.5) = -0.9740769842, log σ(2) = -0.1269280110, log σ(-2) = -2.1269280110
σ(-0.5) = 0.3775406688, σ(2) = 0.8807970780, σ(0.3) = 0.5744425168, σ(-0.2) = 0.4501660027, σ(-0.8) = 0.3100255189,
σ(1.2) = 0.7685247835; log σ(0.3) = -0.5543552445, log σ(-0.3) = -0.8543552445, log σ(0.2) = -0.5981388693,
log σ(-0.8) = -1.1711006659, log σ(0.8) = -0.3711006659, log σ(-1.2) = -1.4632824673
"""

import math

import pytest
import torch

from sightline.algorithms.links import LINKS, LinkOptions

CASES = [
    # link, smoothing, losses, slopes by the winner's score, slopes by the loser's (None: the opposite)
    ("sigmoid", 0.0, [0.4740769842, 2.1269280110], [-0.03775406688, -0.08807970780], None),
    # 0.9 * 0.474077 + 0.1 * 0.974077; slope (σ(0.5) - 0.9) * 0.1 = (0.6224593312 - 0.9) * 0.1
    ("sigmoid", 0.1, [0.5240769842, 1.9269280110], [-0.02775406688, -0.07807970780], None),
    ("sigmoid_norm", 0.0, [0.4740769842, 2.1269280110], [-0.03775406688, -0.08807970780], None),
    # loss: 0.9 x 0.474077 less 0.1 x 0.974077, over 0.8; slope: 0.9 x 0.377541 plus 0.1 x 0.622459, x -0.1 / 0.8
    ("robust", 0.1, [0.4115769842, 2.3769280110], [-0.05025406688, -0.10057970780], None),
    ("robust", 0.0, [0.4740769842, 2.1269280110], [-0.03775406688, -0.08807970780], None),
    ("hinge", 0.0, [0.5, 3.0], [-0.1, -0.1], None),
    # (5 - 5)^2 and (-20 - 5)^2; slope 2 (m - 5)
    ("ipo", 0.0, [0.0, 625.0], [0.0, -50.0], None),
    # q = 0.6224593312: q (-0.4740769842 - log 0.9) + (1 - q) (-0.9740769842 - log 0.1);
    # slope 0.1 q (1-q) (0.5 - log 9): 0.1 x 0.2350037122 x -1.6972245773
    ("exo_pair", 0.1, [0.2720548335, 1.6753356479], [-0.03988540761, -0.04406816571], None),
    # 0.5543552445 + 0.5 x 0.8543552445 + 0.5 x 0.5981388693 and 1.1711006659 + 0.5 x 0.3711006659 + 0.5 x 1.4632824673
    # slopes 0.1 (σ(x) - 1 + 0.5 σ(x)) and 0.05 σ(y)
    ("nca_pair", 0.0, [1.2806023014, 2.0882922325], [-0.01383362248, -0.05349617217], [0.02250830013, 0.03842623918]),
    # -log σ(x) - log σ(-y); slopes -0.1 σ(-x) and 0.1 σ(y)
    ("bco_pair", 0.0, [1.1524941138, 2.6343831332], [-0.04255574832, -0.06899744811], [0.04501660027, 0.07685247835]),
    # targets are 5 and -5: distances 2 and 3, 13 and 17
    ("sppo_hard", 0.0, [13.0, 458.0], [-4.0, -26.0], [6.0, 34.0]),
    # 1 - σ(x) + σ(y); slopes -0.1 σ(x) σ(-x) and 0.1 σ(y) σ(-y)
    ("apo_zero", 0.0, [0.8757234859, 1.4584992646], [-0.02444583117, -0.02139096965], [0.02475165730, 0.01778944406]),
    # σ(x) + 1 - σ(x - y); slopes 0.1 (σ'(x) - σ'(x - y)) and 0.1 σ'(x - y)
    ("apo_down", 0.0, [0.9519831856, 1.1908225969], [0.00094545996, 0.01089161106], [0.02350037122, 0.01049935854]),
]


@pytest.mark.parametrize(("link", "smoothing", "losses", "wins", "loses"), CASES)
def test_loss_and_gradient(link, smoothing, losses, wins, loses):
    scores = torch.tensor([[3.0, -8.0], [-2.0, 12.0]], dtype=torch.float64, requires_grad=True)
    loss = LINKS[link].loss(scores[0], scores[1], LinkOptions(beta=0.1, label_smoothing=smoothing))
    (slopes,) = torch.autograd.grad(loss.sum(), scores)
    assert loss.tolist() == pytest.approx(losses, abs=1e-9)
    assert slopes[0].tolist() == pytest.approx(wins, abs=1e-9)
    assert slopes[1].tolist() == pytest.approx(loses or [-slope for slope in wins], abs=1e-9)


def test_discopop_blends_logistic_and_exponential_by_the_margin():
    # x = 0.5 and tau = 0.5: σ(1) = 0.7310585786; 0.4740769842 (1 - 0.7310585786) + e^-0.5 x 0.7310585786
    # slope by x: -σ(-0.5) (1 - g) - e^-0.5 g + g (1 - g) / 0.5 (e^-0.5 - 0.4740769842), times beta
    winner = torch.tensor([5.0], dtype=torch.float64, requires_grad=True)
    loss = LINKS["discopop"].loss(winner, torch.zeros(1), LinkOptions(beta=0.1, discopop_tau=0.5))
    (slope,) = torch.autograd.grad(loss.sum(), winner)
    assert loss.item() == pytest.approx(0.5709084, abs=1e-6)
    assert slope.item() == pytest.approx(-0.0492862, abs=1e-6)


def test_hinge_stops_pushing_at_a_margin_of_one_over_beta():
    margin = torch.tensor([10.5, 30.0], requires_grad=True)
    loss = LINKS["hinge"].loss(margin, torch.zeros(2), LinkOptions(beta=0.1))
    (slope,) = torch.autograd.grad(loss.sum(), margin)
    assert loss.tolist() == [0.0, 0.0] and slope.tolist() == [0.0, 0.0]


def test_exo_has_its_minimum_where_the_policy_agrees_with_the_softened_labels():
    margin = torch.tensor([10 * math.log(9)], requires_grad=True)  # σ(log 9) = 0.9
    loss = LINKS["exo_pair"].loss(margin, torch.zeros(1), LinkOptions(beta=0.1, label_smoothing=0.1))
    (slope,) = torch.autograd.grad(loss.sum(), margin)
    assert abs(loss.item()) < 1e-6 and abs(slope.item()) < 1e-7


@pytest.mark.parametrize("link", [name for name in LINKS if name not in ("ipo", "sppo_hard")])
def test_extreme_scores_stay_finite(link):
    winner = torch.tensor([-1e4, 1e4, -1e4], requires_grad=True)
    loser = torch.tensor([1e4, -1e4, -1e4], requires_grad=True)
    options = LinkOptions(beta=1.0, label_smoothing=0.1 if LINKS[link].smoothing else 0.0)
    loss = LINKS[link].loss(winner, loser, options)
    slopes = torch.autograd.grad(loss.sum(), (winner, loser), allow_unused=True)
    assert loss.isfinite().all() and all(slope.isfinite().all() for slope in slopes)
