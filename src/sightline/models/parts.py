"""How each part of a model is trained: the modules that LoRA adapts, those that are copied and trained in full, and
what an adapter that is there already trains.

Names are exact: a part never takes a module of another, whatever lies inside what (the projector of a Qwen-VL is a
child of its tower), and LoRA takes linear layers alone.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from peft.utils import ModulesToSaveWrapper
from torch import nn

from sightline.errors import RecipeError
from sightline.models.family import PARTS, Family, base_name
from sightline.recipes.schema import LoraSpec, Mode, ModelSpec, PartsSpec

_COPIES = ".modules_to_save."


def modes_of(parts: PartsSpec) -> dict[str, Mode]:
    """Mode of each part, by its name."""
    return {"language": parts.language, "projector": parts.projector, "vision": parts.vision}


def lora_config(model: Any, family: Family, parts: PartsSpec, lora: LoraSpec) -> LoraConfig:
    """A PEFT config whose targets are the linear layers of the parts in mode ``lora``.

    Parts in mode ``full`` are trained as PEFT ``modules_to_save``: copies, so that switching the
    adapter off gives back the untrained model. What is no module, a bare tensor between parts (``image_newline`` of
    LLaVA-NeXT), an adapter cannot hold; it stays as it is.
    """
    modes = modes_of(parts)
    linear, adapted = _linear(model), list[str]()
    for part in [part for part in PARTS if modes[part] == "lora"]:
        adapted += _targets(linear, family, part, lora.targets, model.config)
    copied = [name for part in PARTS if modes[part] == "full" for name in _whole(model, "", family, part)]
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=exactly(adapted),
        modules_to_save=copied or None,
        use_dora=lora.dora,
        use_rslora=lora.rslora,
    )


def _linear(model: nn.Module) -> list[str]:
    """Names of all linear layers but the LM head, adapted or not."""
    found = [(name, getattr(module, "base_layer", module)) for name, module in model.named_modules()]
    return [
        name
        for name, module in found
        if isinstance(module, nn.Linear) and name != "lm_head" and ".lora_" not in name and "base_layer" not in name
    ]


def _targets(linear: Sequence[str], family: Family, part: str, targets: str, config: Any) -> list[str]:
    """Names of the linear layers of a part that get an adapter; layers that nothing reads do not."""
    unused = family.unused(config)
    names = [n for n in linear if family.part_of(f"{n}.") == part and not f"{n}.".startswith(unused)]
    if targets != "all-linear" and part != "projector":
        names = [name for name in names if ("attn" in name) == (targets == "attention")]
    if not names:
        raise RecipeError(
            f"model.parts.{part} is lora and no linear layer matches model.lora.targets {targets!r}. "
            "Set targets to all-linear, or the part to full or frozen"
        )
    return names


def _whole(module: nn.Module, name: str, family: Family, part: str) -> list[str]:
    """Names of the largest modules, from ``name`` on, that hold tensors of this part alone. PEFT copies modules that
    are called: a list of layers is not."""
    held = {family.part_of(f"{name}.{own}".lstrip(".")) for own, _ in module.named_parameters()}
    if part not in held:
        return []
    if held == {part} and not isinstance(module, nn.ModuleList):
        return [name]
    children = [(f"{name}.{own}".lstrip("."), child) for own, child in module.named_children()]
    return [found for own, child in children for found in _whole(child, own, family, part)]


def exactly(names: Sequence[str]) -> str:
    """A regular expression that these module names match in full, and no others; layers that differ by their number
    share an alternative."""
    numbers: dict[tuple[str, str], list[str]] = defaultdict(list)  # by what stands around the first number
    for name in names:
        head, number, tail = re.match(r"(\D*)(\d*)(.*)", name).groups()  # type: ignore[union-attr]
        numbers[head, tail].append(number)
    tails: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
    for (head, tail), found in numbers.items():
        tails[head, tuple(found)].append(re.escape(tail))
    return "|".join(re.escape(head) + _either(found) + _either(ends) for (head, found), ends in tails.items())


def _either(options: Sequence[str]) -> str:
    return options[0] if len(options) == 1 else f"(?:{'|'.join(options)})"


def tie_copies(model: PeftModel) -> None:
    """Lets copies of modules share the tensors that the modules themselves share: PEFT copies one by one, so that tied
    embeddings would come apart. Copies that hold different values, from elsewhere, stay apart."""
    first: dict[tuple[str, int], nn.Parameter] = {}
    wrappers = [module for module in model.modules() if isinstance(module, ModulesToSaveWrapper)]
    copies = [(each, name, copy) for each in wrappers for name, copy in each.modules_to_save.items()]
    for wrapper, adapter, copy in copies:
        for name, original in wrapper.original_module.named_parameters(remove_duplicate=False):
            own = copy.get_parameter(name)
            shared = first.setdefault((adapter, id(original)), own)
            if shared is not own and torch.equal(shared, own):
                owner, _, leaf = name.rpartition(".")
                setattr(copy.get_submodule(owner), leaf, shared)


# --- an adapter that is there already ---


def resolve(model: PeftModel, family: Family, spec: ModelSpec) -> dict[str, Mode]:
    """How each part is trained where a run goes on from ``spec.adapter``: as the adapter does, or as ``spec.parts``
    says, which may leave parts of it frozen.

    Args:
        model: with the adapter, loaded for training.
        family: of the model.
        spec: ``parts`` and ``lora`` where the recipe has them.

    Raises:
        RecipeError: they ask for what the adapter is not.
    """
    held = _held(model, family)
    if spec.lora is not None:
        _check_lora(model, family, held, spec)
    if spec.parts is None:
        return held
    asked = modes_of(spec.parts)
    for part, mode in asked.items():
        if mode not in ("frozen", held[part]):
            raise RecipeError(
                f"model.parts.{part} is {mode}, and model.adapter {spec.adapter} holds it as {held[part]}: an adapter "
                f"that is there trains as it is. Set the part to {_or(held[part])}, or leave model.parts out"
            )
    return asked


def _held(model: PeftModel, family: Family) -> dict[str, Mode]:
    """Mode of each part, from the tensors of the adapter."""
    held: dict[str, Mode] = dict.fromkeys(PARTS, "frozen")
    for name, parameter in model.named_parameters():
        part = family.part_of(base_name(name))
        if parameter.requires_grad and held[part] != "lora":
            held[part] = "full" if _COPIES in name else "lora"
    return held


def _check_lora(model: PeftModel, family: Family, held: Mapping[str, Mode], spec: ModelSpec) -> None:
    lora, adapter, found = spec.lora, spec.adapter, model.peft_config["default"]
    assert lora is not None
    if not isinstance(found, LoraConfig):
        raise RecipeError(
            f"model.lora is set, and model.adapter {adapter} is of type {found.peft_type}. Leave model.lora out"
        )
    base = model.get_base_model()
    adapted = {name for name, module in base.named_modules() if "default" in getattr(module, "lora_A", ())}
    parts = [part for part in PARTS if held[part] == "lora"]
    there: dict[str, object] = {
        "rank": found.r,
        "alpha": found.lora_alpha,
        "dropout": found.lora_dropout,
        "dora": found.use_dora,
        "rslora": found.use_rslora,
        "targets": _named_targets(_linear(base), family, parts, adapted, base.config),
    }
    differ = {name: value for name, value in there.items() if value != vars(lora)[name]}
    if differ:
        told = ", ".join(f"{name} {value} where model.lora says {vars(lora)[name]}" for name, value in differ.items())
        raise RecipeError(
            f"model.adapter {adapter} has {told}: an adapter that is there keeps its shape. Leave model.lora out, or "
            "start a new adapter on the merged model"
        )


def _named_targets(linear: Sequence[str], family: Family, parts: Sequence[str], adapted: set[str], config: Any) -> str:
    """Which ``targets`` these layers are; ``other`` where none."""
    for targets in ("all-linear", "attention", "mlp"):
        if adapted == {name for part in parts for name in _targets(linear, family, part, targets, config)}:
            return targets
    return "other"


def _or(mode: Mode) -> str:
    return "frozen" if mode == "frozen" else f"{mode} or frozen"
