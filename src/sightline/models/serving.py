"""A policy as an inference server takes it: its weights under the names of a checkpoint, or its adapter."""

from __future__ import annotations

from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor

from sightline.models.adapters import POLICY
from sightline.models.policy import Policy

_FLAT_TOWERS = ("clip_vision_model", "siglip_vision_model")
"""Towers whose modules transformers 5 holds without the ``vision_model`` around them that checkpoints and servers
name."""


def served_weights(policy: Policy) -> list[tuple[str, Tensor]]:
    """All weights by the names that servers load; those that are tied once. No copies."""
    flat = policy.config.vision_config.model_type in _FLAT_TOWERS
    return [(_served(policy, name) if flat else name, value) for name, value in policy.base.named_parameters()]


def _served(policy: Policy, name: str) -> str:
    tower = next((prefix for prefix in policy.family.vision if name.startswith(prefix)), None)
    if tower is None or policy.part_of(name) != "vision" or name.startswith(f"{tower}vision_model."):
        return name
    return f"{tower}vision_model.{name.removeprefix(tower)}"


def adapter_fault(policy: Policy) -> str | None:
    """Why servers cannot take the policy as a LoRA adapter; None: they can."""
    if not policy.has_adapter:
        return "it has none. Set model.parts.language to lora, or sync to weights"
    config = policy.model.peft_config[POLICY]
    layers = [module for module in policy.base.modules() if isinstance(module, BaseTunerLayer)]
    if not all(isinstance(layer, LoraLayer) for layer in layers) or config.use_dora or config.bias != "none":
        return "servers take plain LoRA, without DoRA and without biases. Train such an adapter"
    inside = {id(one) for layer in layers for one in layer.parameters()}
    whole = [name for name, one in policy.model.named_parameters() if one.requires_grad and id(one) not in inside]
    if whole:
        return f"{whole[0]} is trained whole. Freeze it, or give it LoRA"
    return None
