"""Towers that take windows and pictures end to end: one call is what one call per window is, forward and backward."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText

from sightline.data.render import Renderer
from sightline.models import tower, varlen
from sightline.models.layout import lay_out
from sightline.models.load import load_policy
from sightline.models.policy import Policy
from sightline.models.tower import TOWER
from sightline.recipes.schema import ModelSpec, PartsSpec
from sightline.types import Group, Prompt, Response
from tiny_families import BUILDERS, save_family

PACKED = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v", "glm46v", "qwen3_5")


@pytest.fixture(scope="module", params=PACKED)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_family(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(params=["in full", "adapter", "recomputed"])
def policy(request: pytest.FixtureRequest, folder: Path) -> Policy:
    parts = PartsSpec(language="lora", projector="lora", vision="lora" if request.param == "adapter" else "full")
    layout: Any = "rows" if "qwen3_5" in folder.name else "tree"
    spec = ModelSpec(path=str(folder), layout=layout, parts=parts, gradient_checkpointing=request.param == "recomputed")
    made = load_policy(spec).double().train()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return made


def features(policy: Policy, pictures: list[str]) -> torch.Tensor:
    """Of four pictures of different sizes, and the gradients of the tower."""
    question = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is it?"}]}
    groups = [
        Group(prompts=(Prompt(id=path, messages=(question,), images=(path,)),), responses=(Response(text="a cat"),))
        for path in pictures
    ]
    renderer = Renderer(policy.processor, policy.family)
    batch = lay_out([renderer.render(group) for group in groups], "packed", policy.family, policy.config)
    policy.zero_grad(set_to_none=True)
    vision = {name: part.double() if part.is_floating_point() else part for name, part in batch.vision.items()}
    found = policy.family.features(policy.base.model, vision)
    (found * torch.linspace(-1, 1, found.numel(), dtype=found.dtype).view_as(found)).sum().backward()
    slopes = [p.grad.flatten() for n, p in policy.base.named_parameters() if ".visual." in n and p.grad is not None]
    assert len(slopes) > 10
    return torch.cat([found.detach().flatten(), *slopes])


def plainly(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    """As transformers computes it."""
    configs = [getattr(module, "config", None) for module in policy.base.modules()]
    packed = {id(one): one for one in configs if getattr(one, "_attn_implementation", "") == TOWER}
    assert packed
    for one in packed.values():
        monkeypatch.setattr(one, "_attn_implementation", "sdpa")


def test_one_call_is_one_call_per_window(policy: Policy, pictures: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    forward = varlen.forward
    monkeypatch.setattr(tower.varlen, "forward", lambda *given: calls.append(given[3]) or forward(*given))
    own = features(policy, pictures[:4])
    assert not calls
    with monkeypatch.context() as kernel:
        kernel.setattr(tower.varlen, "kernel_takes", lambda *_: True)
        packed = features(policy, pictures[:4])
    assert calls and all(len(call.queries) > 4 for call in calls)
    plainly(policy, monkeypatch)
    plain = features(policy, pictures[:4])
    assert torch.equal(own, plain)
    torch.testing.assert_close(packed, plain, rtol=1e-10, atol=1e-10 * float(plain.abs().max()))


def test_the_models_own_config_says_nothing_of_it(tmp_path: Path) -> None:
    """Other models are made from it, by quantisers too."""
    policy = load_policy(ModelSpec(path=str(save_family("qwen2_5_vl", tmp_path / "model"))))
    again = AutoModelForImageTextToText.from_config(policy.config)
    assert policy.config.vision_config._attn_implementation == again.config.vision_config._attn_implementation == "sdpa"
    copied = deepcopy(policy)
    assert copied.base.model.visual.config._attn_implementation == TOWER
    assert copied.base.model.visual.config is copied.base.model.visual.blocks[0].attn.config
    policy.base.save_pretrained(tmp_path / "saved")
    assert "flash" not in (tmp_path / "saved" / "config.json").read_text()
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path / "saved")
    assert plain.config.vision_config._attn_implementation == "sdpa"


def test_every_tower_that_asks_where_sequences_end_is_packed() -> None:
    """A family that transformers gives such a tower later belongs above."""
    found = set()
    for name, build in BUILDERS.items():
        model, _ = build()
        if any("cu_seqlens" in module.forward.__code__.co_varnames for module in model.modules() if _is_vision(module)):
            found.add(name)
    assert found - {"qwen3_5_moe"} == set(PACKED)


def _is_vision(module: torch.nn.Module) -> bool:
    return "Vision" in type(module).__name__ and hasattr(module.forward, "__code__")


def test_the_operator_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Queries that a rotation left in float32 beside values in bfloat16."""
    torch.manual_seed(0)
    parts = [torch.randn(1, 2, 12, 8, requires_grad=True) for _ in range(3)]
    ends = torch.tensor([0, 5, 12])
    monkeypatch.setattr(tower.varlen, "kernel_takes", lambda _, dtype, __: dtype == torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        given = (parts[0], parts[1], parts[2].bfloat16(), None)
        found, _ = tower.tower_attention(torch.nn.Identity(), *given, scaling=0.3, cu_seq_lens_q=ends, max_length_q=7)
    assert found.dtype == torch.bfloat16 and found.shape == (1, 12, 2, 8)
    expected = torch.cat(
        [
            torch.nn.functional.scaled_dot_product_attention(*(p[:, :, a:b] for p in parts), scale=0.3)
            for a, b in ((0, 5), (5, 12))
        ],
        dim=2,
    ).transpose(1, 2)
    torch.testing.assert_close(found.float(), expected, rtol=0.03, atol=0.03)
    found.float().sum().backward()
    assert all(part.grad is not None and part.grad.isfinite().all() for part in parts)
