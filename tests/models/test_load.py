"""Loading: named scopes, what is frozen, what is saved, and errors that say what to change."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from groups import corner_groups
from peft import PeftModel
from transformers import AutoModelForImageTextToText, AutoProcessor

from sightline.data.render import Renderer
from sightline.errors import CheckpointError, RecipeError, UnsupportedError
from sightline.models.layout import lay_out
from sightline.models.load import load_policy
from sightline.models.policy import Policy
from sightline.recipes.schema import LoraSpec, ModelSpec, PartsSpec
from sightline.types import Batch
from tiny_models import FAMILIES

LINEAR_OF_LANGUAGE = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def policy_of(
    path: Path, language: str = "full", projector: str = "full", vision: str = "frozen", **options: object
) -> Policy:
    parts = PartsSpec(language=language, projector=projector, vision=vision)  # type: ignore[arg-type]
    return load_policy(ModelSpec(path=str(path), parts=parts, **options))  # type: ignore[arg-type]


def batch_of(policy: Policy, pictures: list[str]) -> Batch:
    renderer = Renderer(policy.processor, policy.family)
    groups = [renderer.render(group) for group in corner_groups(pictures)]
    return lay_out(groups, "tree", policy.family, policy.config)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("trained", ["language", "projector", "vision"])
def test_each_part_is_trained_by_itself(tiny: dict[str, Path], pictures: list[str], family: str, trained: str) -> None:
    modes = {part: "full" if part == trained else "frozen" for part in ("language", "projector", "vision")}
    policy = policy_of(tiny[family], **modes)
    assert {part for part, parameters in policy.parts().items() if parameters} == {trained}
    policy(batch_of(policy, pictures)).logprobs.sum().backward()
    without = [name for name, p in policy.named_parameters() if p.requires_grad and p.grad is None]
    assert without == [], "a trained parameter never gets a gradient: DDP would wait for it"
    assert policy.sees_frozen == (trained == "language")


@pytest.mark.parametrize("family", FAMILIES)
def test_lora_reaches_its_scope_and_nothing_else(tiny: dict[str, Path], family: str) -> None:
    for part in ("language", "projector", "vision"):
        modes = {name: "lora" if name == part else "frozen" for name in ("language", "projector", "vision")}
        policy = policy_of(tiny[family], **modes, lora=LoraSpec(rank=2))
        parts = policy.parts()
        assert parts[part]
        assert all("lora_" in name for name, _ in parts[part])
        assert not any(parts[other] for other in parts if other != part)
    language = policy_of(tiny[family], "lora", "frozen", lora=LoraSpec(rank=2)).parts()["language"]
    assert {name.split(".lora_")[0].rsplit(".", 1)[-1] for name, _ in language} == LINEAR_OF_LANGUAGE
    attention = policy_of(tiny[family], "lora", "frozen", lora=LoraSpec(rank=2, targets="attention")).parts()[
        "language"
    ]
    assert {name.split(".lora_")[0].rsplit(".", 1)[-1] for name, _ in attention} == {
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_adapter_is_one_that_peft_reads(
    tiny: dict[str, Path], pictures: list[str], tmp_path: Path, family: str
) -> None:
    policy = policy_of(tiny[family], "lora", "full", lora=LoraSpec(rank=2)).eval()
    with torch.no_grad():
        for _, parameter in (*policy.parts()["language"], *policy.parts()["projector"]):
            parameter.add_(0.02 * torch.randn_like(parameter))
        batch = batch_of(policy, pictures)
        expected = policy(batch).logprobs
        policy.save(tmp_path)
        again = load_policy(ModelSpec(path=str(tiny[family]), adapter=str(tmp_path)), trainable=False)
        assert torch.equal(again(batch).logprobs, expected)
        plain = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(tiny[family]), str(tmp_path))
        merged = Policy(plain.merge_and_unload(), again.processor, again.family, attention="dense").eval()
        assert torch.allclose(merged(batch).logprobs, expected, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_is_one_that_transformers_reads(
    tiny: dict[str, Path], pictures: list[str], tmp_path: Path, family: str
) -> None:
    policy = policy_of(tiny[family]).eval()
    with torch.no_grad():
        policy.base.get_output_embeddings().weight.mul_(1.5)
        policy.save(tmp_path)
        expected = policy(batch_of(policy, pictures)).logprobs
        again = policy_of(tmp_path).eval()
        assert torch.equal(again(batch_of(again, pictures)).logprobs, expected)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert model.config.text_config._attn_implementation == "sdpa"
    assert AutoProcessor.from_pretrained(tmp_path).chat_template


def test_state_of_what_is_trained_goes_back(tiny: dict[str, Path]) -> None:
    policy = policy_of(tiny["llava"], "lora", "frozen", lora=LoraSpec(rank=2))
    state = {name: value.clone() for name, value in policy.trainable_state().items()}
    assert all("lora_" in name for name in state)
    with torch.no_grad():
        for _, parameter in policy.parts()["language"]:
            parameter.add_(1)
    policy.load_trainable_state(state)
    assert all(torch.equal(value, state[name]) for name, value in policy.trainable_state().items())
    with pytest.raises(CheckpointError, match="train different parameters"):
        policy.load_trainable_state(dict(list(state.items())[1:]))


def test_a_frozen_copy_stays_as_it_is(tiny: dict[str, Path], pictures: list[str]) -> None:
    policy = policy_of(tiny["llava"]).eval()
    copy, batch = policy.reference_copy(), batch_of(policy, pictures)
    with torch.no_grad():
        before = policy(batch).logprobs
        policy.base.get_input_embeddings().weight.add_(0.1)
        assert torch.equal(copy(batch).logprobs, before)
    assert not any(parameter.requires_grad for parameter in copy.parameters())


def test_errors_say_what_to_change(tiny: dict[str, Path], pictures: list[str], tmp_path: Path) -> None:
    gone = r"no model could be loaded from .*nothing' \(there is no such folder; as a name on the hub: .*a hub name"
    with pytest.raises(RecipeError, match=gone):
        policy_of(tmp_path / "nothing")
    with pytest.raises(RecipeError, match=r"there is no config\.json in this folder"):
        policy_of(tmp_path)
    with pytest.raises(RecipeError, match="nothing is trained"):
        policy_of(tiny["llava"], "frozen", "frozen", "frozen")
    with pytest.raises(UnsupportedError, match=r"no head .'reward'."):
        policy = policy_of(tiny["llava"])
        policy(batch_of(policy, pictures), frozenset({"reward"}))
    with pytest.raises(UnsupportedError, match="reference by adapter was asked for and the model has none"):
        policy(batch_of(policy, pictures), reference=True)
