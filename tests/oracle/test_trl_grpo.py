"""Losses, gradients and metrics of policy gradients against TRL's GRPO, RLOO and GMPO trainers, on one batch of one
tiny model with pictures: the same answers, advantages, old and reference log-probabilities."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import trl_runs

from sightline.algorithms.registry import build_algorithm
from sightline.data.render import Renderer
from sightline.models.layout import lay_out
from sightline.types import Group, Response

pytest.importorskip("trl", reason="trl is not installed (extra: bench)")
pytestmark = pytest.mark.oracle

ANSWERS = ((41, 52, 63, 44), (71, 42), (55, 66, 47), (58, 49, 60, 51, 62, 43))
REWARDS = (1.0, 0.0, 3.0, 1.0)
LONGEST = 8
APART = (0.3, -0.02, 0.01, -0.3, 0.02, 0.12, -0.15, 0.05, -0.01, 0.2, 0.0, -0.25, 0.02, 0.08, -0.06)
"""Log-ratio of every token to the policy that sampled it: some inside every bound, some outside."""

CASES = {
    "grpo": ({"name": "grpo", "beta": 0.3}, {"loss_type": "grpo"}),
    "two-sided": (
        {"name": "grpo", "epsilon": 0.1, "delta": 1.15},
        {"loss_type": "grpo", "epsilon": 0.1, "delta": 1.15},
    ),
    "dr_grpo": (
        {"name": "dr_grpo", "length": LONGEST, "beta": 0.3},
        {"loss_type": "dr_grpo", "scale_rewards": "none", "max_completion_length": LONGEST},
    ),
    "dapo": ({"name": "dapo", "beta": 0.3, "kl_by_ratio": True}, {"loss_type": "dapo", "epsilon_high": 0.28}),
    "bnpo": ({"name": "bnpo"}, {"loss_type": "bnpo"}),
    "gspo": (
        {"name": "gspo", "beta": 0.3, "epsilon": 0.05, "epsilon_high": 0.03},
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.05, "epsilon_high": 0.03},
    ),
    "luspo": (
        {"name": "luspo", "epsilon": 0.05, "epsilon_high": 0.03},
        {"loss_type": "luspo", "importance_sampling_level": "sequence", "epsilon": 0.05, "epsilon_high": 0.03},
    ),
    "cispo": ({"name": "cispo", "cap": 1.1}, {"loss_type": "cispo", "epsilon_high": 1.1}),
    "sapo": ({"name": "sapo"}, {"loss_type": "sapo"}),
    "gmpo": ({"name": "gmpo", "epsilon": 0.1, "beta": 0.3}, {"epsilon": 0.1, "epsilon_high": 0.1}),
    "rloo": ({"name": "rloo", "epsilon": 0.1, "beta": 0.3}, {"epsilon": 0.1}),
}


def trainer_of(name, options, folder, processor, tmp_path):
    import trl
    from datasets import Dataset
    from transformers import AutoModelForImageTextToText

    kind = {"rloo": "RLOO"}.get(name, "GRPO")
    module = trl
    if name == "gmpo":
        from trl.experimental import gmpo as module

        kind = "GMPO"
    config = getattr(module, f"{kind}Config")(
        output_dir=str(tmp_path / "trl"), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to=[],
        num_generations=2, per_device_train_batch_size=4, gradient_accumulation_steps=1, **options,
    )  # fmt: skip
    made = getattr(module, f"{kind}Trainer")(
        model=AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="sdpa"),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=config,
        processing_class=processor,
        train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": "what"}]}]),
    )
    made.current_gradient_accumulation_steps = 1
    return made


def sampled(pictures):
    responses = [
        Response(text="", tokens=ids, reward=reward, rewards={"own": reward})
        for ids, reward in zip(ANSWERS, REWARDS, strict=True)
    ]
    return [
        Group(prompts=(trl_runs.prompt_of(i, pictures),), responses=tuple(responses[2 * i : 2 * i + 2])) for i in (0, 1)
    ]


def padded(rows, *, left):
    """Ids and mask of rows of unequal lengths."""
    most = max(map(len, rows))
    filled = [(0,) * (most - len(row)) + row if left else row + (0,) * (most - len(row)) for row in rows]
    marks = [[0] * (most - len(r)) + [1] * len(r) if left else [1] * len(r) + [0] * (most - len(r)) for r in rows]
    return torch.tensor(filled), torch.tensor(marks)


def spread(column, mask):
    """[N] values at the places of a padded row."""
    made = torch.zeros(mask.shape)
    made[mask.bool()] = column
    return made


def inputs_of(batch, rendered):
    """What TRL's loss reads: rows are answers."""
    groups = [group for group in rendered for _ in group.responses]
    prompts, prompt_mask = padded([group.prompts[0].tokens for group in groups], left=True)
    answers, mask = padded(ANSWERS, left=False)
    first = torch.tensor([0, 4, 6, 9])
    old = spread(batch.old_logprobs, mask)
    return {
        "prompt_ids": prompts, "prompt_mask": prompt_mask, "completion_ids": answers, "completion_mask": mask,
        "pixel_values": torch.cat([group.images[0].tensors["pixel_values"] for group in groups]),
        "advantages": batch.advantages[first], "old_per_token_logps": old, "old_logps": old.sum(1),
        "ref_per_token_logps": spread(batch.ref_logprobs, mask), "num_items_in_batch": mask.sum().float(),
        "num_images": [1] * len(groups),
    }  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_loss_gradients_and_metrics_equal_those_of_trl(tiny, pictures, tmp_path, name):
    ours, theirs = CASES[name]
    algorithm, world = build_algorithm(ours), trl_runs.OneProcess()
    policy, reference, folders = trl_runs.different_models(tiny["llava"], tmp_path)
    kl = {"beta": ours.get("beta", 0.0), "use_bias_correction_kl": "kl_by_ratio" in ours}
    kl = {"rloo": {}, "gmpo": {"beta": kl["beta"]}}.get(name, kl)  # RLOO has it in the reward
    trainer = trainer_of(name, {**theirs, **kl}, folders[0], policy.processor, tmp_path)
    renderer = Renderer(policy.processor, policy.family)
    rendered = [renderer.render(group) for group in sampled(pictures)]
    batch = lay_out(rendered, "tree", policy.family, policy.config)
    with torch.no_grad():
        logprobs = policy(batch).logprobs
        apart = torch.tensor(
            [0.3, -0.02, 0.01, -0.3, 0.02, 0.12, -0.15, 0.05, -0.01, 0.2, 0.0, -0.25, 0.02, 0.08, -0.06]
        )
        batch = batch.with_columns(old_logprobs=logprobs - apart, ref_logprobs=reference(batch).logprobs)
        (batch,) = algorithm.prepare_step([batch], [True], world)
    expected = trainer._compute_loss(trainer.model.train(), inputs_of(batch, rendered))
    expected.backward()
    terms, stats = algorithm.loss(batch, policy(batch, algorithm.heads), world)
    loss = sum(term.coefficient * term.values.sum() / batch.count(term.unit) for term in terms)
    loss.backward()
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    trl_runs.assert_equal_gradients(policy, trainer)
    logged = trainer._metrics["train"]
    compared = [key for key in logged if key in stats]
    assert {"entropy"} < set(compared) or name == "sapo"
    for key in compared:
        stat = replace(stats[key])
        own = float(stat.sum) / (stat.count if stat.kind == "mean" else 1)
        assert own == pytest.approx(logged[key][0], abs=1e-5), key
