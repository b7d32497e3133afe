"""Loss, gradients and metrics of KTO against TRL's trainer, on one batch of one tiny model."""

from __future__ import annotations

import pytest
import torch
import trl_runs
from PIL import Image

from sightline.algorithms.kto import KTO

pytest.importorskip("trl", reason="trl is not installed (extra: bench)")
pytestmark = pytest.mark.oracle


def rows_for_trl(pictures):
    return [
        {
            "images": [Image.open(picture).convert("RGB")],
            "prompt": [{"role": "user", "content": question}],
            "completion": [{"role": "assistant", "content": answer}],
            "label": label,
        }
        for picture, (question, answer, _), label in zip(pictures, trl_runs.ROWS, trl_runs.LABELS, strict=False)
    ]


@pytest.mark.parametrize("baseline", ["clamped", "positive"])
def test_loss_gradients_and_metrics_equal_those_of_trl(tiny, pictures, tmp_path, baseline):
    algorithm = KTO(beta=0.3, desirable_weight=1.2, undesirable_weight=0.7)
    options = {"desirable_weight": 1.2, "undesirable_weight": 0.7, "per_device_train_batch_size": 3}
    policy, reference, folders = trl_runs.different_models(tiny["llava"], tmp_path)
    if baseline == "positive":  # two random models: one way round, the mean log-ratio is above 0
        policy, reference, folders = reference, policy, folders[::-1]
    trainer = trl_runs.trl_trainer(folders, policy.processor, tmp_path, options, kind="KTO")
    inputs = trainer.data_collator(rows_for_trl(pictures))
    their_loss = trainer.compute_loss(trainer.model.train(), inputs)
    their_loss.backward()
    groups = trl_runs.labelled_groups_of(inputs, pictures)
    loss, stats = trl_runs.our_loss(algorithm, policy, reference, groups, inputs)
    torch.testing.assert_close(loss, their_loss, atol=1e-5, rtol=1e-5)
    trl_runs.assert_equal_gradients(policy, trainer)
    for name in ("kl", "rewards/chosen", "rewards/rejected", "logps/chosen", "logps/rejected"):
        (expected,) = trainer._metrics["train"][name]
        assert stats[name].sum.item() / stats[name].count == pytest.approx(expected, abs=1e-4)
    assert (trainer._metrics["train"]["kl"][0] > 0.1) == (baseline == "positive")
