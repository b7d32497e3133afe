"""rows = packed = tree: the same log-probabilities and the same gradients."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from groups import corner_groups
from torch import Tensor

from sightline.data.render import Renderer
from sightline.models.layout import lay_out
from sightline.models.load import load_policy
from sightline.models.policy import Policy
from sightline.recipes.schema import LoraSpec, ModelSpec, PartsSpec
from sightline.types import Batch, Group
from tiny_models import FAMILIES

FULL = PartsSpec(language="full", projector="full", vision="full")
LORA = PartsSpec(language="lora", projector="full", vision="lora")


def policy_of(path: Path, **options: object) -> Policy:
    torch.manual_seed(0)
    policy = load_policy(ModelSpec(path=str(path), **options))  # type: ignore[arg-type]
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:  # zero at the start: an adapter that changes nothing proves nothing
            torch.nn.init.normal_(parameter, std=0.05)
    return policy


def batch_of(policy: Policy, groups: Sequence[Group], layout: str) -> Batch:
    renderer = Renderer(policy.processor, policy.family)
    return lay_out([renderer.render(group) for group in groups], layout, policy.family, policy.config)  # type: ignore[arg-type]


def score(policy: Policy, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Log-probs [N], and gradients of a loss that weighs every token differently."""
    policy.zero_grad(set_to_none=True)
    logprobs = policy(batch).logprobs
    weights = torch.linspace(-1, 2, logprobs.shape[0])
    (weights * logprobs).sum().backward()
    grads = {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}
    return logprobs.detach(), grads


def relative(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Largest difference of a parameter's gradients, relative to its norm. Key biases are left out:
    softmax does not see them, so their gradient is zero by theory and noise in practice."""
    assert a.keys() == b.keys()
    names = [name for name in b if not name.endswith("k_proj.bias")]
    return max(float((a[name] - b[name]).norm() / b[name].norm()) for name in names)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("parts", [FULL, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_layouts_agree(
    tiny: dict[str, Path],
    pictures: list[str],
    family: str,
    parts: PartsSpec,
    checkpointing: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every form of attention meets a whole model in both layouts, and an adapter and recomputed activations in trees:
    ``packed`` is a tree without branches."""
    policy = policy_of(tiny[family], parts=parts, lora=LoraSpec(rank=4), gradient_checkpointing=checkpointing).train()
    groups = corner_groups(pictures)
    logprobs, grads = score(policy, batch_of(policy, groups, "rows"))
    assert {policy.part_of(name.removeprefix("model.")) for name in grads} == {"language", "projector", "vision"}
    # segments: one by one; all groups stacked; some of both
    forms = [("dense", 0), ("gather", 0), ("merge", 0), ("segments", 0), ("segments", 2**40), ("segments", 1000)]
    every = parts is FULL and not checkpointing
    half = forms[parts is LORA and checkpointing :: 2]
    for layout, (form, entries) in itertools.product(*((("packed", "tree"), forms) if every else (("tree",), half))):
        policy.attention = form
        monkeypatch.setattr("sightline.models.attention_plan.SMALL_ENTRIES", entries)
        own, own_grads = score(policy, batch_of(policy, groups, layout))
        assert (own - logprobs).abs().max() < 1e-5, (layout, form, entries)
        assert relative(own_grads, grads) < 1e-5, (layout, form, entries)


@pytest.mark.parametrize("family", FAMILIES)
def test_columns_do_not_depend_on_the_layout(tiny: dict[str, Path], pictures: list[str], family: str) -> None:
    policy = policy_of(tiny[family])
    groups = corner_groups(pictures)
    rows, packed, tree = (batch_of(policy, groups, layout) for layout in ("rows", "packed", "tree"))
    for other in (packed, tree):
        for name in ("target", "response", "group", "pairs", "pair_weight"):
            assert torch.equal(getattr(other, name), getattr(rows, name)), name
    assert rows.pairs.tolist() == [[0, 1], [5, 6], [6, 7], [8, 9], [8, 10], [11, 12]]
    assert rows.group.tolist() == [0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 5]
    assert tree.tokens.shape[0] < packed.tokens.shape[0] == rows.tokens.shape[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_tree_calls_the_vision_tower_once_per_distinct_picture(
    tiny: dict[str, Path], pictures: list[str], family: str
) -> None:
    policy = policy_of(tiny[family])
    batch = batch_of(policy, corner_groups(pictures), "tree")
    assert len(batch.image_tokens) == 3
    calls = []
    tower = policy.base.get_submodule(policy.family.vision[0].rstrip("."))
    with tower.register_forward_hook(lambda *_: calls.append(1)):
        policy(batch)
    assert len(calls) == 1


def test_bfloat16_differs_by_rounding_only(tiny: dict[str, Path], pictures: list[str]) -> None:
    """bf16 keeps 8 bits, and products sum in float32: log-probs around -6 move by 0.0004 on average and 0.002 at
    most (measured), in every layout alike."""
    for family in FAMILIES:
        exact = policy_of(tiny[family])
        with torch.no_grad():
            logprobs = exact(batch_of(exact, corner_groups(pictures), "rows")).logprobs
        half = policy_of(tiny[family], dtype="bfloat16")
        for layout in ("rows", "packed", "tree"):
            with torch.no_grad():
                own = half(batch_of(half, corner_groups(pictures), layout)).logprobs
            assert own.dtype == torch.float32
            assert (own - logprobs).abs().mean() < 0.002, (family, layout)
            assert (own - logprobs).abs().max() < 0.01, (family, layout)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layout", ["rows", "packed", "tree"])
def test_a_logprob_depends_on_its_picture_and_on_nothing_else(
    tiny: dict[str, Path], pictures: list[str], family: str, layout: str
) -> None:
    policy = policy_of(tiny[family]).eval()
    groups = corner_groups(pictures)
    with torch.no_grad():
        alone = [policy(batch_of(policy, [group], layout)).logprobs for group in groups]
        for order in ([0, 1, 2, 3, 4, 5], [5, 3, 1, 4, 2, 0], [2, 0]):
            together = policy(batch_of(policy, [groups[index] for index in order], layout)).logprobs
            assert torch.allclose(together, torch.cat([alone[index] for index in order]), atol=2e-6)
        # the fourth group holds one answer under two pictures and under none
        batch = batch_of(policy, [groups[3]], layout)
        true, other, none = (alone[3][batch.response == index] for index in range(3))
    assert (true - other).abs().max() > 1e-4
    assert (true - none).abs().max() > 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_shared_features_change_nothing(tiny: dict[str, Path], pictures: list[str], family: str) -> None:
    policy = policy_of(tiny[family], parts=PartsSpec(language="lora", projector="frozen", vision="frozen"))
    batch = batch_of(policy, corner_groups(pictures), "tree")
    encoded = policy.encode(batch)
    assert encoded.features is not None
    assert encoded.features.shape[0] == sum(batch.image_tokens)
    plain, grads = score(policy, batch)
    shared, shared_grads = score(policy, encoded)
    assert torch.equal(plain, shared)
    assert relative(shared_grads, grads) < 1e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_reference_by_adapter_is_the_untrained_model(tiny: dict[str, Path], pictures: list[str], family: str) -> None:
    untrained = policy_of(tiny[family], parts=FULL)
    batch = batch_of(untrained, corner_groups(pictures), "tree")
    policy = policy_of(tiny[family], parts=LORA, lora=LoraSpec(rank=4, dropout=0.1)).train()
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if parameter.requires_grad and "lora_" not in name:
                parameter.add_(0.05)  # the fully trained projector must be set back as well
        expected = untrained(batch).logprobs
        assert torch.equal(policy(batch, reference=True).logprobs, expected)
        assert (policy.eval()(batch).logprobs - expected).abs().max() > 1e-3
