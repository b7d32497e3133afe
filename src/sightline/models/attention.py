"""Attention over segments that see themselves causally and their ancestors entirely.

Two forms of the same function. ``dense`` is the plain one: an additive [T,T] mask for torch's kernel,
quadratic in everything that shares a row. ``segments`` calls the kernel once per segment with just
the keys it sees: no [T,T] tensor, no arithmetic on masked entries, trunks on the causal fast path.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from sightline.types import Batch

SEGMENTS = "sightline_segments"
"""Name of the attention implementation that transformers models are switched to."""


@dataclass(frozen=True, eq=False)
class SegmentPlan:
    """Who sees whom, as ranges of positions."""

    spans: tuple[tuple[int, int], ...]
    """[S] half-open range of each segment."""
    ancestors: tuple[tuple[tuple[int, int], ...], ...]
    """[S] ranges of its ancestors, root first."""


def plan_segments(batch: Batch) -> SegmentPlan:
    """The ranges of a flat batch, from ``segment`` and ``parent``."""
    lengths = torch.bincount(batch.segment, minlength=batch.parent.shape[0]).tolist()
    spans, start = [], 0
    for length in lengths:
        spans.append((start, start + length))
        start += length
    ancestors: list[tuple[tuple[int, int], ...]] = []
    for parent in batch.parent.tolist():
        ancestors.append((*ancestors[parent], spans[parent]) if parent >= 0 else ())
    return SegmentPlan(tuple(spans), tuple(ancestors))


def dense_mask(batch: Batch, dtype: torch.dtype) -> Tensor:
    """Additive float mask [1,1,T,T]: 0 where seen, the least float where not.

    Float on purpose: a bool mask is silently added as 0/1 under eager attention.
    """
    segments = batch.parent.shape[0]
    sees = torch.eye(segments, dtype=torch.bool, device=batch.parent.device)
    for segment, parent in enumerate(batch.parent.tolist()):
        if parent >= 0:
            sees[segment] |= sees[parent]
    place = torch.arange(batch.tokens.shape[0], device=batch.tokens.device)
    seen = sees[batch.segment][:, batch.segment] & (place[None, :] <= place[:, None])
    mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return mask.masked_fill_(~seen, torch.finfo(dtype).min)[None, None]


@lru_cache(maxsize=64)
def _lower_right(queries: int, keys: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[queries, keys] additive: all of the first ``keys - queries``, then causal."""
    hidden = torch.full((queries, keys), torch.finfo(dtype).min, dtype=dtype, device=device)
    return hidden.triu_(keys - queries + 1)


def segment_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    segment_plan: SegmentPlan | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention function for transformers' interface: query [1,H,T,d], key and value [1,Hkv,T,d].

    Without a plan (generation, the model's own forward) it is transformers' sdpa.

    Returns:
        [1,T,H,d] and no attention weights.
    """
    if segment_plan is None:
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return output, None
    scale, dropout = kwargs.get("scaling"), kwargs.get("dropout", 0.0)
    grouped = query.shape[1] != key.shape[1]
    parts = []
    for (start, end), before in zip(segment_plan.spans, segment_plan.ancestors, strict=True):
        seen = [*before, (start, end)]
        keys = torch.cat([key[:, :, a:b] for a, b in seen], dim=2) if before else key[:, :, start:end]
        values = torch.cat([value[:, :, a:b] for a, b in seen], dim=2) if before else value[:, :, start:end]
        mask = _lower_right(end - start, keys.shape[2], query.dtype, query.device) if before else None
        parts.append(
            scaled_dot_product_attention(
                query[:, :, start:end],
                keys,
                values,
                attn_mask=mask,
                is_causal=mask is None,
                dropout_p=dropout,
                scale=scale,
                enable_gqa=grouped,
            )
        )
    return torch.cat(parts, dim=2).transpose(1, 2), None


AttentionInterface.register(SEGMENTS, segment_attention)
AttentionMaskInterface.register(SEGMENTS, sdpa_mask)
