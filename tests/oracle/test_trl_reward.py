"""The reward model against the loss of TRL's RewardTrainer, on the same scores: that trainer reads no pictures."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from flat import flat_batch

from sightline.algorithms.reward_model import RewardModel
from sightline.types import Scores

reward_trainer = pytest.importorskip("trl.trainer.reward_trainer", reason="trl is not installed (extra: bench)")
pytestmark = pytest.mark.oracle

GIVEN = torch.tensor([3.0, 1.0, 2.0, 2.0, 5.0, 0.5])
"""Rewards of winner and loser of three pairs."""


def theirs(score_R, coefficient, margin):
    """TRL's loss and statistics; its batch has all winners before all losers."""
    logits = torch.cat([score_R[0::2], score_R[1::2]])[:, None]

    def gathered(values):
        return values

    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True),
        args=SimpleNamespace(center_rewards_coefficient=coefficient),
        accelerator=SimpleNamespace(gather=gathered, gather_for_metrics=gathered),
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    inputs = {"attention_mask": torch.ones(len(logits), 1)}
    if margin is not None:
        inputs["margin"] = margin
    loss = reward_trainer.RewardTrainer.compute_loss(
        trainer, lambda use_cache, attention_mask, **margin: SimpleNamespace(logits=logits), inputs
    )
    return loss, {name: trainer._metrics["train"][name][0] for name in ("accuracy", "margin", "mean_reward")}


@pytest.mark.parametrize("coefficient", [None, 0.1])
@pytest.mark.parametrize("factor", [0.0, 0.5])
def test_loss_gradients_and_metrics_equal_those_of_trl(coefficient, factor):
    score_R = torch.tensor([1.2, 0.3, -0.5, 0.4, 2.0, -1.0], requires_grad=True)
    margin = factor * (GIVEN[0::2] - GIVEN[1::2]) if factor else None
    expected, metrics = theirs(score_R, coefficient, margin)
    slope = torch.autograd.grad(expected, score_R)[0]
    algorithm = RewardModel(margin=factor, center_rewards_coefficient=coefficient or 0.0)
    batch = flat_batch([1] * 6, [(0, 1), (2, 3), (4, 5)], rewards=GIVEN.tolist())
    terms, stats = algorithm.loss(batch, Scores(reward=score_R), None)
    loss = torch.stack([term.coefficient * term.values.mean() for term in terms]).sum()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, score_R)[0], slope)
    for name, value in metrics.items():
        assert stats[name].sum.item() / stats[name].count == pytest.approx(value, abs=1e-6)
