"""Log-probabilities of chosen tokens straight from hidden states, without keeping the logits.

With a vocabulary of 32k to 256k, the logits and their gradient are the largest tensors of a training
step. Only one number per token is wanted from them. So they are made chunk by chunk, and made again
in the backward pass; what stays alive in between is one float per token. Where they are small they are
kept instead, which saves a matrix product. Under a frozen head (LoRA) neither is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

CHUNK = 256
"""Tokens whose logits exist at one time."""
SAVE_LOGITS_BELOW = 256 * 2**20
"""Bytes: up to here the exponentials of all logits are kept for the backward pass."""


def plain_logprobs(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, *, entropy: bool = False
) -> tuple[Tensor, Tensor | None]:
    """What ``selected_logprobs`` computes, written plainly: the oracle of its tests.

    Shapes and results as there; all logits exist at once.
    """
    logits = torch.nn.functional.linear(hidden, weight, bias)
    log_softmax = torch.log_softmax(logits.to(_float_dtype(logits.dtype)), dim=-1)
    picked = log_softmax.gather(-1, target[:, None])[:, 0]
    if not entropy:
        return picked, None
    with torch.no_grad():
        return picked, -(log_softmax.exp() * log_softmax).sum(-1)


def selected_logprobs(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    *,
    entropy: bool = False,
    chunk: int = CHUNK,
    save_logits_below: int = SAVE_LOGITS_BELOW,
) -> tuple[Tensor, Tensor | None]:
    """Log-probability of each target token under the softmax of ``hidden @ weight.T + bias``.

    The matrix products run in the type of ``hidden`` (or of autocast, where it is on), everything after
    them in float32. Gradients are those of the plain computation, for whichever of ``hidden``,
    ``weight`` and ``bias`` require one.

    Args:
        hidden: [N,D] hidden states at the positions that predict the targets.
        weight: [V,D] of the LM head.
        bias: [V], or None.
        target: [N] long.
        entropy: also return the entropy of each distribution, without gradient.
        chunk: tokens whose logits exist at one time, N x V never does.
        save_logits_below: bytes; if N x V floats take no more, they are kept for the backward pass
            instead of computed twice.

    Returns:
        log-probabilities [N] and entropies [N] (None unless asked for), in nats, float32
        (float64 for float64 inputs).
    """
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        # Cast here and not inside: the backward pass of a custom function runs without autocast.
        dtype = torch.get_autocast_dtype(device)
        hidden, weight, bias = hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    with torch.autocast(device, enabled=False):
        options = _Options(entropy, chunk, save_logits_below)
        logprobs, entropies = _SelectedLogprobs.apply(hidden, weight, bias, target, options)
    return logprobs, entropies if entropy else None


def logprobs_through(
    head: Callable[[Tensor], Tensor], hidden: Tensor, target: Tensor, *, entropy: bool = False, chunk: int = CHUNK
) -> tuple[Tensor, Tensor | None]:
    """What ``selected_logprobs`` computes, for a head that is more than one matrix (an adapter, a quantised weight).

    Args:
        head: [c,D] hidden states to [c,V] logits. Called chunk by chunk, and again in the backward pass.

    Other arguments, shapes and results as there.
    """

    def picked(part: Tensor, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        logits = head(part)
        log_softmax = torch.log_softmax(logits.to(_float_dtype(logits.dtype)), dim=-1)
        chosen = log_softmax.gather(-1, ids[:, None])[:, 0]
        if not entropy:
            return chosen, None
        plain = log_softmax.detach()
        return chosen, -(plain.exp() * plain).sum(-1)

    found, keeps = [], not torch.is_grad_enabled()
    for part, ids in zip(hidden.split(chunk), target.split(chunk), strict=True):
        found.append(picked(part, ids) if keeps else checkpoint(picked, part, ids, use_reentrant=False))
    entropies = [one for _, one in found if one is not None]
    return torch.cat([one for one, _ in found]), torch.cat(entropies) if entropy else None


@torch.no_grad()
def log_collision(head: Callable[[Tensor], Tensor], hidden: Tensor, *, chunk: int = CHUNK) -> Tensor:
    """``log Σ_v p(v)²`` under the softmax of ``head(hidden)``: the mean log-likelihood of its own samples, up to the
    order of logarithm and mean. Without gradient; the logits of ``chunk`` tokens exist at one time.

    Args:
        head: [c,D] hidden states to [c,V] logits.
        hidden: [N,D].
        chunk: as in :func:`selected_logprobs`.

    Returns:
        [N], at most 0.
    """
    found = [hidden.new_empty(0, dtype=_float_dtype(hidden.dtype))]
    for part in hidden.split(chunk):
        logits = head(part)
        logits = logits.to(_float_dtype(logits.dtype))
        found.append(torch.logsumexp(2 * logits, -1) - 2 * torch.logsumexp(logits, -1))
    return torch.cat(found)


def _float_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _chunk_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """[c,V] in float32 (or float64), safe to write into."""
    logits = torch.nn.functional.linear(hidden, weight, bias)
    return logits.to(_float_dtype(logits.dtype))


class _Options(NamedTuple):
    entropy: bool
    chunk: int
    save_logits_below: int


class _SelectedLogprobs(torch.autograd.Function):
    """Backward: grad_logits = g (onehot(target) - softmax).

    A trained head needs g before it can sum over tokens, so its softmax is kept or made again, chunk by chunk.
    With a frozen head the gradient of each hidden state is g times a vector known in the forward pass: that
    vector is computed there, where the logits are at hand, and nothing else is kept.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, options: _Options
    ) -> tuple[Tensor, Tensor]:
        dtype = _float_dtype(hidden.dtype)
        size, vocabulary = hidden.shape[0], weight.shape[0]
        needs_hidden, trained = ctx.needs_input_grad[0], any(ctx.needs_input_grad[1:3])
        keep = trained and size * vocabulary * dtype.itemsize <= options.save_logits_below
        kept: list[Tensor] = []  # of exponentials, a tensor per chunk: large ones are never recycled by malloc
        logprobs = torch.empty(size, dtype=dtype, device=hidden.device)
        normaliser, totals = torch.empty_like(logprobs), torch.empty_like(logprobs)
        entropies = torch.empty(size if options.entropy else 0, dtype=dtype, device=hidden.device)
        slope = torch.empty_like(hidden) if needs_hidden and not trained else None
        for start in range(0, size, options.chunk):
            part = slice(start, start + options.chunk)
            logits = _chunk_logits(hidden[part], weight, bias)
            highest = logits.amax(-1, keepdim=True)
            picked = logits.gather(-1, target[part, None])
            shifted = logits.sub_(highest)
            exponential = torch.exp(shifted) if options.entropy else shifted.exp_()
            totals[part] = total = exponential.sum(-1)
            log_total = total.log()
            normaliser[part] = highest[:, 0] + log_total
            logprobs[part] = picked[:, 0] - normaliser[part]
            if options.entropy:
                # sum p (log Z - x): with the highest logit at 0 no term cancels.
                entropies[part] = log_total - shifted.mul_(exponential).sum(-1) / total
            if keep:
                kept.append(exponential)
            if slope is not None:
                grad_logits = exponential.mul_(-1 / total[:, None])
                grad_logits.scatter_add_(1, target[part, None], torch.ones_like(picked))
                slope[part] = grad_logits.to(hidden.dtype) @ weight
        # softmax = exp(logits - normaliser), or exp(logits - highest) / total where those were kept.
        ctx.save_for_backward(hidden, weight, bias, target, totals if keep else normaliser, slope, *kept)
        ctx.chunk = options.chunk
        ctx.mark_non_differentiable(entropies)
        ctx.set_materialize_grads(False)
        return logprobs, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, target, normaliser_or_total, slope, *kept = ctx.saved_tensors
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        if grad is None:
            return (None,) * 5
        if slope is not None:
            return (slope * grad[:, None]).to(hidden.dtype), None, None, None, None
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight = None
        grad_bias = torch.zeros(weight.shape[:1], dtype=grad.dtype, device=weight.device) if needs_bias else None
        buffer = torch.empty_like(kept[0]) if kept else None
        for number, start in enumerate(range(0, hidden.shape[0], ctx.chunk)):
            part = slice(start, start + ctx.chunk)
            if buffer is None:
                softmax = _chunk_logits(hidden[part], weight, bias).sub_(normaliser_or_total[part, None]).exp_()
                grad_logits = softmax.mul_(-grad[part, None])
            else:
                scale = (-grad[part] / normaliser_or_total[part])[:, None]
                grad_logits = torch.mul(kept[number], scale, out=buffer[: scale.shape[0]])
            grad_logits.scatter_add_(1, target[part, None], grad[part, None])
            if grad_bias is not None:
                grad_bias += grad_logits.sum(0)
            grad_logits = grad_logits.to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden[part] = grad_logits @ weight  # not mm(out=...): torch's flop counter would miss it
            if needs_weight:
                grad_weight = _add_product(grad_weight, grad_logits, hidden[part])
        if needs_weight and grad_weight is None:  # no token at all
            grad_weight = torch.zeros_like(weight)
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None else grad_bias.to(weight.dtype),
            None,
            None,
        )


def _add_product(total: Tensor | None, left: Tensor, right: Tensor) -> Tensor:
    """``total + left.T @ right``, into ``total`` where it can be; None is zero. The sum of several chunks
    is kept in float32 where the factors are bfloat16."""
    if total is None:
        return left.T @ right
    if left.dtype == _float_dtype(left.dtype):
        return total.addmm_(left.T, right)
    return total.to(torch.float32).add_(left.T @ right)
