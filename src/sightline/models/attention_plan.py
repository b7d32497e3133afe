"""Who sees whom in a flat batch, and in which calls it is computed: made on the host, once per batch.

A token sees what lies before it on the path from the root of its tree, and all of its own block, if it is in one
(``Batch.block``); where a layer has a sliding window, no farther back than that (``Batch.whole``: but for its block).

=========  =======================================================================================================
form       how
=========  =======================================================================================================
dense      one additive [T,T] mask: the oracle
segments   large groups segment by segment with the keys that each sees, small groups stacked into one masked call
gather     one variable-length call; the keys of each segment's path are copied behind each other
merge      one call for what segments see of themselves, one for what branches see of their trunks, no copies
=========  =======================================================================================================

The last two need no masks and have no plan per length in any library; segments with blocks are computed one by one
with a mask beside them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from sightline.models.varlen import Lengths, kernel_takes
from sightline.types import Batch, sent_to

Form = Literal["dense", "segments", "gather", "merge"]
FORMS: tuple[Form, ...] = ("dense", "segments", "gather", "merge")

SMALL_ENTRIES = 2**14
"""A group is computed segment by segment if that saves more mask entries per call than this; a call costs
about as much time as so many entries."""

Spans = tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Gather:
    """For ``gather``: keys and values of every path, end to end. Names as in TRL's tree batches."""

    rows: Tensor | None
    """[Q] long: the queries, where not all of the batch are computed so."""
    tree_kv_index: Tensor
    """[K] long: position of every key, path after path."""
    order: Tensor
    """[K] long: ``tree_kv_index`` sorted."""
    starts: Tensor
    """[T+1] long: where the copies of each position begin in ``order``."""
    lengths: Lengths


@dataclass(frozen=True, eq=False, kw_only=True)
class Merge:
    """For ``merge``: a call in which segments see themselves, and one in which branches see their trunks."""

    own: Lengths
    """[S] segments, each alone."""
    branch_rows: Tensor
    """[Q'] long: tokens of all segments that have ancestors, those of one parent behind each other."""
    trunk_rows: Tensor
    """[K'] long: the paths of their parents."""
    order: Tensor
    """[K'] long: ``trunk_rows`` sorted."""
    starts: Tensor
    """[T+1] long: where the copies of each position begin in ``order``."""
    lengths: Lengths
    """Children of one parent as one sequence of queries, the parent's path as its keys."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Stack:
    """Small groups that are computed in one padded call."""

    places: Tensor
    """[B,L] long: positions, padded with 0."""
    rows: Tensor
    """[B,L] bool: which of ``places`` are real."""
    real: tuple[Tensor, Tensor]
    """[n] long and [n] long: their rows and columns."""


@dataclass(frozen=True, eq=False, kw_only=True)
class TreePlan:
    """The attention of a batch. Tensors are on the batch's device."""

    form: Form
    spans: Spans
    """[S] half-open range of positions of each segment."""
    ancestors: tuple[Spans, ...]
    """[S] ranges of its ancestors, root first."""
    segment: Tensor
    """[T] long."""
    sees: Tensor
    """[S,S] bool: segment i sees segment j (itself, or an ancestor)."""
    depth: Tensor
    """[T] long: tokens before it on its path."""
    block: Tensor | None
    """[T] long: tokens of equal value >= 0 see each other; None: there are no blocks."""
    whole: bool
    """Whether they do so under a window as well."""
    single: tuple[int, ...] = ()
    """Segments that are computed one by one."""
    blocked: frozenset[int] = frozenset()
    """Segments that hold tokens of a block."""
    stack: Stack | None = None
    gather: Gather | None = None
    merge: Merge | None = None
    masks: dict[object, Tensor] = field(default_factory=dict)
    """Additive masks that layers have asked for, by window and place."""

    def visible(self, queries: Tensor, keys: Tensor, window: int) -> Tensor:
        """[..., q, k] bool, for positions [..., q] and [..., k]."""
        seen = self.sees[self.segment[queries][..., :, None], self.segment[keys][..., None, :]]
        behind = self.depth[queries][..., :, None] - self.depth[keys][..., None, :]
        near, before = behind < window if window else seen, behind >= 0
        if self.block is None:
            return seen & near & before
        own = self.block[queries][..., :, None]
        inside = (own == self.block[keys][..., None, :]) & (own >= 0)
        return seen & (near & before | inside if self.whole else near & (before | inside))

    def mask(self, name: object, queries: Tensor, keys: Tensor, window: int, dtype: torch.dtype) -> Tensor:
        """Additive mask of ``visible``, kept under ``name``.

        Float on purpose: a bool mask is silently added as 0/1 under eager attention.
        """
        if (name, window, dtype) not in self.masks:
            seen = self.visible(queries, keys, window)
            made = torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, hidden(dtype))
            self.masks[name, window, dtype] = made
        return self.masks[name, window, dtype]

    def dense_mask(self, window: int, dtype: torch.dtype) -> Tensor:
        """[T,T] additive."""
        everything = torch.arange(self.segment.shape[0], device=self.segment.device)
        return self.mask("dense", everything, everything, window, dtype)

    def stack_mask(self, window: int, dtype: torch.dtype) -> Tensor:
        """[B,1,L,L] additive."""
        assert self.stack is not None
        if ("stack", window, dtype) not in self.masks:
            seen = self.visible(self.stack.places, self.stack.places, window) & self.stack.rows[:, None, :]
            made = torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, hidden(dtype))
            self.masks["stack", window, dtype] = made[:, None]
        return self.masks["stack", window, dtype]


def hidden(dtype: torch.dtype) -> float:
    """What masks an entry: half the least float, so that a cast to another type stays finite (autocast) and a
    row that sees nothing (padding) gives no NaN."""
    return torch.finfo(dtype).min / 2


def plan_attention(batch: Batch, form: Form) -> TreePlan:
    """Plans the attention of a flat batch. Waits for no device: ``batch.parent`` and ``batch.length`` are on the host.

    Args:
        batch: in layout ``packed`` or ``tree``.
        form: in which calls. ``merge`` cannot do sliding windows.
    """
    device, parents = batch.tokens.device, batch.parent.tolist()
    ends = list(accumulate(batch.length.tolist()))
    spans = tuple(zip([0, *ends[:-1]], ends, strict=True))
    ancestors: list[Spans] = []
    for parent in parents:
        ancestors.append((*ancestors[parent], spans[parent]) if parent >= 0 else ())
    before = np.array([sum(end - start for start, end in path) for path in ancestors], dtype=np.int64)
    starts = np.array([start for start, _ in spans], dtype=np.int64)
    lengths = batch.length.numpy()
    depth = np.arange(len(batch.tokens)) + np.repeat(before - starts, lengths)
    blocked = frozenset(batch.blocked)
    single, stack, gather, merge = tuple[int, ...](), None, None, None
    if form == "segments":
        single, small = _sizes(parents, spans)
        stack = _stacked(small, device) if small else None
    if form in ("gather", "merge"):
        single = tuple(sorted(blocked))
    if form == "gather":
        gather = _gather(spans, ancestors, blocked, len(batch.tokens), device)
    if form == "merge":
        merge = _merge(parents, spans, ancestors, len(batch.tokens), device)
    return TreePlan(
        form=form,
        spans=spans,
        ancestors=tuple(ancestors),
        segment=batch.segment,
        sees=_sent(_sees(parents), device),
        depth=_sent(depth, device),
        block=batch.block,
        whole=batch.whole,
        single=single,
        blocked=blocked,
        stack=stack,
        gather=gather,
        merge=merge,
    )


def best_form(batch: Batch, text: Any, dtype: torch.dtype) -> Form:
    """The form that a batch's device computes best.

    Args:
        batch: in layout ``packed`` or ``tree``.
        text: the decoder's config.
        dtype: of the hidden states; autocast's counts where it is on.
    """
    device = batch.tokens.device
    if torch.is_autocast_enabled(device.type):
        dtype = torch.get_autocast_dtype(device.type)
    size, heads = key_shape(text)
    if not kernel_takes(device, dtype, size) or getattr(text, "attn_logit_softcapping", None):
        return "segments"
    return cheaper_form(batch, key_bytes=2 * heads * size * dtype.itemsize, windows=has_windows(text))


def key_shape(text: Any) -> tuple[int, int]:
    """Largest head size and most key heads of a decoder of this config; layers may differ (Gemma 4)."""
    own = getattr(text, "per_layer_config", None)
    layers = [own[layer] for layer in range(text.num_hidden_layers)] if own else [text]
    even = text.hidden_size // text.num_attention_heads
    sizes = [getattr(layer, "head_dim", None) or even for layer in layers]
    heads = [getattr(layer, "num_key_value_heads", None) or text.num_attention_heads for layer in layers]
    return max(sizes), max(heads)


def has_windows(text: Any) -> bool:
    """Whether a decoder of this config has layers with a sliding window."""
    if getattr(text, "layer_types", None) is not None:
        return "sliding_attention" in text.layer_types
    return getattr(text, "sliding_window", None) is not None


def cheaper_form(batch: Batch, *, key_bytes: int, windows: bool) -> Literal["gather", "merge"]:
    """Which of the forms without masks a batch should take on a GPU.

    ``merge`` costs a second call and a join, ``gather`` a copy of every key on every path, in both passes. It was
    faster wherever it was measured (docs/performance.md), and stays the choice until its copies would take much memory.

    Args:
        batch: in layout ``packed`` or ``tree``.
        key_bytes: of the keys and values of one token in one layer.
        windows: whether a layer has a sliding window.
    """
    if windows or batch.blocked:
        return "gather"
    parents, lengths = batch.parent.tolist(), batch.length.tolist()
    paths = [0] * len(parents)
    for segment, parent in enumerate(parents):
        paths[segment] = lengths[segment] + (paths[parent] if parent >= 0 else 0)
    copied = sum(path - length for path, length in zip(paths, lengths, strict=True))
    return "merge" if copied * key_bytes > MERGE_ABOVE else "gather"


MERGE_ABOVE = 512 * 2**20
"""Bytes of copied keys and values per layer."""


def _sizes(parents: list[int], spans: Spans) -> tuple[tuple[int, ...], list[range]]:
    """Segments of large groups, and the positions of each small group."""
    large: list[int] = []
    small: list[range] = []
    for first, last in _closed_ranges(parents):
        length = spans[last - 1][1] - spans[first][0]
        if length**2 > SMALL_ENTRIES * (last - first):
            large.extend(range(first, last))
        else:
            small.append(range(spans[first][0], spans[last - 1][1]))
    return tuple(large), small


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


def _stacked(groups: list[range], device: torch.device) -> Stack:
    most = max(map(len, groups))
    column = np.arange(most)
    rows = column < np.array([len(one) for one in groups])[:, None]
    places = np.where(rows, np.array([one.start for one in groups])[:, None] + column, 0)
    real_row, real_column = rows.nonzero()
    real = _sent(real_row, device), _sent(real_column, device)
    return Stack(places=_sent(places, device), rows=_sent(rows, device), real=real)


def _gather(
    spans: Spans, ancestors: Sequence[Spans], blocked: frozenset[int], tokens: int, device: torch.device
) -> Gather | None:
    """None: there is nothing but segments with blocks."""
    computed = [s for s, (start, end) in enumerate(spans) if end > start and s not in blocked]
    if not computed:
        return None
    paths = [(*ancestors[segment], spans[segment]) for segment in computed]
    index = positions_of(chain.from_iterable(paths))
    order, starts = _sorted_copies(index, tokens)
    rows = positions_of(spans[segment] for segment in computed)
    return Gather(
        rows=_sent(rows, device) if blocked else None,
        tree_kv_index=_sent(index, device),
        order=_sent(order, device),
        starts=_sent(starts, device),
        lengths=_lengths([_size([spans[s]]) for s in computed], [_size(path) for path in paths], device),
    )


def _merge(parents: list[int], spans: Spans, ancestors: Sequence[Spans], tokens: int, device: torch.device) -> Merge:
    own = [_size([span]) for span in spans if _size([span])]
    children: dict[int, list[int]] = {}
    for segment, parent in enumerate(parents):
        if _size([spans[segment]]) and _size(ancestors[segment]):
            children.setdefault(parent, []).append(segment)
    paths = [(*ancestors[parent], spans[parent]) for parent in children]
    trunk = positions_of(chain.from_iterable(paths))
    order, starts = _sorted_copies(trunk, tokens)
    queries = [sum(_size([spans[child]]) for child in found) for found in children.values()]
    return Merge(
        own=_lengths(own, own, device),
        branch_rows=_sent(positions_of(spans[child] for found in children.values() for child in found), device),
        trunk_rows=_sent(trunk, device),
        order=_sent(order, device),
        starts=_sent(starts, device),
        lengths=_lengths(queries, [_size(path) for path in paths], device),
    )


def _size(path: Iterable[tuple[int, int]]) -> int:
    return sum(end - start for start, end in path)


def positions_of(spans: Iterable[tuple[int, int]]) -> np.ndarray:
    """[n] of half-open ranges, one behind the other."""
    return np.concatenate([np.empty(0, dtype=np.int64), *(np.arange(start, end) for start, end in spans)])


def _sorted_copies(index: np.ndarray, tokens: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(index, kind="stable")
    return order, np.searchsorted(index[order], np.arange(tokens + 1))


def _lengths(queries: Sequence[int], keys: Sequence[int], device: torch.device) -> Lengths:
    sums = [np.cumsum([0, *sizes], dtype=np.int32) for sizes in (queries, keys)]
    most = torch.tensor([max(queries, default=0), max(keys, default=0)])
    return Lengths(queries=_sent(sums[0], device), keys=_sent(sums[1], device), most=most)


def _sees(parents: list[int]) -> np.ndarray:
    """[S,S] bool: segment i sees segment j (itself, or an ancestor)."""
    sees = np.eye(len(parents), dtype=bool)
    for segment, parent in enumerate(parents):
        if parent >= 0:
            sees[segment] |= sees[parent]
    return sees


def _sent(array: np.ndarray, device: torch.device) -> Tensor:
    return sent_to(device, torch.from_numpy(array))
