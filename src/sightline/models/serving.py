"""A policy as an inference server takes it: its weights under the names of a checkpoint, or its adapter."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from torch import Tensor

from sightline.models.adapters import POLICY
from sightline.models.export import quantised
from sightline.models.family import base_name
from sightline.models.policy import Policy
from sightline.models.quantized import is_quantized

FLAT_TOWERS = ("clip_vision_model", "siglip_vision_model")
"""Towers whose modules transformers 5 holds without the ``vision_model`` around them that checkpoints and servers
name."""
_UNDER = ".base_layer."
"""Before the tensors of a layer that an adapter lies on."""


@dataclass(frozen=True, kw_only=True)
class ServedWeight:
    """One tensor of a whole model."""

    name: str
    """By which servers load it."""
    stored: Tensor
    """As it lies in the policy, which is its shape and its type."""
    layer: BaseTunerLayer | None = None
    """What lies on it and belongs into it; None: nothing."""

    @torch.no_grad()
    def whole(self) -> Tensor:
        """With what lies on it; the policy stays as it is. A copy only where there is something. Outside of autocast,
        which would multiply an adapter's two halves in bfloat16."""
        if self.layer is None:
            return self.stored
        merged = deepcopy(self.layer)
        with torch.autocast(self.stored.device.type, enabled=False):
            merged.merge(adapter_names=[POLICY])
        return merged.get_base_layer().get_parameter(self.name.rpartition(".")[2])


def served_weights(policy: Policy) -> list[ServedWeight]:
    """All weights by the names that servers load; those that are tied once. Copies nothing."""
    flat = policy.config.vision_config.model_type in FLAT_TOWERS
    layers = {name: one for name, one in policy.base.named_modules() if isinstance(one, BaseTunerLayer)}
    unserved, served = _unserved(policy), []
    for name, stored in policy.base.named_parameters():
        if id(stored) in unserved:
            continue
        owner = name.rpartition(_UNDER)[0]
        plain = base_name(name).replace(_UNDER, ".")
        served.append(
            ServedWeight(
                name=_served(policy, plain) if flat else plain, stored=stored, layer=layers[owner] if owner else None
            )
        )
    return served


def _unserved(policy: Policy) -> set[int]:
    """Ids of the parameters that are no weights of the model as it samples: of adapters, of what a trained copy stands
    for, and of copies that other adapters have."""
    left: set[int] = set()
    for module in policy.base.modules():
        if isinstance(module, BaseTunerLayer):
            left |= {id(one) for name, one in module.named_parameters() if not f".{name}".startswith(_UNDER)}
        elif isinstance(module, ModulesToSaveWrapper):
            copies = module.modules_to_save
            others = [copies[name] for name in copies if name != POLICY]
            others += [module.original_module] if POLICY in copies else []
            left |= {id(one) for other in others for one in other.parameters()}
    return left


def _served(policy: Policy, name: str) -> str:
    tower = next((prefix for prefix in policy.family.vision if name.startswith(prefix)), None)
    if tower is None or policy.part_of(name) != "vision" or name.startswith(f"{tower}vision_model."):
        return name
    return f"{tower}vision_model.{name.removeprefix(tower)}"


def weights_fault(policy: Policy) -> str | None:
    """Why servers cannot take the policy as whole weights, an adapter merged into them; None: they can."""
    if quantised(policy.base) is not None or is_quantized(policy.base):
        return "its weights are quantised, and servers take whole ones. Set sync to adapter"
    layers = [module for module in policy.base.modules() if isinstance(module, BaseTunerLayer)]
    if any(isinstance(layer.base_layer, BaseTunerLayer) for layer in layers) or any(
        isinstance(module, AuxiliaryTrainingWrapper) and not isinstance(module, ModulesToSaveWrapper)
        for module in policy.base.modules()
    ):
        return "its adapter is of a kind that is not merged layer by layer. Use LoRA"
    if tied := next(_tied(policy, layers), None):
        return f"its adapter lies on {tied}, which the model ties to another weight. Untie it, or merge the adapter"
    return None


def _tied(policy: Policy, layers: list[BaseTunerLayer]) -> Iterator[str]:
    """Weights under an adapter that stand in another place as well, where they would be changed or left out."""
    under = {id(one) for layer in layers for one in layer.get_base_layer().parameters()}
    seen: set[int] = set()
    for name, parameter in policy.base.named_parameters(remove_duplicate=False):
        if id(parameter) in seen & under:
            yield name.replace(_UNDER, ".")
        seen.add(id(parameter))


def adapter_fault(policy: Policy) -> str | None:
    """Why servers cannot take the policy as a LoRA adapter; None: they can."""
    if not policy.has_adapter:
        return "it has none. Set model.parts.language to lora, or sync to weights"
    config = policy.model.peft_config[POLICY]
    layers = {name: module for name, module in policy.base.named_modules() if isinstance(module, BaseTunerLayer)}
    if not all(isinstance(one, LoraLayer) for one in layers.values()) or config.use_dora or config.bias != "none":
        return "servers take plain LoRA, without DoRA and without biases. Train such an adapter, or set sync to weights"
    inside = {id(one) for layer in layers.values() for one in layer.parameters()}
    whole = [
        n for n, m in policy.base.named_modules() if isinstance(m, ModulesToSaveWrapper) and POLICY in m.modules_to_save
    ]
    whole += [
        name
        for name, one in policy.model.named_parameters()
        if one.requires_grad and id(one) not in inside and ".modules_to_save." not in name
    ]
    if whole:
        return f"{whole[0]} is trained whole. Freeze it, give it LoRA, or set sync to weights"
    apart = [name for name, one in layers.items() if POLICY in one.r and policy.part_of(f"{name}.") != "language"]
    if apart:
        return (
            f"it lies on {apart[0]} too, and servers leave out what lies on tower or projector, without a word. Set "
            "sync to weights"
        )
    return None
