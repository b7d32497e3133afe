"""The critic: its values in every layout, under its own adapter or the policy's; trained, saved and loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from groups import corner_groups

from sightline.data.render import Renderer
from sightline.errors import CheckpointError, UnsupportedError
from sightline.models.family import PARTS
from sightline.models.layout import lay_out
from sightline.models.load import load_policy
from sightline.models.named_adapters import adapter_parameters, add_adapter
from sightline.models.policy import Policy
from sightline.models.value_head import VALUE, ValueHead, load_value_head
from sightline.recipes.critic import CriticSpec
from sightline.recipes.schema import LoraSpec, ModelSpec, PartsSpec
from sightline.train.critic import add_critic
from sightline.types import Batch, Head
from tiny_models import save_tiny

BOTH: frozenset[Head] = frozenset({"logprobs", "values"})
LANGUAGE = PartsSpec(language="lora", projector="frozen", vision="frozen")


def with_critic(path: Path, *, apart: bool, **options: object) -> Policy:
    torch.manual_seed(0)
    spec: dict[str, object] = {"path": str(path), "parts": LANGUAGE, "lora": LoraSpec(rank=2)}
    policy = load_policy(ModelSpec(**(spec | options)))  # type: ignore[arg-type]
    for parameter in adapter_parameters(policy.model, "default").values():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    if apart:
        add_adapter(policy.model, VALUE, "default", trained=True)
        for parameter in adapter_parameters(policy.model, VALUE).values():
            parameter.data.add_(0.05 * torch.randn_like(parameter))
    policy.value_head = ValueHead(policy.config.get_text_config().hidden_size, adapter=VALUE if apart else None)
    torch.nn.init.normal_(policy.value_head.weight)
    return policy


def laid_out(policy: Policy, pictures: list[str], layout: str = "tree") -> Batch:
    renderer = Renderer(policy.processor, policy.family)
    groups = [renderer.render(one) for one in corner_groups(pictures)]
    return lay_out(groups, layout, policy.family, policy.config)  # type: ignore[arg-type]


@pytest.mark.parametrize("apart", [False, True], ids=["shared", "apart"])
def test_values_are_the_head_on_what_predicts_each_token(
    tiny: dict[str, Path], pictures: list[str], apart: bool
) -> None:
    policy = with_critic(tiny["llava"], apart=apart)
    batch = laid_out(policy, pictures)
    with torch.no_grad():
        scores = policy(batch, BOTH)
        policy.model.set_adapter(VALUE if apart else "default")
        hidden = policy.hidden(batch)[batch.source]
        expected = hidden @ policy.value_head.weight + policy.value_head.bias
    assert scores.values.shape == scores.logprobs.shape
    assert torch.allclose(scores.values, expected, atol=1e-6) and scores.values.std() > 0.1


@pytest.mark.parametrize("apart", [False, True], ids=["shared", "apart"])
def test_layouts_agree(tiny: dict[str, Path], pictures: list[str], apart: bool) -> None:
    policy = with_critic(tiny["qwen2_5_vl"], apart=apart)
    with torch.no_grad():
        rows, packed, tree = (policy(laid_out(policy, pictures, name), BOTH) for name in ("rows", "packed", "tree"))
    for other in (packed, tree):
        assert torch.allclose(rows.values, other.values, atol=1e-5)
        assert torch.allclose(rows.logprobs, other.logprobs, atol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_an_adapter_of_its_own_parts_the_gradients(
    tiny: dict[str, Path], pictures: list[str], checkpointing: bool
) -> None:
    policy = with_critic(tiny["llava"], apart=True, gradient_checkpointing=checkpointing)
    batch = laid_out(policy, pictures)

    def moved(values: bool) -> set[str]:
        policy.zero_grad()
        scores = policy(batch, BOTH)
        (scores.values if values else scores.logprobs).sum().backward()
        graded = [n for n, p in policy.named_parameters() if p.grad is not None and p.grad.abs().max() > 0]
        return {next(step for step in name.split(".") if step in ("default", VALUE, "value_head")) for name in graded}

    assert moved(values=True) == {VALUE, "value_head"}
    assert moved(values=False) == {"default"}


def test_a_critic_starts_at_zero_and_counts_as_trained(tiny: dict[str, Path], pictures: list[str]) -> None:
    policy = load_policy(ModelSpec(path=str(tiny["llava"])))
    batch = laid_out(policy, pictures)
    with pytest.raises(UnsupportedError, match="no head"):
        policy(batch, BOTH)
    policy.value_head = ValueHead(policy.config.get_text_config().hidden_size)
    assert not policy(batch, BOTH).values.any()
    assert {"value_head.weight", "value_head.bias"} == {name for name, _ in policy.parts()["critic"]}
    assert {"value_head.weight", "value_head.bias"} <= policy.trainable_state().keys()


def test_the_critic_is_saved_in_a_folder_inside(tiny: dict[str, Path], tmp_path: Path, pictures: list[str]) -> None:
    policy = with_critic(tiny["llava"], apart=True)
    batch = laid_out(policy, pictures)
    policy.save(tmp_path)
    spec = ModelSpec(path=str(tiny["llava"]), parts=LANGUAGE, adapter=str(tmp_path))
    again = load_policy(spec)
    add_adapter(again.model, VALUE, tmp_path / VALUE, trained=True, base_model=again.base_model)
    again.value_head = load_value_head(tmp_path / VALUE, again.config.get_text_config().hidden_size, adapter=VALUE)
    with torch.no_grad():
        before, after = policy(batch, BOTH), again(batch, BOTH)
    assert torch.equal(before.values, after.values) and torch.equal(before.logprobs, after.logprobs)
    with torch.no_grad():
        assert torch.equal(load_policy(replace(spec), trainable=False)(batch).logprobs, before.logprobs)


def test_the_reference_does_not_move_with_a_critic(tiny: dict[str, Path], pictures: list[str]) -> None:
    policy = load_policy(ModelSpec(path=str(tiny["llava"]), parts=LANGUAGE))
    add_adapter(policy.model, VALUE, "default", trained=True)
    policy.keep_reference()
    batch = laid_out(policy, pictures)
    start = policy(batch).logprobs.detach()
    for name in ("default", VALUE):
        for parameter in adapter_parameters(policy.model, name).values():
            parameter.data.add_(torch.randn_like(parameter))
    assert torch.equal(policy(batch, reference=True).logprobs, start)


def test_folders_without_a_critic_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no value_head"):
        load_value_head(tmp_path, 8)
    ValueHead(16).save(tmp_path)
    with pytest.raises(CheckpointError, match="16"):
        load_value_head(tmp_path, 8)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("parts", [("full", "lora", "frozen"), ("lora", "full", "full")], ids="-".join)
def test_all_that_is_trained_of_a_critic_gets_a_gradient(
    tmp_path: Path, pictures: list[str], parts: tuple[str, str, str], tied: bool
) -> None:
    """Where parts are copied whole: its LM head is read by nothing, nor is the last layer of the tower."""
    path = save_tiny("llava", tmp_path, tied=tied)
    spec = PartsSpec(**dict(zip(PARTS, parts, strict=True)))  # type: ignore[arg-type]
    policy = load_policy(ModelSpec(path=str(path), parts=spec, lora=LoraSpec(rank=2)))
    add_critic(policy, CriticSpec())
    with torch.no_grad():
        policy.value_head.weight.normal_()
    scores = policy(laid_out(policy, pictures), BOTH)
    (scores.values.sum() + scores.logprobs.sum()).backward()
    trained = [name for name, parameter in policy.named_parameters() if parameter.requires_grad]
    assert trained and trained == [name for name, parameter in policy.named_parameters() if parameter.grad is not None]
    assert any(VALUE in name.split(".") and "embed_tokens" in name for name in trained) == (parts[0] == "full")
