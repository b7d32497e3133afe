"""One attention call over sequences of unequal lengths, end to end without padding, and its backward pass.

On CUDA it is the FlashAttention kernel that torch ships, through its operators: they take output and normaliser of
the backward pass as arguments, which the public ``varlen_attn`` does not, and they are what
``torch.nn.attention.activate_flash_attention_impl`` replaces by FlashAttention 3 or 4. Elsewhere, and in float64, it
is written plainly: the oracle, and what stands in for the kernel on a CPU.

Shapes: **Q** queries of all sequences, **K** keys, **H** query heads, **h** key heads, **d** head size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

MAX_HEAD_SIZE = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class Lengths:
    """Where each sequence begins and ends."""

    queries: Tensor
    """[B+1] int32: cumulative numbers of queries."""
    keys: Tensor
    """[B+1] int32: cumulative numbers of keys; a sequence has at least as many keys as queries where it is causal."""
    most: Tensor
    """[2] long, on the CPU: most queries and most keys of a sequence. A tensor, so that a compiled layer does not
    depend on the numbers."""


@dataclass(frozen=True, kw_only=True)
class Sight:
    """What a query sees of the keys of its sequence."""

    causal: bool
    """The last query sees all keys, the one before it all but the last, and so on."""
    window: int
    """Most keys it sees, itself included; 0: no limit. Needs ``causal``."""
    scale: float


def kernel_takes(device: torch.device, dtype: torch.dtype, head_size: int) -> bool:
    """Whether the kernel computes this; what it does not take is computed segment by segment."""
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        return False
    fits = head_size % 8 == 0 and head_size <= MAX_HEAD_SIZE
    return fits and torch.cuda.get_device_capability(device) >= (8, 0) and find_spec("triton") is not None


def as_autocast(*parts: Tensor) -> tuple[Tensor, ...]:
    """In the type of autocast, where it is on: the calls are no functions that it knows."""
    kind = parts[0].device.type
    return (
        tuple(part.to(torch.get_autocast_dtype(kind)) for part in parts) if torch.is_autocast_enabled(kind) else parts
    )


def forward(query: Tensor, key: Tensor, value: Tensor, lengths: Lengths, sight: Sight) -> tuple[Tensor, Tensor]:
    """Attention of each sequence for itself.

    Args:
        query: [Q,H,d].
        key, value: [K,h,d], H a multiple of h.
        lengths: of the sequences.
        sight: what a query sees.

    Returns:
        output [Q,H,d], and the log of each query's normaliser [H,Q] in float32 (float64 for float64).
    """
    if not _on_kernel(query):
        return _plain_forward(query, key, value, lengths, sight)
    most_queries, most_keys = lengths.most.tolist()
    output, normaliser, *_ = torch.ops.aten._flash_attention_forward(
        query, key, value, lengths.queries, lengths.keys, most_queries, most_keys, 0.0, sight.causal, False,
        scale=sight.scale, **_window(sight),
    )  # fmt: skip
    return output, normaliser


def backward(
    grad: Tensor,
    inputs: tuple[Tensor, Tensor, Tensor],
    output: Tensor,
    normaliser: Tensor,
    lengths: Lengths,
    sight: Sight,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value.

    ``output`` and ``normaliser`` may be those of a softmax over more keys than are here: then these are the exact
    gradients of this part of it.

    Args:
        grad: [Q,H,d] of the output.
        inputs: query, key and value as in ``forward``.
        output: [Q,H,d].
        normaliser: [H,Q].
        lengths, sight: as in ``forward``.
    """
    if not _on_kernel(inputs[0]):
        return _plain_backward(grad, inputs, output, normaliser, lengths, sight)
    most_queries, most_keys = lengths.most.tolist()
    # states of the random generator, which nothing reads without dropout
    seed, offset = (torch.zeros(size, dtype=torch.uint64, device=grad.device) for size in ((2,), ()))
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten._flash_attention_backward(
        grad, *inputs, output, normaliser, lengths.queries, lengths.keys, most_queries, most_keys, 0.0, sight.causal,
        seed, offset, scale=sight.scale, **_window(sight),
    )  # fmt: skip
    return found


def like_forward(query: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    """Empty results of ``forward``, for operators that are traced."""
    wide = torch.promote_types(query.dtype, torch.float32)
    return torch.empty_like(query), query.new_empty(query.shape[1], query.shape[0], dtype=wide)


def like_backward(grad: Tensor, inputs: list[Tensor], *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Empty results of ``backward``."""
    query, key, value = (torch.empty_like(part) for part in inputs)
    return query, key, value


def _on_kernel(query: Tensor) -> bool:
    return query.is_cuda and query.dtype in (torch.float16, torch.bfloat16)


def _window(sight: Sight) -> dict[str, int]:
    return {"window_size_left": sight.window - 1, "window_size_right": 0} if sight.window else {}


# --- plainly ---


def _plain_forward(query: Tensor, key: Tensor, value: Tensor, lengths: Lengths, sight: Sight) -> tuple[Tensor, Tensor]:
    wide = torch.promote_types(query.dtype, torch.float32)
    output = torch.empty_like(query)
    normaliser = torch.empty(query.shape[1], query.shape[0], dtype=wide, device=query.device)
    for own, seen in _sequences(lengths):
        scores = _scores(query[own], key[seen], sight)
        normaliser[:, own] = torch.logsumexp(scores, -1)
        weights = torch.softmax(scores, -1)
        output[own] = torch.einsum("hqk,khd->qhd", weights, _all_heads(value[seen], query).to(wide)).to(query.dtype)
    return output, normaliser


def _plain_backward(
    grad: Tensor,
    inputs: tuple[Tensor, Tensor, Tensor],
    output: Tensor,
    normaliser: Tensor,
    lengths: Lengths,
    sight: Sight,
) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = inputs
    wide = torch.promote_types(query.dtype, torch.float32)
    grads = tuple(torch.zeros_like(part) for part in inputs)
    for own, seen in _sequences(lengths):
        upstream, keys, values = grad[own].to(wide), *(_all_heads(part[seen], query).to(wide) for part in (key, value))
        weights = (_scores(query[own], key[seen], sight) - normaliser[:, own, None]).exp()  # [H,q,k]
        along = (upstream * output[own].to(wide)).sum(-1).T  # [H,q]
        slope = weights * (torch.einsum("qhd,khd->hqk", upstream, values) - along[..., None]) * sight.scale
        found = (
            torch.einsum("hqk,khd->qhd", slope, keys),
            _key_heads(torch.einsum("hqk,qhd->khd", slope, query[own].to(wide)), key),
            _key_heads(torch.einsum("hqk,qhd->khd", weights, upstream), value),
        )
        for total, places, part in zip(grads, (own, seen, seen), found, strict=True):
            total[places] = part.to(total.dtype)
    return grads  # type: ignore[return-value]


def _sequences(lengths: Lengths) -> Iterator[tuple[slice, slice]]:
    """Queries and keys of each sequence."""
    queries, keys = lengths.queries.tolist(), lengths.keys.tolist()
    for number in range(len(queries) - 1):
        yield slice(queries[number], queries[number + 1]), slice(keys[number], keys[number + 1])


def _scores(query: Tensor, key: Tensor, sight: Sight) -> Tensor:
    """[H,q,k], -inf where nothing is seen."""
    wide = torch.promote_types(query.dtype, torch.float32)
    scores = torch.einsum("qhd,khd->hqk", query.to(wide), _all_heads(key, query).to(wide)) * sight.scale
    if not sight.causal:
        return scores
    place = torch.arange(query.shape[0], device=query.device)[:, None] + key.shape[0] - query.shape[0]
    behind = place - torch.arange(key.shape[0], device=query.device)
    hidden = (behind < 0) | (behind >= sight.window) if sight.window else behind < 0
    return scores.masked_fill(hidden, -torch.inf)


def _all_heads(part: Tensor, query: Tensor) -> Tensor:
    """[k,h,d] -> [k,H,d]: a key head for each query head."""
    return part.repeat_interleave(query.shape[1] // part.shape[1], dim=1)


def _key_heads(grad: Tensor, part: Tensor) -> Tensor:
    """[k,H,d] -> [k,h,d]: sums what came through each key head."""
    return grad.unflatten(1, (part.shape[1], -1)).sum(2)
