"""The two forms of the tree's attention without masks, as operators that torch.compile takes whole.

Their backward passes are written out: one gathers keys and values again instead of keeping the copies, the other needs
the kernel's backward pass with output and normaliser of *all* keys. Differentiating through a kernel's own normaliser
is not an option: torch drops that gradient without a word up to 2.13.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from sightline.models import varlen
from sightline.models.attention_plan import Gather, Merge
from sightline.models.copies import sum_copies
from sightline.models.varlen import Lengths, Sight


def gather_attention(query: Tensor, key: Tensor, value: Tensor, plan: Gather, sight: Sight) -> Tensor:
    """[Q,H,d]: each segment's queries [Q,H,d] over the keys [T,h,d] of its path; causal, aligned at the end, which is
    all ancestors and then itself."""
    calls = plan.lengths
    tensors = [plan.tree_kv_index, plan.order, plan.starts, calls.queries, calls.keys, calls.most]
    output: Tensor = _gather(query, key, value, tensors, sight.window, sight.scale)[0]
    return output


def merge_attention(query: Tensor, key: Tensor, value: Tensor, plan: Merge, sight: Sight) -> Tensor:
    """[T,H,d]: what each segment sees of itself, joined with what it sees of its ancestors by their normalisers.

    Raises:
        ValueError: a sliding window, whose end differs from branch to branch.
    """
    if sight.window:
        raise ValueError("attention of the form merge has no sliding windows; take gather")
    own, shared = plan.own, plan.lengths
    tensors = [plan.branch_rows, plan.trunk_rows, plan.order, plan.starts, own.queries, own.most]
    output: Tensor = _merge(query, key, value, [*tensors, shared.queries, shared.keys, shared.most], sight.scale)[0]
    return output


# --- gather ---


@torch.library.custom_op("sightline::gather_attention", mutates_args=())
def _gather(
    query: Tensor, key: Tensor, value: Tensor, plan: list[Tensor], window: int, scale: float
) -> tuple[Tensor, Tensor]:
    index, _, _, queries, keys, most = plan
    lengths, sight = Lengths(queries=queries, keys=keys, most=most), Sight(causal=True, window=window, scale=scale)
    return varlen.forward(query, key.index_select(0, index), value.index_select(0, index), lengths, sight)


@torch.library.custom_op("sightline::gather_attention_backward", mutates_args=())
def _gather_backward(
    grad: Tensor, inputs: list[Tensor], outputs: list[Tensor], plan: list[Tensor], window: int, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    index, order, starts, queries, keys, most = plan
    lengths, sight = Lengths(queries=queries, keys=keys, most=most), Sight(causal=True, window=window, scale=scale)
    query, key, value = inputs
    copied = (query, key.index_select(0, index), value.index_select(0, index))
    grad_query, *copies = varlen.backward(grad.contiguous(), copied, outputs[0], outputs[1], lengths, sight)
    grad_key, grad_value = (sum_copies(copy, index, order, starts) for copy in copies)
    return grad_query, grad_key, grad_value


def _gather_gradients(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Any, ...]:
    saved = list(ctx.saved_tensors)
    return (
        *_gather_backward(grad, saved[:3], saved[3:5], saved[5:], *ctx.settings),
        [None] * len(saved[5:]),
        None,
        None,
    )


# --- merge ---


@torch.library.custom_op("sightline::merge_attention", mutates_args=())
def _merge(query: Tensor, key: Tensor, value: Tensor, plan: list[Tensor], scale: float) -> tuple[Tensor, Tensor]:
    branches, trunks = plan[:2]
    alone, shared = _calls(plan)
    output, normaliser = varlen.forward(query, key, value, alone, Sight(causal=True, window=0, scale=scale))
    if not branches.shape[0]:
        return output, normaliser
    other, others = varlen.forward(
        query.index_select(0, branches), key.index_select(0, trunks), value.index_select(0, trunks), shared,
        Sight(causal=False, window=0, scale=scale),
    )  # fmt: skip
    mine = normaliser.index_select(1, branches)
    total = torch.logaddexp(mine, others)
    own, far = ((weight - total).exp().T[..., None] for weight in (mine, others))
    output.index_copy_(0, branches, (output.index_select(0, branches) * own + other * far).to(output.dtype))
    normaliser.index_copy_(1, branches, total)
    return output, normaliser


@torch.library.custom_op("sightline::merge_attention_backward", mutates_args=())
def _merge_backward(
    grad: Tensor, inputs: list[Tensor], outputs: list[Tensor], plan: list[Tensor], scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    branches, trunks, order, starts = plan[:4]
    alone, shared = _calls(plan)
    query, key, value = inputs
    output, normaliser = outputs
    grad = grad.contiguous()
    sight = Sight(causal=True, window=0, scale=scale)
    grad_query, *grads = varlen.backward(grad, (query, key, value), output, normaliser, alone, sight)
    if not branches.shape[0]:
        return grad_query, grads[0], grads[1]
    seen = (query.index_select(0, branches), key.index_select(0, trunks), value.index_select(0, trunks))
    more_query, *copies = varlen.backward(
        grad.index_select(0, branches), seen, output.index_select(0, branches),
        normaliser.index_select(1, branches), shared, Sight(causal=False, window=0, scale=scale),
    )  # fmt: skip
    both = grad_query.index_select(0, branches) + more_query
    grad_query.index_copy_(0, branches, both)
    grad_key, grad_value = (
        sum_copies(copy, trunks, order, starts, base) for copy, base in zip(copies, grads, strict=True)
    )
    return grad_query, grad_key, grad_value


def _calls(plan: list[Tensor]) -> tuple[Lengths, Lengths]:
    """Of segments alone, and of branches with their trunks."""
    own, own_most, queries, keys, most = plan[4:]
    return Lengths(queries=own, keys=own, most=own_most), Lengths(queries=queries, keys=keys, most=most)


def _merge_gradients(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Any, ...]:
    saved = list(ctx.saved_tensors)
    return (*_merge_backward(grad, saved[:3], saved[3:5], saved[5:], *ctx.settings), [None] * len(saved[5:]), None)


# --- for autograd and torch.compile ---


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, plan, *ctx.settings = inputs
    ctx.save_for_backward(query, key, value, *output, *plan)


_gather.register_fake(varlen.like_forward)
_gather_backward.register_fake(varlen.like_backward)
_gather.register_autograd(_gather_gradients, setup_context=_keep)
_merge.register_fake(varlen.like_forward)
_merge_backward.register_fake(varlen.like_backward)
_merge.register_autograd(_merge_gradients, setup_context=_keep)


# --- what they cost: torch's counters know no operators of others, and what costs nothing is computed again first ---


def _flops_of_paths(queries: int, keys: int, sequences: int, width: int) -> int:
    """Two products over about as many keys as a path has, as if nothing were masked."""
    return 4 * width * queries * keys // max(1, sequences)


@register_flop_formula(torch.ops.sightline.gather_attention)
def _gather_flops(query: Any, key: Any, value: Any, plan: Any, *_: Any, **__: Any) -> int:
    index, queries = plan[0], plan[3]
    return _flops_of_paths(query[0], index[0], queries[0] - 1, query[1] * query[2])


@register_flop_formula(torch.ops.sightline.merge_attention)
def _merge_flops(query: Any, key: Any, value: Any, plan: Any, *_: Any, **__: Any) -> int:
    trunks, own, shared = plan[1], plan[4], plan[6]
    width = query[1] * query[2]
    alone = _flops_of_paths(query[0], query[0], own[0] - 1, width)
    return alone + _flops_of_paths(plan[0][0], trunks[0], shared[0] - 1, width)


@register_flop_formula([torch.ops.sightline.gather_attention_backward, torch.ops.sightline.merge_attention_backward])
def _backward_flops(grad: Any, inputs: Any, outputs: Any, plan: Any, *_: Any, **__: Any) -> int:
    forward = _gather_flops if len(plan) == 6 else _merge_flops
    return 5 * forward(*inputs, plan) // 2
