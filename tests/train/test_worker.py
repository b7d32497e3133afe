"""A worker samples as the trainer would: whatever is trained, of whatever start, in whatever type."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
import train_runs

from engines.models import moved, prompts
from sightline.errors import CheckpointError
from sightline.models.load import load_policy
from sightline.recipes.critic import CriticSpec
from sightline.recipes.schema import LoraSpec, PartsSpec, SamplingSpec
from sightline.rollouts.hf import HFEngine
from sightline.train.critic import add_critic
from sightline.train.worker import PolicyWorker, fingerprint_of, sampled_state
from tiny_models import save_tiny

SAMPLING = SamplingSpec(n=2, max_new_tokens=5)
BOTH = PartsSpec(language="lora", projector="full", vision="lora")
COMBINATIONS = {
    "whole": ("llava", {}, "no"),
    "whole in bfloat16": ("qwen2_5_vl", {"dtype": "bfloat16"}, "no"),
    "tower": ("qwen2_5_vl", {"parts": PartsSpec(language="frozen", projector="frozen", vision="full")}, "no"),
    "adapter and projector": ("qwen2_5_vl", {"parts": BOTH, "lora": LoraSpec(rank=2, dora=True)}, "no"),
    "adapter in bfloat16": ("llava", {"parts": BOTH, "dtype": "bfloat16"}, "no"),
    "adapter under autocast": ("llava", {"parts": BOTH}, "bf16"),
    "adapter on 4 bits": (
        "llava",
        {"parts": PartsSpec(language="lora", projector="frozen"), "quantization": "nf4"},
        "no",
    ),
    "adapter that was there": ("llava", {"adapter": True}, "no"),
    "part of it": ("llava", {"adapter": True, "parts": PartsSpec(language="lora", projector="frozen")}, "no"),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return {name: save_tiny(name, tmp_path_factory.mktemp(name)) for name in ("llava", "qwen2_5_vl")}


@pytest.mark.parametrize("name", COMBINATIONS)
def test_a_worker_gives_the_answers_of_the_trainer(models, name, tmp_path):
    family, fields, precision = COMBINATIONS[name]
    base = train_runs.online(models[family], tmp_path, "train_runs:CountsE", mixed_precision=precision)
    model = replace(base.model, **({"parts": None} | fields | {"adapter": None}))
    if "adapter" in fields:
        there = load_policy(replace(model, parts=BOTH, lora=LoraSpec(rank=2)))
        moved(there, 1.0, seed=3)
        there.save(tmp_path / "adapter")
        model = replace(model, parts=fields.get("parts"), lora=None, adapter=str(tmp_path / "adapter"))
    recipe = replace(base, model=model)
    policy = load_policy(model)
    worker = PolicyWorker(recipe, base=fingerprint_of(policy), device="cpu")
    if policy.has_adapter:
        add_critic(policy, CriticSpec())  # nothing of which is sent
    if policy.start_adapter is not None:
        policy.keep_reference()
    groups, here = prompts(tmp_path, 3), HFEngine(policy)
    autocast = torch.autocast("cpu", dtype=torch.bfloat16) if precision == "bf16" else nullcontext()
    for version in range(2):
        moved(policy, 1.0, seed=version)
        worker.load(sampled_state(policy))
        with autocast:
            own = here.generate(groups, SAMPLING, seed=5)
        assert worker.generate(groups, SAMPLING, 5) == own
    moved(policy, 1.0, seed=7)
    with autocast:
        assert worker.generate(groups, SAMPLING, 5) != here.generate(groups, SAMPLING, seed=5)


def test_what_another_recipe_trains_is_not_taken(models, tmp_path):
    base = train_runs.online(models["llava"], tmp_path, "train_runs:CountsE")
    policy = load_policy(base.model)
    other = replace(base, model=replace(base.model, parts=PartsSpec(vision="frozen")))
    with pytest.raises(CheckpointError, match="train different parameters"):
        PolicyWorker(other, base=fingerprint_of(policy), device="cpu").load(sampled_state(policy))
