"""PPO's critic: a value head on the policy, alone or with an adapter of its own on the policy's base model."""

from __future__ import annotations

from pathlib import Path

import torch

from sightline.errors import RecipeError
from sightline.models.adapters import switched
from sightline.models.family import base_name
from sightline.models.locate import is_adapter, model_folder
from sightline.models.named_adapters import adapter_parameters, add_adapter
from sightline.models.policy import Policy
from sightline.models.score_head import has_score_head, load_score_head
from sightline.models.value_head import VALUE, WEIGHTS, ValueHead, load_value_head
from sightline.recipes.critic import CriticSpec


def add_critic(policy: Policy, spec: CriticSpec) -> None:
    """Gives the policy its value head. Every rank calls, before the policy is placed.

    Raises:
        RecipeError: an adapter of its own for a policy without one, or a start that is none.
    """
    own = policy.has_adapter if spec.hidden == "auto" else spec.hidden == "own"
    start = None if spec.start is None else model_folder(spec.start)
    if own:
        if not policy.has_adapter:
            raise RecipeError(
                "critic.hidden is own, and the policy has no adapter that a second could stand beside. Set it to policy"
            )
        if start is not None and not is_adapter(start):
            raise RecipeError(
                f"critic.start {spec.start} holds no adapter, and the critic is one on the policy's base model. Name a "
                "reward model that was trained with LoRA on that model, or remove critic.start"
            )
        add_adapter(
            policy.model, VALUE, "default" if start is None else start, trained=True, base_model=policy.base_model
        )
        _freeze_unread(policy)
    elif start is not None and spec.head == "zeros":
        raise RecipeError(
            f"critic.start is {spec.start}, and a critic on the policy's hidden states takes nothing of it but the "
            "head. Set critic.head to start, or remove critic.start"
        )
    size = policy.config.get_text_config().hidden_size
    head = ValueHead(size) if spec.head == "zeros" or start is None else _head_of(start, size)
    head.adapter = VALUE if own else None
    policy.value_head = head


def _freeze_unread(policy: Policy) -> None:
    """Freezes what no value depends on of the critic's adapter: whole layers behind the one that is read, an LM head.
    It would never get a gradient, and DDP would wait for it."""
    unused = policy.family.unused(policy.config)
    with switched(policy.model, VALUE):
        read = {id(parameter) for parameter in policy.base.get_input_embeddings().parameters()}
        head = {id(parameter) for parameter in policy.base.get_output_embeddings().parameters()} - read
    for name, parameter in adapter_parameters(policy.model, VALUE).items():
        if base_name(name).startswith(unused) or id(parameter) in head:
            parameter.requires_grad_(False)


def _head_of(start: Path, size: int) -> ValueHead:
    if (start / WEIGHTS).is_file():
        return load_value_head(start, size)
    if not has_score_head(start):
        raise RecipeError(
            f"critic.head is start, and {start} has neither a score head nor a value head. Name a reward model, or set "
            "critic.head to zeros"
        )
    head, scores = ValueHead(size), load_score_head(start, size)
    with torch.no_grad():
        head.weight.copy_(scores.weight)
    return head
