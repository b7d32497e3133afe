"""Attention over segments that see themselves causally and their ancestors entirely.

Two forms of the same function. ``dense`` is the plain one: an additive [T,T] mask for torch's kernel,
quadratic in everything that shares a micro-batch. ``segments`` never lets one group meet another: a
large group is computed segment by segment with just the keys each sees (no mask on the trunk, no
arithmetic on masked entries), small groups are stacked into one padded call with a mask each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from sightline.types import Batch

SEGMENTS = "sightline_segments"
"""Name of the attention implementation that transformers models are switched to."""


SMALL_ENTRIES = 2**14
"""A group is computed segment by segment if that saves more mask entries per call than this; a call costs
about as much time as so many entries."""


@dataclass(frozen=True, eq=False)
class SegmentPlan:
    """Who sees whom, and in which calls it is computed."""

    spans: tuple[tuple[int, int], ...]
    """[S] half-open range of positions of each segment."""
    ancestors: tuple[tuple[tuple[int, int], ...], ...]
    """[S] ranges of its ancestors, root first."""
    large: tuple[int, ...]
    """Segments that are computed one by one."""
    stacked: Tensor | None
    """[B,L] long: positions of the small groups, padded with 0; None: there are none."""
    rows: Tensor | None
    """[B,L] bool: which of ``stacked`` are real."""
    mask: Tensor | None
    """[B,1,L,L] additive."""


def plan_segments(batch: Batch, dtype: torch.dtype) -> SegmentPlan:
    """Plans the attention of a flat batch from ``segment`` and ``parent``; ``dtype`` is that of the queries."""
    lengths = torch.bincount(batch.segment, minlength=batch.parent.shape[0]).tolist()
    ends = list(accumulate(lengths))
    spans = tuple((end - length, end) for end, length in zip(ends, lengths, strict=True))
    ancestors: list[tuple[tuple[int, int], ...]] = []
    for parent in batch.parent.tolist():
        ancestors.append((*ancestors[parent], spans[parent]) if parent >= 0 else ())
    large: list[int] = []
    small: list[range] = []
    for first, last in _closed_ranges(batch.parent.tolist()):
        length = spans[last - 1][1] - spans[first][0]
        if length**2 > SMALL_ENTRIES * (last - first):
            large.extend(range(first, last))
        else:
            small.append(range(spans[first][0], spans[last - 1][1]))
    stacked, rows, mask = _stack(batch, small, dtype) if small else (None, None, None)
    return SegmentPlan(spans, tuple(ancestors), tuple(large), stacked, rows, mask)


def _closed_ranges(parents: list[int]) -> list[tuple[int, int]]:
    """Shortest runs [first, last) of segments whose parents all lie inside their run."""
    cuts: list[int] = []
    needed = len(parents)
    for segment in range(len(parents) - 1, -1, -1):
        needed = min(needed, parents[segment] if parents[segment] >= 0 else segment)
        if needed == segment:
            cuts.append(segment)
    cuts.reverse()
    return list(zip(cuts, [*cuts[1:], len(parents)], strict=True))


def _stack(batch: Batch, ranges: list[range], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Positions [B,L], which are real [B,L], and masks [B,1,L,L] of groups that are computed together."""
    device = batch.segment.device
    starts = torch.tensor([one.start for one in ranges], device=device)
    lengths = torch.tensor([len(one) for one in ranges], device=device)
    column = torch.arange(int(lengths.max()), device=device)
    rows = column < lengths[:, None]
    stacked = torch.where(rows, starts[:, None] + column, 0)
    segment = batch.segment[stacked]
    seen = _sees(batch)[segment[:, :, None], segment[:, None, :]] & rows[:, None, :]
    seen &= column[None, :] <= column[:, None]
    mask = torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill_(~seen, _hidden(dtype))
    return stacked, rows, mask[:, None]


def _sees(batch: Batch) -> Tensor:
    """[S,S] bool: segment i sees segment j (itself, or an ancestor)."""
    parents = batch.parent.tolist()
    sees = np.eye(len(parents), dtype=bool)
    for segment, parent in enumerate(parents):
        if parent >= 0:
            sees[segment] |= sees[parent]
    return torch.from_numpy(sees).to(batch.parent.device)


def dense_mask(batch: Batch, dtype: torch.dtype) -> Tensor:
    """Additive float mask [1,1,T,T]: 0 where seen, very low where not.

    Float on purpose: a bool mask is silently added as 0/1 under eager attention.
    """
    sees = _sees(batch)
    place = torch.arange(batch.tokens.shape[0], device=batch.tokens.device)
    seen = sees[batch.segment][:, batch.segment] & (place[None, :] <= place[:, None])
    mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return mask.masked_fill_(~seen, _hidden(dtype))[None, None]


def _hidden(dtype: torch.dtype) -> float:
    """What masks an entry: half the least float, so that a cast to another type stays finite (autocast) and a
    row that sees nothing (padding) gives no NaN."""
    return torch.finfo(dtype).min / 2


@lru_cache(maxsize=64)
def _lower_right(queries: int, keys: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[queries, keys] additive: all of the first ``keys - queries``, then causal."""
    hidden = torch.full((queries, keys), _hidden(dtype), dtype=dtype, device=device)
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
    call: Callable[..., Tensor] = partial(
        scaled_dot_product_attention,
        dropout_p=kwargs.get("dropout", 0.0),
        scale=kwargs.get("scaling"),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    if segment_plan.stacked is None:
        return _one_by_one(call, segment_plan, query, key, value), None
    output = query.new_empty(query.shape[2], query.shape[1], value.shape[3])  # [T,H,d]
    rows, places = segment_plan.rows, segment_plan.stacked
    assert rows is not None and segment_plan.mask is not None
    batched = [part[0].transpose(0, 1)[places].transpose(1, 2) for part in (query, key, value)]  # [B,H,L,d]
    small = call(*batched, attn_mask=segment_plan.mask.to(query.dtype)).transpose(1, 2)[rows]
    output = output.index_copy(0, places[rows], small)
    if segment_plan.large:
        large = [torch.arange(*segment_plan.spans[segment], device=query.device) for segment in segment_plan.large]
        output = output.index_copy(0, torch.cat(large), _one_by_one(call, segment_plan, query, key, value)[0])
    return output[None], None


def _one_by_one(call: Callable[..., Tensor], plan: SegmentPlan, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """[1,T',H,d] of the large segments in turn: trunks causally without a mask, branches with the keys they see."""
    # One split and not a slice per use: the backward pass of each slice would fill and add a tensor of full length.
    lengths = [end - start for start, end in plan.spans]
    queries = query.split(lengths, dim=2)
    keys, values = (dict(zip(plan.spans, part.split(lengths, dim=2), strict=True)) for part in (key, value))
    parts = []
    for segment in plan.large:
        own, before = plan.spans[segment], plan.ancestors[segment]
        if not before:
            part = call(queries[segment], keys[own], values[own], is_causal=True)
        else:
            seen = torch.cat([keys[span] for span in (*before, own)], dim=2)
            mask = _lower_right(lengths[segment], seen.shape[2], query.dtype, query.device)
            part = call(
                queries[segment], seen, torch.cat([values[span] for span in (*before, own)], dim=2), attn_mask=mask
            )
        parts.append(part.transpose(1, 2))
    return torch.cat(parts, dim=1)


AttentionInterface.register(SEGMENTS, segment_attention)
AttentionMaskInterface.register(SEGMENTS, sdpa_mask)
