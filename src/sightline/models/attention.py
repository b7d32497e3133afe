"""Attention over segments that see themselves causally and their ancestors entirely, as transformers calls it.

Which of its forms is computed is said by the plan (``attention_plan``). None lets one group meet another but ``dense``,
the oracle. Sliding windows count along the path from the root, so that a branch sees as far back as its row would.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from sightline.errors import UnsupportedError
from sightline.models.attention_plan import TreePlan, hidden
from sightline.models.tree_ops import gather_attention, merge_attention
from sightline.models.varlen import Sight, as_autocast

TREE = "sightline_tree"
"""Name of the attention implementation that decoders are switched to."""


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How a layer scores keys, from what transformers hands an attention function."""

    scale: float
    window: int
    """Most tokens it looks back, itself included; 0: no limit."""
    cap: float
    """Scores go through ``cap * tanh(score / cap)``; 0: as they are."""

    @classmethod
    def of(cls, query: Tensor, given: Mapping[str, Any]) -> Scoring:
        scale = given.get("scaling") or query.shape[-1] ** -0.5
        return cls(scale=scale, window=given.get("sliding_window") or 0, cap=given.get("softcap") or 0.0)

    def capped(self, scores: Tensor) -> Tensor:
        return self.cap * torch.tanh(scores / self.cap) if self.cap else scores


def tree_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    tree_plan: TreePlan | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention function for transformers' interface: query [1,H,T,d], key and value [1,Hkv,T,d].

    Without a plan (generation, the model's own forward) it is transformers' sdpa, but for scores with a cap, which
    that one does not take.

    Returns:
        [1,T,H,d] and no attention weights.

    Raises:
        UnsupportedError: scores with a cap in a form that has none, or with sinks.
    """
    if kwargs.get("s_aux") is not None:
        raise UnsupportedError(
            "the attention of this language model takes sinks ('s_aux'), which are not computed here, so that its "
            "numbers would be others. Take a model with another language model (llama, mistral, qwen2, qwen3)"
        )
    scoring = Scoring.of(query, kwargs)
    call: Callable[..., Tensor] = partial(_masked, scoring=scoring, dropout=kwargs.get("dropout", 0.0))
    if tree_plan is None and scoring.cap:
        return call(query, key, value, attention_mask).transpose(1, 2), None
    if tree_plan is None:
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return output, None
    window, plan = scoring.window, tree_plan
    if plan.form == "dense":
        return call(query, key, value, plan.dense_mask(window, query.dtype)).transpose(1, 2), None
    if plan.gather is None and plan.merge is None:
        return _by_segments(call, plan, query, key, value, window), None
    if scoring.cap:
        raise UnsupportedError(
            f"the model caps its attention scores, and model.attention {plan.form} does not. Set it to segments or auto"
        )
    output = _without_masks(plan, query, key, value, Sight(causal=True, window=window, scale=scoring.scale))
    if plan.single:
        single = _one_by_one(call, plan, query, key, value, window)[0]
        output = torch.index_copy(output, 0, _rows_of(plan), single.to(output.dtype))
    return output[None], None


# --- without masks ---


def _without_masks(plan: TreePlan, query: Tensor, key: Tensor, value: Tensor, sight: Sight) -> Tensor:
    """[T,H,d] by variable-length calls."""
    parts = as_autocast(query, key, value)
    queries, keys, values = (part[0].transpose(0, 1).contiguous() for part in parts)
    if plan.merge is not None:
        return merge_attention(queries, keys, values, plan.merge, sight)
    assert plan.gather is not None
    if plan.gather.rows is None:
        return gather_attention(queries, keys, values, plan.gather, sight)
    some = gather_attention(queries[plan.gather.rows], keys, values, plan.gather, sight)
    return torch.index_copy(torch.zeros_like(queries), 0, plan.gather.rows, some)


# --- by segments ---


def _by_segments(
    call: Callable[..., Tensor], plan: TreePlan, query: Tensor, key: Tensor, value: Tensor, window: int
) -> Tensor:
    """[1,T,H,d]: large groups segment by segment, small ones in one padded call."""
    if plan.stack is None:
        return _one_by_one(call, plan, query, key, value, window)
    output = query.new_empty(query.shape[2], query.shape[1], value.shape[3])  # [T,H,d]
    real, places = plan.stack.real, plan.stack.places
    batched = [part[0].transpose(0, 1)[places].transpose(1, 2) for part in (query, key, value)]  # [B,H,L,d]
    small = call(*batched, plan.stack_mask(window, query.dtype)).transpose(1, 2)[real]
    output = torch.index_copy(output, 0, places[real], small)
    if plan.single:
        single = _one_by_one(call, plan, query, key, value, window)[0]
        output = torch.index_copy(output, 0, _rows_of(plan), single)
    return output[None]


def _rows_of(plan: TreePlan) -> Tensor:
    """[T'] positions of the segments that are computed one by one."""
    return torch.cat([torch.arange(*plan.spans[segment], device=plan.segment.device) for segment in plan.single])


def _one_by_one(
    call: Callable[..., Tensor], plan: TreePlan, query: Tensor, key: Tensor, value: Tensor, window: int
) -> Tensor:
    """[1,T',H,d] of the single segments in turn: trunks causally without a mask, branches with the keys they see."""
    # One split and not a slice per use: the backward pass of each slice would fill and add a tensor of full length.
    lengths = [end - start for start, end in plan.spans]
    queries = query.split(lengths, dim=2)
    keys, values = (dict(zip(plan.spans, part.split(lengths, dim=2), strict=True)) for part in (key, value))
    parts = []
    for segment in plan.single:
        path = (*plan.ancestors[segment], plan.spans[segment])
        mask = _segment_mask(plan, segment, window, query)
        seen = [part[path[0]] if len(path) == 1 else torch.cat([part[s] for s in path], 2) for part in (keys, values)]
        parts.append(call(queries[segment], *seen, mask).transpose(1, 2))
    return torch.cat(parts, dim=1)


def _segment_mask(plan: TreePlan, segment: int, window: int, query: Tensor) -> Tensor | None:
    """[q,k] additive of one segment and its path; None: causal, without anything before it."""
    path = (*plan.ancestors[segment], plan.spans[segment])
    length = sum(end - start for start, end in path)
    own = plan.spans[segment][1] - plan.spans[segment][0]
    if segment not in plan.blocked and not 0 < window < length:
        return None if own == length else _lower_right(own, length, query.dtype, query.device)
    places = torch.cat([torch.arange(*span, device=query.device) for span in path])
    return plan.mask(segment, places[length - own :], places, window, query.dtype)


@lru_cache(maxsize=64)
def _lower_right(queries: int, keys: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[queries, keys] additive: all of the first ``keys - queries``, then causal."""
    mask = torch.full((queries, keys), hidden(dtype), dtype=dtype, device=device)
    return mask.triu_(keys - queries + 1)


def _masked(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, scoring: Scoring, dropout: float
) -> Tensor:
    """[B,H,q,d]: torch's kernel, or written out where scores have a cap; without a mask it is causal.

    On CUDA a kernel is named: with a mask torch takes cuDNN's, which plans anew for every length. That one and the
    flash kernel are the only ones that take fewer key heads.
    """
    call = partial(
        scaled_dot_product_attention, attn_mask=mask, is_causal=mask is None, dropout_p=dropout, scale=scoring.scale
    )
    groups = query.shape[1] // key.shape[1]
    if scoring.cap:
        key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
        return _capped(query, key, value, mask, scoring, dropout)
    if not query.is_cuda:
        return call(query, key, value, enable_gqa=groups > 1)
    key, value = (part.repeat_interleave(groups, dim=1) if groups > 1 else part for part in (key, value))
    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        return call(query.contiguous(), key.contiguous(), value.contiguous())


def _capped(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scoring: Scoring, dropout: float) -> Tensor:
    """[B,H,q,d] by plain products, as no kernel of torch caps scores; the mask is additive, bool or causal (None)."""
    scores = scoring.capped(scoring.scale * query @ key.transpose(-1, -2))
    if mask is None:
        mask = _lower_right(query.shape[2], key.shape[2], query.dtype, query.device)
    low = hidden(scores.dtype)
    scores = scores.masked_fill(~mask, low) if mask.dtype == torch.bool else scores + mask
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype)
    return torch.dropout(weights, dropout, train=dropout > 0) @ value


AttentionInterface.register(TREE, tree_attention)
AttentionMaskInterface.register(TREE, sdpa_mask)
