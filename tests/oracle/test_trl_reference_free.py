"""ORPO, CPO and SimPO against the loss functions of TRL's trainers, on the same log-probabilities.

Those trainers cannot read pictures, so that only their losses are compared. TRL's ORPO takes its likelihood term over
prompt and answer; ours is over the answer, and is that of its CPO.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from flat import flat_batch

from sightline.algorithms.cpo import CPO
from sightline.algorithms.orpo import ORPO
from sightline.algorithms.simpo import SimPO
from sightline.types import Scores

orpo_trainer = pytest.importorskip("trl.experimental.orpo.orpo_trainer", reason="trl is not installed (extra: bench)")
cpo_trainer = pytest.importorskip("trl.experimental.cpo.cpo_trainer", reason="trl is not installed (extra: bench)")
pytestmark = pytest.mark.oracle

LENGTHS = [3, 5, 1, 4, 2, 2]
PAIRS = [(0, 1), (2, 3), (4, 5)]


class OneProcess:
    rank, size = 0, 1

    def sum(self, value):
        return value


def logprobs_of(seed):
    torch.manual_seed(seed)
    return (-4 * torch.rand(sum(LENGTHS))).requires_grad_()


def sides(logprobs, per_token):
    parts = [part.mean() if per_token else part.sum() for part in logprobs.split(LENGTHS)]
    return torch.stack(parts[0::2]), torch.stack(parts[1::2])


def ours(algorithm, batch, logprobs):
    (term, *_), stats = algorithm.loss(batch, Scores(logprobs=logprobs), OneProcess())
    loss = term.coefficient * term.values.mean()
    return (
        loss,
        torch.autograd.grad(loss, logprobs)[0],
        {n: s.sum.item() / s.count for n, s in stats.items() if s.count},
    )


def settings(**options):
    return SimpleNamespace(accelerator=SimpleNamespace(device="cpu"), **options)


@pytest.mark.parametrize("seed", range(3))
def test_orpo(seed):
    logprobs = logprobs_of(seed)
    losses, chosen, rejected, ratio, odds = orpo_trainer.ORPOTrainer.odds_ratio_loss(
        settings(beta=0.3), *sides(logprobs, per_token=True)
    )
    gradient = torch.autograd.grad(-losses.mean(), logprobs, retain_graph=True)[0]
    loss, slope, stats = ours(ORPO(beta=0.3), flat_batch(LENGTHS, PAIRS), logprobs)
    torch.testing.assert_close(loss, -losses.mean())
    torch.testing.assert_close(slope, gradient)
    expected = {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/accuracies": (chosen > rejected).float(),
        "log_odds_ratio": ratio,
        "log_odds_chosen": odds,
    }
    for name, value in expected.items():
        assert stats[name] == pytest.approx(value.mean().item(), abs=1e-6)


CASES = {
    "cpo": (CPO(beta=0.3, label_smoothing=0.1), {"loss_type": "sigmoid", "beta": 0.3, "label_smoothing": 0.1}),
    "hinge": (CPO(beta=0.3, link="hinge"), {"loss_type": "hinge", "beta": 0.3, "label_smoothing": 0.0}),
    "ipo": (CPO(beta=0.3, link="ipo"), {"loss_type": "ipo", "beta": 0.3, "label_smoothing": 0.0}),
    "simpo": (
        SimPO(beta=2.5, gamma_beta_ratio=0.4, label_smoothing=0.1),
        {"loss_type": "simpo", "beta": 2.5, "simpo_gamma": 1.0, "label_smoothing": 0.1},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_cpo_and_simpo(case):
    algorithm, options = CASES[case]
    logprobs = logprobs_of(3)
    both = sides(logprobs, per_token=options["loss_type"] in ("ipo", "simpo"))
    losses, chosen, rejected = cpo_trainer.CPOTrainer.cpo_loss(settings(alpha=0.0, **options), *both)
    gradient = torch.autograd.grad(losses.mean(), logprobs, retain_graph=True)[0]
    loss, slope, stats = ours(algorithm, flat_batch(LENGTHS, PAIRS), logprobs)
    torch.testing.assert_close(loss, losses.mean())
    torch.testing.assert_close(slope, gradient)
    assert stats["rewards/margins"] == pytest.approx((chosen - rejected).mean().item(), abs=1e-5)
