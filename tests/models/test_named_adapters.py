"""Several named adapters on one base, the roles of PPO: each is switched to exactly, trained and saved by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from groups import corner_groups
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForImageTextToText

from doc_blocks import run_page
from sightline.data.render import Renderer
from sightline.errors import RecipeError, UnsupportedError
from sightline.models.adapters import switched
from sightline.models.layout import lay_out
from sightline.models.load import load_policy
from sightline.models.named_adapters import adapter_parameters, add_adapter, save_adapter, train_adapter
from sightline.models.policy import Policy
from sightline.recipes.schema import LoraSpec, ModelSpec, PartsSpec
from sightline.types import Batch

LANGUAGE = PartsSpec(language="lora", projector="frozen", vision="frozen")
ROLES = {"reference": False, "value": True, "reward": False}


def loaded(path: Path, **options: object) -> Policy:
    base: dict[str, object] = {"path": str(path), "parts": LANGUAGE, "lora": LoraSpec(rank=2)}
    torch.manual_seed(0)
    return load_policy(ModelSpec(**(base | options)))  # type: ignore[arg-type]


@torch.no_grad()
def stirred(policy: Policy, seed: int, name: str = "default") -> Policy:
    torch.manual_seed(seed)
    for parameter in adapter_parameters(policy.model, name).values():
        parameter.add_(0.05 * torch.randn_like(parameter))
    return policy


@pytest.fixture(scope="module")
def reward(tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter as a reward model leaves it: of another rank, and with a projector of its own."""
    parts = PartsSpec(language="lora", projector="full", vision="frozen")
    policy = stirred(loaded(tiny["llava"], parts=parts, lora=LoraSpec(rank=3, targets="attention")), 5)
    folder = tmp_path_factory.mktemp("reward") / "model"
    policy.save(folder)
    return folder


@pytest.fixture
def roles(tiny: dict[str, Path], reward: Path) -> Policy:
    """Policy and reference from one adapter, value and reward from another, as LLaVA-RLHF has them."""
    policy = stirred(loaded(tiny["llava"]), 1)
    add_adapter(policy.model, "reference", "default", trained=False)
    for name in ("value", "reward"):
        add_adapter(policy.model, name, reward, trained=ROLES[name], base_model=policy.base_model)
    return policy


@pytest.fixture(scope="module")
def batch(tiny: dict[str, Path], pictures: list[str]) -> Batch:
    policy = load_policy(ModelSpec(path=str(tiny["llava"])), trainable=False)
    renderer = Renderer(policy.processor, policy.family)
    return lay_out([renderer.render(one) for one in corner_groups(pictures)], "tree", policy.family, policy.config)


def scored(policy: Policy, batch: Batch, name: str | None = "default") -> Tensor:
    with torch.no_grad(), switched(policy.model, name):
        found: Tensor = policy(batch).logprobs
    return found


def test_the_page_of_models_runs(tiny: dict[str, Path], reward: Path, batch: Batch, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/reward").mkdir(parents=True)
    (tmp_path / "runs/reward/model").symlink_to(reward)
    policy = loaded(tiny["llava"])
    run_page(Path(__file__).parents[2] / "docs/models.md", {"policy": policy, "batch": batch})
    reached = {
        name: any(one.grad is not None for one in adapter_parameters(policy.model, name).values())
        for name in ("default", "reference", "value")
    }
    assert reached == {"default": False, "reference": False, "value": True}
    assert (tmp_path / "runs/value/adapter_model.safetensors").is_file()


def test_each_adapter_gives_what_it_gives_alone(roles: Policy, reward: Path, tiny: dict[str, Path], batch: Batch):
    alone = load_policy(ModelSpec(path=str(tiny["llava"]), adapter=str(reward)), trainable=False)
    plain = load_policy(ModelSpec(path=str(tiny["llava"])), trainable=False)
    first = stirred(loaded(tiny["llava"]), 1)
    expected = {
        "default": scored(first, batch),
        "reference": scored(first, batch),
        "value": scored(alone, batch),
        "reward": scored(alone, batch),
        None: plain(batch).logprobs,
    }
    for name in (*expected, *reversed(expected)):
        assert torch.equal(scored(roles, batch, name), expected[name]), name
    assert not torch.allclose(expected["default"], expected["value"], atol=1e-3)


def test_the_base_is_there_once(roles: Policy, tiny: dict[str, Path]) -> None:
    added = {id(p) for name in ROLES for p in adapter_parameters(roles.model, name).values()}
    rest = sum(p.numel() for p in roles.parameters() if id(p) not in added)
    assert rest == sum(p.numel() for p in loaded(tiny["llava"]).parameters())
    storages = [p.data_ptr() for p in roles.parameters()]
    assert len(storages) == len(set(storages))  # adapters share nothing with each other
    sizes = {name: sum(p.numel() for p in adapter_parameters(roles.model, name).values()) for name in ROLES}
    assert all(0 < size < rest / 4 for size in sizes.values())


def test_each_adapter_is_trained_or_frozen_by_itself(roles: Policy) -> None:
    def trained() -> set[str]:
        named = ("default", *ROLES)
        flags = {name: {p.requires_grad for p in adapter_parameters(roles.model, name).values()} for name in named}
        assert all(len(found) == 1 for found in flags.values())
        return {name for name, found in flags.items() if found == {True}}

    assert trained() == {"default", "value"}
    for name in ("reward", "default", "reference"):  # switching thaws nothing
        with switched(roles.model, name):
            assert trained() == {"default", "value"}
    train_adapter(roles.model, "default", False)
    train_adapter(roles.model, "reward", True)
    assert trained() == {"value", "reward"}
    assert {n.split(".")[-2] for n in roles.trainable_state()} == {"value", "reward"} | {"linear_1", "linear_2"}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_of_one_role_leave_the_others_alone(
    tiny: dict[str, Path], reward: Path, batch: Batch, checkpointing: bool
) -> None:
    """Backward passes come after the switch is back: activations that are recomputed then are those of the forward."""
    policy = stirred(loaded(tiny["llava"], gradient_checkpointing=checkpointing), 1).train()
    add_adapter(policy.model, "value", reward, trained=True)
    alone = load_policy(ModelSpec(path=str(tiny["llava"]), adapter=str(reward))).train()
    alone(batch).logprobs.sum().backward()
    expected = {n.replace(".default", ""): p.grad for n, p in alone.named_parameters() if p.grad is not None}
    with switched(policy.model, "value"):
        loss = policy(batch).logprobs.sum()
    loss.backward()
    found = {n: p.grad for n, p in policy.named_parameters() if p.grad is not None}
    assert all(".value" in name for name in found)
    assert found.keys() == {n for n in policy.state_dict(keep_vars=True) if n in found}
    plain = {name.replace(".value", ""): value for name, value in found.items()}
    assert plain.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in plain.items())


def test_an_adapter_on_the_lm_head_is_recomputed_as_it_was(tiny: dict[str, Path], batch: Batch, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(2)
    config = LoraConfig(r=2, target_modules=["lm_head", "q_proj"], init_lora_weights=False)
    get_peft_model(AutoModelForImageTextToText.from_pretrained(tiny["llava"]), config).save_pretrained(tmp_path / "h")
    policy = load_policy(ModelSpec(path=str(tiny["llava"]), adapter=str(tmp_path / "h"))).train()
    policy(batch).logprobs.sum().backward()
    expected = {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None}
    policy.zero_grad()
    loss = policy(batch).logprobs.sum()
    with switched(policy.model, None):
        loss.backward()
    assert all(torch.equal(p.grad, expected[n]) for n, p in policy.named_parameters() if p.grad is not None)


def test_a_step_of_one_role_moves_that_role_alone(roles: Policy, batch: Batch) -> None:
    before = {name: scored(roles, batch, name) for name in ("default", *ROLES)}
    optimizer = torch.optim.SGD([p for p in roles.parameters() if p.requires_grad], lr=0.5)
    with switched(roles.model, "value"):
        roles(batch).logprobs.mean().backward()
    optimizer.step()
    moved = {name for name, old in before.items() if not torch.equal(scored(roles, batch, name), old)}
    assert moved == {"value"}


def test_each_adapter_is_saved_by_itself(roles: Policy, tiny: dict[str, Path], batch: Batch, tmp_path: Path) -> None:
    stirred(roles, 7, "value")
    for name in ("default", *ROLES):
        save_adapter(roles.model, name, tmp_path / name, roles.base_model)
        again = load_policy(ModelSpec(path=str(tiny["llava"]), adapter=str(tmp_path / name)), trainable=False)
        assert torch.equal(scored(again, batch), scored(roles, batch, name)), name
        assert not [path for path in (tmp_path / name).iterdir() if path.is_dir()]
    model = AutoModelForImageTextToText.from_pretrained(tiny["llava"])
    assert PeftModel.from_pretrained(model, tmp_path / "value").peft_config["default"].r == 3


def test_what_cannot_be_laid_beside_is_refused(roles: Policy, tiny: dict[str, Path], reward: Path, tmp_path: Path):
    for name in ("value", "default", "q_proj", "a.b"):
        with pytest.raises(RecipeError, match="cannot be called"):
            add_adapter(roles.model, name, reward, trained=False)
    with pytest.raises(RecipeError, match="could not be laid beside default, reference, value, reward as more"):
        add_adapter(roles.model, "more", tmp_path / "nothing", trained=False)
    with pytest.raises(UnsupportedError, match="there is no adapter 'critic'"), switched(roles.model, "critic"):
        pass
    other = loaded(tiny["llava_next"])
    with pytest.raises(RecipeError, match="was trained on"):
        add_adapter(other.model, "value", reward, trained=True, base_model=other.base_model)
    low = loaded(tiny["llava"], dtype="bfloat16")
    with pytest.raises(RecipeError, match="would lose small steps"):
        add_adapter(low.model, "value", reward, trained=True)


def test_roles_share_a_quantised_base(tiny: dict[str, Path], reward: Path, batch: Batch) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (extra: quantize)")
    policy = stirred(loaded(tiny["llava"], quantization="nf4", gradient_checkpointing=True), 1).train()
    batch = batch.to(policy.device)
    start = scored(policy, batch)
    add_adapter(policy.model, "reference", "default", trained=False)
    add_adapter(policy.model, "value", reward, trained=True)
    with switched(policy.model, "value"):
        loss = policy(batch).logprobs.sum()
    loss.backward()
    with_gradient = {n.split(".")[-2] for n, p in policy.named_parameters() if p.grad is not None and "lora_" in n}
    assert with_gradient == {"value"}
    stirred(policy, 2)
    assert torch.equal(scored(policy, batch, "reference"), start)
