"""Adapters of every kind that PEFT has: scored, sampled and referred to as PEFT's own forward computes, or refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import train_runs
from peft import LoraConfig, PeftModel, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from torch import Tensor
from transformers import AutoModelForImageTextToText

from sightline.data.render import Renderer
from sightline.errors import RecipeError
from sightline.models.adapters import check_kind
from sightline.models.layout import lay_out
from sightline.models.load import load_policy
from sightline.models.policy import Policy
from sightline.recipes.schema import ModelSpec, SamplingSpec
from sightline.rollouts.hf import HFEngine
from sightline.types import Batch, LayoutName

TARGETS = ["q_proj", "v_proj", "down_proj", "lm_head"]
FITTING: dict[str, dict[str, Any]] = {
    # what a kind needs to fit a tiny model
    "ADALORA": {"total_step": 10},
    "C3A": {"block_size": 2},
    "FOURIERFT": {"n_frequency": 50},
    "IA3": {"feedforward_modules": ["down_proj"]},
    "LN_TUNING": {"target_modules": ["input_layernorm", "norm"]},
    "MISS": {"r": 2},
    "PSOFT": {"r": 4},
    "ROAD": {"group_size": 2},
    "SHIRA": {"r": 2},
    "TRAINABLE_TOKENS": {"target_modules": ["embed_tokens", "lm_head"], "token_indices": [5, 6, 7, 100]},
    "VBLORA": {"vector_length": 2, "num_vectors": 16},
    "WAVEFT": {"n_frequency": 50},
}
LORAS: dict[str, dict[str, Any]] = {
    "embeddings": {"target_modules": [*TARGETS, "embed_tokens"]},
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True},
    "bias": {"lora_bias": True},
    "patterns": {"rank_pattern": {"lm_head": 3}, "alpha_pattern": {"q_proj": 77}},
    "pissa": {"init_lora_weights": "pissa"},
    "parameters": {"target_modules": ["q_proj"], "target_parameters": ["lm_head.weight"]},
    "head saved whole": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]},
    "tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [5, 6, 7, 100]},
    "tokens of the head": {"target_modules": ["q_proj"], "trainable_token_indices": {"lm_head": [5, 7, 100]}},
}
REFUSED = {
    *("ADAMSS", "ADAPTION_PROMPT", "CARTRIDGE", "CPT", "LILY", "MULTITASK_PROMPT_TUNING", "POLY", "PREFIX_TUNING"),
    *("PROMPT_TUNING", "P_TUNING", "SHADOW", "XLORA"),
}
ONCE = {"ADALORA"}
"""Of which PEFT, or what they share, allows one only."""


def config_of(kind: str) -> Any:
    made = next(config for name, config in PEFT_TYPE_TO_CONFIG_MAPPING.items() if name.value == kind)
    targets = {"target_modules": TARGETS} if any(f.name == "target_modules" for f in dataclasses.fields(made)) else {}
    return made(**(targets | FITTING.get(kind, {})))


def saved(model: Path, folder: Path, config: Any) -> Path:
    """An adapter by PEFT's own hand, as after training."""
    torch.manual_seed(1)
    adapted = get_peft_model(AutoModelForImageTextToText.from_pretrained(model), config)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    adapted.save_pretrained(folder)
    return folder


def batch_of(policy: Policy, folder: Path, layout: LayoutName) -> Batch:
    pictures = train_runs.draw(folder / "pictures")
    renderer = Renderer(policy.processor, policy.family)
    groups = [renderer.render(train_runs.group(index, pictures, 2)) for index in range(3)]
    return lay_out(groups, layout, policy.family, policy.config)


@torch.no_grad()
def peft_logprobs(model: Any, policy: Policy, rows: Batch) -> Tensor:
    """By one call of the whole model, as anybody would."""
    lengths = torch.bincount(rows.segment)
    kept = torch.arange(int(lengths.max()))[None] < lengths[:, None]
    ids, pictures = torch.zeros_like(kept, dtype=torch.long), torch.zeros_like(kept)
    ids[kept] = rows.tokens
    marks = torch.zeros_like(rows.tokens, dtype=torch.bool)
    marks[rows.placeholder] = True
    pictures[kept] = marks
    extra = policy.family.row_inputs(pictures, pictures, rows.vision)
    logits = model(input_ids=ids, attention_mask=kept.long(), use_cache=False, **rows.vision, **extra).logits
    return torch.log_softmax(logits[kept][rows.source], -1).gather(-1, rows.target[:, None])[:, 0]


def check(model: Path, tmp_path: Path, config: Any, *, once: bool) -> None:
    folder = saved(model, tmp_path / "adapter", config)
    policy = load_policy(ModelSpec(path=str(model), adapter=str(folder))).eval()
    rows, tree = (batch_of(policy, tmp_path, layout) for layout in ("rows", "tree"))
    base = AutoModelForImageTextToText.from_pretrained(model).eval()
    plain = peft_logprobs(base, policy, rows)
    expected = peft_logprobs(PeftModel.from_pretrained(base, str(folder)).eval(), policy, rows)
    assert (expected - plain).abs().max() > 3e-4, "this adapter changes nothing, so it shows nothing"
    with torch.no_grad():
        for batch in (rows, tree):
            torch.testing.assert_close(policy(batch).logprobs, expected, atol=3e-6, rtol=0)
    if once:
        with pytest.raises(RecipeError, match=r"is there only once.*Set reference to copy or cache"):
            policy.keep_reference()
        return
    policy.keep_reference()
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))
        trained = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
        moved = policy(tree).logprobs
        assert (moved - expected).abs().max() > 1e-4
        torch.testing.assert_close(policy(tree, reference=True).logprobs, expected, atol=3e-6, rtol=0)
        assert torch.equal(policy(tree).logprobs, moved)
        assert {name for name, parameter in policy.named_parameters() if parameter.requires_grad} == trained


def test_every_kind_is_here() -> None:
    assert {kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING} >= REFUSED | ONCE | set(FITTING)


@pytest.mark.parametrize("kind", sorted({kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING} - REFUSED))
def test_every_kind_that_sits_in_the_layers(tiny: dict[str, Path], tmp_path: Path, kind: str) -> None:
    check(tiny["llava"], tmp_path, config_of(kind), once=kind in ONCE)


@pytest.mark.parametrize("name", LORAS)
def test_every_form_of_lora(tiny: dict[str, Path], tmp_path: Path, name: str) -> None:
    check(tiny["llava"], tmp_path, LoraConfig(**({"target_modules": TARGETS} | LORAS[name])), once=False)


@pytest.mark.parametrize("family", ["llava_next", "qwen2_5_vl"])
def test_an_adapter_on_the_head_of_every_family(tiny: dict[str, Path], tmp_path: Path, family: str) -> None:
    check(tiny[family], tmp_path, LoraConfig(target_modules=[*TARGETS, "embed_tokens"]), once=False)


@pytest.mark.parametrize("kind", sorted(REFUSED))
def test_every_other_kind_is_refused(tmp_path: Path, kind: str) -> None:
    config = {"peft_type": kind, "task_type": "CAUSAL_LM"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(RecipeError, match=rf"of the kind {kind}, which does not|of a kind that is not scored"):
        check_kind(str(tmp_path))


def test_a_lora_that_the_prompt_switches_on_is_refused(tiny: dict[str, Path], tmp_path: Path) -> None:
    folder = saved(tiny["llava"], tmp_path, LoraConfig(target_modules=["q_proj"], alora_invocation_tokens=[5]))
    with pytest.raises(RecipeError, match="LORA with alora_invocation_tokens"):
        load_policy(ModelSpec(path=str(tiny["llava"]), adapter=str(folder)), trainable=False)


@pytest.mark.parametrize("name", ["embeddings", "dora", "tokens of the head"])
def test_sampler_and_scorer_read_the_same_head(tiny: dict[str, Path], tmp_path: Path, name: str) -> None:
    config = LoraConfig(**({"target_modules": TARGETS} | LORAS[name]))
    folder = saved(tiny["llava"], tmp_path / "adapter", config)
    policy = load_policy(ModelSpec(path=str(tiny["llava"]), adapter=str(folder)), trainable=False)
    engine = HFEngine(policy)
    pictures = train_runs.draw(tmp_path / "pictures")
    prompts = [train_runs.group(index, pictures, 0) for index in range(3)]
    answered = engine.generate(prompts, SamplingSpec(n=2, max_new_tokens=8), seed=0)
    renderer = Renderer(policy.processor, policy.family)
    batch = lay_out([renderer.render(group) for group in answered], "tree", policy.family, policy.config)
    sampled = torch.tensor([x for group in answered for r in group.responses for x in r.rollout_logprobs or ()])
    with torch.no_grad():
        torch.testing.assert_close(policy(batch).logprobs, sampled, atol=1e-5, rtol=0)


def test_the_head_is_trained_through_its_adapter(tiny: dict[str, Path], tmp_path: Path) -> None:
    """The same gradients as by one call of the whole model."""
    folder = saved(tiny["llava"], tmp_path / "adapter", LoraConfig(target_modules=TARGETS))
    policy = load_policy(ModelSpec(path=str(tiny["llava"]), adapter=str(folder)))
    rows = batch_of(policy, tmp_path, "rows")
    policy(rows).logprobs.sum().backward()
    found = {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}
    policy.zero_grad()
    head, hidden = policy.base.get_output_embeddings(), policy.hidden(rows)[rows.source]
    logprobs = torch.log_softmax(head(hidden), -1).gather(-1, rows.target[:, None])
    logprobs.sum().backward()
    assert any("lm_head.lora_A" in name for name in found)
    for name, parameter in policy.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad, atol=1e-5, rtol=1e-4)
