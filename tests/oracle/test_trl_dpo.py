"""Loss, gradients and metrics of the DPO family against TRL's trainer, on one batch of one tiny model."""

from __future__ import annotations

import pytest
import torch
import trl_runs

from sightline.algorithms.aot import AOT
from sightline.algorithms.dpo import DPO
from tiny_models import FAMILIES

pytest.importorskip("trl", reason="trl is not installed (extra: bench)")
pytestmark = pytest.mark.oracle

CASES = {
    "sigmoid": (DPO(beta=0.3), {"loss_type": ["sigmoid"]}),
    "hinge": (DPO(beta=0.3, link="hinge"), {"loss_type": ["hinge"]}),
    "ipo": (DPO(beta=0.3, link="ipo"), {"loss_type": ["ipo"]}),
    "robust": (DPO(beta=0.3, link="robust", label_smoothing=0.2), {"loss_type": ["robust"], "label_smoothing": 0.2}),
    "sft term": (DPO(beta=0.3, sft_weight=0.7), {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.7]}),
}
LINKS = {
    **{
        name: (DPO(beta=0.3, link=name), {"loss_type": [name]})
        for name in ("sigmoid_norm", "nca_pair", "bco_pair", "sppo_hard", "apo_zero", "apo_down", "discopop")
    },
    "exo_pair": (
        DPO(beta=0.3, link="exo_pair", label_smoothing=0.1),
        {"loss_type": ["exo_pair"], "label_smoothing": 0.1},
    ),
    "aot": (AOT(beta=0.3, label_smoothing=0.1), {"loss_type": ["aot"], "label_smoothing": 0.1}),
    "aot unpaired": (AOT(beta=0.3, paired=False), {"loss_type": ["aot_unpaired"]}),
    "mpo": (
        DPO(beta=0.3, link={"sigmoid": 0.8, "bco_pair": 0.2}, sft_weight=1.0),
        {"loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.0]},
    ),
    "wpo": (DPO(beta=0.3, weighting="wpo"), {"loss_type": ["sigmoid"], "use_weighting": True}),
    "length desensitised": (DPO(beta=0.3, ld_alpha=0.4), {"loss_type": ["sigmoid"], "ld_alpha": 0.4}),
    "forward kl": (DPO(beta=0.3, divergence="forward_kl"), {"f_divergence_type": "forward_kl"}),
    "js": (
        DPO(beta=0.3, link="ipo", divergence="js_divergence"),
        {"loss_type": ["ipo"], "f_divergence_type": "js_divergence"},
    ),
    "alpha": (
        DPO(beta=0.3, divergence="alpha_divergence", divergence_alpha=0.7),
        {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.7},
    ),
}


def check(folder, pictures, tmp_path, algorithm, options):
    policy, reference, folders = trl_runs.different_models(folder, tmp_path)
    trainer = trl_runs.trl_trainer(folders, policy.processor, tmp_path, options)
    inputs = trainer.data_collator(trl_runs.rows_for_trl(pictures))
    their_loss = trainer.compute_loss(trainer.model.train(), inputs)
    their_loss.backward()
    loss, stats = trl_runs.our_loss(algorithm, policy, reference, trl_runs.groups_of(inputs, pictures), inputs)
    torch.testing.assert_close(loss, their_loss, atol=1e-5, rtol=1e-5)
    trl_runs.assert_equal_gradients(policy, trainer)
    return stats, trainer


def assert_equal_metrics(stats, trainer, *names):
    for name in ("rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", *names):
        (expected,) = trainer._metrics["train"][name]
        assert stats[name].sum.item() / stats[name].count == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_gradients_and_metrics_equal_those_of_trl(tiny, pictures, tmp_path, family, case):
    stats, trainer = check(tiny[family], pictures, tmp_path, *CASES[case])
    assert_equal_metrics(stats, trainer, "logps/chosen", "logps/rejected")


@pytest.mark.parametrize("case", LINKS)
def test_every_link_and_option_equals_that_of_trl(tiny, pictures, tmp_path, case):
    assert_equal_metrics(*check(tiny["llava"], pictures, tmp_path, *LINKS[case]))
