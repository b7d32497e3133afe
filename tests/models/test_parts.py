"""Every combination of modes, for every family: what is trained is what was asked for, and what is saved gives the
same numbers in plain transformers and PEFT, or the combination is refused."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from groups import corner_groups
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText

from sightline.data.render import Renderer
from sightline.errors import RecipeError
from sightline.models.family import PARTS, base_name
from sightline.models.layout import lay_out
from sightline.models.load import load_policy
from sightline.models.parts import exactly, resolve
from sightline.models.policy import Policy
from sightline.recipes.schema import LoraSpec, ModelSpec, PartsSpec
from sightline.types import Batch
from tiny_models import FAMILIES, save_tiny

MODES = ("frozen", "lora", "full")
COMBINATIONS = [dict(zip(PARTS, modes, strict=True)) for modes in product(MODES, repeat=3)]
TRAINED = [modes for modes in COMBINATIONS if set(modes.values()) != {"frozen"}]
RANK = LoraSpec(rank=2)


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models whose LM head is their input embedding."""
    root = tmp_path_factory.mktemp("tied")
    return {family: save_tiny(family, root / family, tied=True) for family in FAMILIES}


def named(modes: dict[str, str]) -> str:
    return "-".join(modes.values())


@pytest.fixture(scope="module")
def batches(tiny: dict[str, Path], pictures: list[str]) -> dict[str, Batch]:
    """Two answers to a question about a picture, for each family."""
    made = {}
    for family in FAMILIES:
        policy = load_policy(ModelSpec(path=str(tiny[family])), trainable=False)
        rendered = Renderer(policy.processor, policy.family).render(corner_groups(pictures)[0])
        made[family] = lay_out([rendered], "tree", policy.family, policy.config)
    return made


def step(policy: Policy, batch: Batch) -> Tensor:
    """Log-probabilities after one step, which reaches all that is trained."""
    policy.train()
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-2)
    policy(batch).logprobs.sum().backward()
    assert all(parameter.grad is not None for parameter in trained)
    optimizer.step()
    return scored(policy, batch)


@torch.no_grad()
def scored(policy: Policy, batch: Batch) -> Tensor:
    return policy.eval()(batch).logprobs


def trained_names(policy: Policy) -> dict[str, set[str]]:
    """What is trained of each part: tensors in full, layers under LoRA."""
    return {
        part: {base_name(name).split(".lora_")[0] for name, _ in parameters}
        for part, parameters in policy.parts().items()
    }


def expected_names(policy: Policy, plain: nn.Module, modes: dict[str, str]) -> dict[str, set[str]]:
    """The same, from the model itself."""
    family, unused = policy.family, policy.family.unused(policy.config)
    held_by_none = {"model.image_newline"} if policy.has_adapter else set()
    tensors = {name for name, _ in plain.named_parameters() if not name.startswith(unused)} - held_by_none
    linear = {name for name, module in plain.named_modules() if type(module) is nn.Linear} - {"lm_head"}
    linear = {name for name in linear if not f"{name}.".startswith(unused)}
    every = {"frozen": set[str](), "full": tensors, "lora": linear}
    return {part: {n for n in every[mode] if family.part_of(f"{n}.") == part} for part, mode in modes.items()}


def check_combination(path: Path, modes: dict[str, str], batch: Batch, folder: Path, lora: LoraSpec = RANK) -> None:
    torch.manual_seed(0)
    policy = load_policy(ModelSpec(path=str(path), parts=PartsSpec(**modes), lora=lora))  # type: ignore[arg-type]
    plain = AutoModelForImageTextToText.from_pretrained(path)
    names = trained_names(policy)
    assert names == expected_names(policy, plain, modes)
    before, after = scored(policy, batch), step(policy, batch)
    assert (after - before).abs().max() > 1e-3
    policy.save(folder)
    if not policy.has_adapter:
        again = AutoModelForImageTextToText.from_pretrained(folder)
        assert torch.allclose(scored(Policy(again, None, policy.family, attention="dense"), batch), after, atol=1e-5)
        return
    adapted = PeftModel.from_pretrained(plain, str(folder))
    assert torch.allclose(scored(Policy(adapted, None, policy.family, attention="dense"), batch), after, atol=1e-5)
    merged = adapted.merge_and_unload()
    assert torch.allclose(scored(Policy(merged, None, policy.family, attention="dense"), batch), after, atol=1e-5)
    further = load_policy(ModelSpec(path=str(path), adapter=str(folder)))
    assert trained_names(further) == names
    assert torch.equal(scored(further, batch), after)


@pytest.mark.parametrize("modes", TRAINED, ids=named)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_combination(
    tiny: dict[str, Path], batches: dict[str, Batch], tmp_path: Path, family: str, modes: dict[str, str]
) -> None:
    check_combination(tiny[family], modes, batches[family], tmp_path)


@pytest.mark.parametrize("lora", [LoraSpec(rank=2, dora=True), LoraSpec(rank=4, rslora=True)], ids=["dora", "rslora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_forms_of_lora(
    tiny: dict[str, Path], batches: dict[str, Batch], tmp_path: Path, family: str, lora: LoraSpec
) -> None:
    """Scored as PEFT computes it, saved, merged and taken up again; with a reference that stays."""
    check_combination(
        tiny[family], {"language": "lora", "projector": "lora", "vision": "frozen"}, batches[family], tmp_path, lora
    )
    policy = load_policy(ModelSpec(path=str(tiny[family]), adapter=str(tmp_path), lora=lora))
    found, scale = policy.model.peft_config["default"], {layer.scaling["default"] for layer in adapted_layers(policy)}
    assert (found.use_dora, found.use_rslora) == (lora.dora, lora.rslora)
    assert scale == {32 / 4**0.5 if lora.rslora else 32 / 2}
    policy.keep_reference()
    start = scored(policy, batches[family])
    moved = step(policy, batches[family])
    with torch.no_grad():
        assert torch.equal(policy(batches[family], reference=True).logprobs, start)
    assert not torch.allclose(moved, start, atol=1e-3)


def adapted_layers(policy: Policy) -> list[LoraLayer]:
    return [module for module in policy.modules() if isinstance(module, LoraLayer)]


@pytest.mark.parametrize("others", ["frozen", "lora", "full"])
@pytest.mark.parametrize("family", FAMILIES)
def test_tied_embeddings_stay_tied(
    tied: dict[str, Path], batches: dict[str, Batch], tmp_path: Path, family: str, others: str
) -> None:
    """Trained in full, by themselves and beside LoRA."""
    modes = {"language": "full", "projector": "full" if others == "lora" else others, "vision": others}
    check_combination(tied[family], modes, batches[family], tmp_path)
    adapted = (tmp_path / "adapter_config.json").exists()
    path, adapter = (tied[family], str(tmp_path)) if adapted else (tmp_path, None)
    again = load_policy(ModelSpec(path=str(path), adapter=adapter))
    assert again.base.get_output_embeddings().weight is again.base.get_input_embeddings().weight
    if adapted:  # and so are they in the copy of what training starts from
        start = scored(again, batches[family])
        again.keep_reference()
        moved = step(again, batches[family])
        with torch.no_grad():
            assert torch.equal(again(batches[family], reference=True).logprobs, start)
        assert not torch.allclose(moved, start, atol=1e-3)


# --- going on from an adapter ---

HELD = PartsSpec(language="lora", projector="full", vision="lora")


@pytest.fixture(scope="module")
def adapters(tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An adapter for each family."""
    root = tmp_path_factory.mktemp("adapters")
    for family in FAMILIES:
        load_policy(ModelSpec(path=str(tiny[family]), parts=HELD, lora=RANK)).save(root / family)
    return {family: str(root / family) for family in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_trains_as_it_is_or_is_refused(tiny: dict[str, Path], adapters: dict[str, str], family: str) -> None:
    spec = ModelSpec(path=str(tiny[family]), adapter=adapters[family])
    whole = load_policy(spec)
    names = trained_names(whole)
    assert all(names.values())
    for modes in COMBINATIONS:
        asked = replace(spec, parts=PartsSpec(**modes))  # type: ignore[arg-type]
        if all(mode in ("frozen", vars(HELD)[part]) for part, mode in modes.items()):
            assert resolve(whole.model, whole.family, asked) == modes
            continue
        with pytest.raises(RecipeError, match="an adapter that is there trains as it is"):
            resolve(whole.model, whole.family, asked)
    one = load_policy(replace(spec, parts=PartsSpec(language="frozen", projector="full", vision="frozen")))
    assert trained_names(one) == {"language": set(), "projector": names["projector"], "vision": set()}
    with pytest.raises(RecipeError, match="nothing is trained"):
        load_policy(replace(spec, parts=PartsSpec(language="frozen", projector="frozen", vision="frozen")))


@pytest.mark.parametrize(
    ("lora", "told"),
    [
        (LoraSpec(rank=2), None),
        (LoraSpec(rank=3), "rank 2 where model.lora says 3"),
        (LoraSpec(rank=2, dora=True), "dora False where model.lora says True"),
        (LoraSpec(rank=2, rslora=True), "rslora False where model.lora says True"),
        (LoraSpec(rank=2, alpha=7), "alpha 32.* where model.lora says 7"),
        (LoraSpec(rank=2, dropout=0.5), "dropout 0.0 where model.lora says 0.5"),
        (LoraSpec(rank=2, targets="mlp"), "targets all-linear where model.lora says mlp"),
    ],
)
def test_an_adapter_keeps_its_shape(
    tiny: dict[str, Path], adapters: dict[str, str], lora: LoraSpec, told: str | None
) -> None:
    spec = ModelSpec(path=str(tiny["llava"]), adapter=adapters["llava"], lora=lora)
    if told is None:
        load_policy(spec)
        return
    with pytest.raises(RecipeError, match=told):
        load_policy(spec)


def test_what_an_adapter_cannot_hold_stays_as_it_is(tiny: dict[str, Path]) -> None:
    """``image_newline`` is a bare tensor of the projector: trained in full with it, but never by an adapter."""
    full = load_policy(ModelSpec(path=str(tiny["llava_next"]), parts=PartsSpec(language="frozen", projector="full")))
    assert full.base.model.image_newline.requires_grad
    beside = load_policy(ModelSpec(path=str(tiny["llava_next"]), parts=HELD))
    assert not beside.base.model.image_newline.requires_grad


def test_a_pattern_matches_its_names_and_no_others() -> None:
    names = [f"tower.blocks.{n}.{leaf}" for n in range(12) for leaf in ("attn.proj", "mlp.up")]
    names += ["merger.mlp.0", "merger.mlp.2", "projector.linear_1", "projector.linear_2", "head"]
    pattern = exactly(names)
    others = ["merger.mlp.1", "tower.blocks.12.attn.proj", "tower.patch_embed.proj", "tower.blocks.1.mlp.proj", "heads"]
    assert [name for name in [*names, *others] if re.fullmatch(pattern, name)] == names
