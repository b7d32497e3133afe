"""The layouts ``packed`` and ``tree``: one row of all tokens through the decoder, which attends by a plan."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from sightline.models.attention_plan import TreePlan, best_form, plan_attention
from sightline.models.family import Family
from sightline.models.recurrence import tree_inputs
from sightline.types import Batch


class Decoder(Protocol):
    """The part of ``models.policy.Policy`` that this needs."""

    attention: Any
    family: Family

    @property
    def base(self) -> Any: ...

    @property
    def config(self) -> Any: ...

    @property
    def language(self) -> Any: ...

    def image_features(self, batch: Batch) -> Tensor: ...


def flat_output(policy: Decoder, batch: Batch, **options: Any) -> Any:
    """What the decoder gives for a flat batch: ``last_hidden_state`` [1,T,D], after the final norm.

    Args:
        policy: whose decoder.
        batch: on its device.
        options: further inputs of the decoder, such as a cache of keys and values to fill.
    """
    embeds, inputs = _embedded(policy, batch)
    return policy.language(
        inputs_embeds=embeds,
        position_ids=batch.positions[None] if batch.positions.dim() == 1 else batch.positions[:, None],
        # a mask of four axes is passed on untouched: it keeps transformers from building its own
        attention_mask=embeds.new_zeros(1, 1, 1, 1),
        tree_plan=flat_plan(policy, batch, embeds.dtype),
        **_followed(policy, batch),
        **inputs,
        **({"use_cache": False} | options),
    )


def flat_plan(policy: Decoder, batch: Batch, dtype: torch.dtype) -> TreePlan:
    """How the attention of a flat batch is computed; kept with the batch.

    Args:
        policy: whose decoder attends.
        batch: in layout ``packed`` or ``tree``.
        dtype: of the hidden states.
    """
    form = policy.attention
    if form == "auto":
        form = best_form(batch, policy.config.get_text_config(), dtype)
    if form not in batch.plans:
        batch.plans[form] = plan_attention(batch, form)
    plan: TreePlan = batch.plans[form]
    return plan


def _embedded(policy: Decoder, batch: Batch) -> tuple[Tensor, dict[str, Any]]:
    """[1,T,D] embeddings, pictures in their places, and further inputs of the decoder."""
    ids = batch.tokens.index_fill(0, batch.placeholder, 0)[None]  # a placeholder may have no embedding of its own
    embeds, more = policy.base.get_input_embeddings()(ids), []  # no view: a compiled layer would tell it apart
    if batch.vision:
        features = policy.image_features(batch) if batch.features is None else batch.features
        first, *more = features[batch.feature].to(embeds.dtype).split(embeds.shape[2], dim=1)
        embeds = embeds.index_copy(1, batch.placeholder, first[None])
    marks = torch.zeros_like(ids, dtype=torch.bool).index_fill(1, batch.placeholder, True)
    return embeds, policy.family.layer_inputs(policy.language, ids, marks, more)


def _followed(policy: Decoder, batch: Batch) -> dict[str, Tensor]:
    """What recurrent layers follow, where there are some; kept with the batch."""
    if not policy.family.recurrent:
        return {}
    if "recurrence" not in batch.plans:
        batch.plans["recurrence"] = tree_inputs(plan_attention(batch, "dense"))
    inputs: dict[str, Tensor] = batch.plans["recurrence"]
    return inputs
