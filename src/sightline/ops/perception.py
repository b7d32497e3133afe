"""How much the picture matters to the tokens of an answer, from their log-probabilities with it and without it."""

from __future__ import annotations

from torch import Tensor

from sightline.ops.kl import kl_estimate
from sightline.ops.reductions import segment_count, segment_position

_FARTHEST = 20.0
"""Largest log-ratio that is told from larger ones: its exponential is finite in every precision."""


def dependence(logprobs: Tensor, masked: Tensor, most: float) -> Tensor:
    """Estimate k3 of ``KL(π(·|I) ‖ π(·|masked I))`` at tokens that were sampled with the picture.

    With d the log-probability with the picture less that without it: ``exp(-d) - 1 + d``, d on [-20, 20], at most
    ``most``; where a bound is reached the gradient is 0.

    Args:
        logprobs: [N] with the picture.
        masked: [N] of the same tokens under the masked picture.
        most: largest value, > 0.

    Returns:
        [N], at least 0.

    >>> import torch
    >>> dependence(torch.tensor([-1.0, -1.0]), torch.tensor([-1.0, -3.0]), most=10.0)
    tensor([0.0000, 1.1353])
    """
    return kl_estimate((logprobs - masked).clamp(-_FARTHEST, _FARTHEST), "k3").clamp(max=most)


def top_share(values: Tensor, index: Tensor, size: int, share: float) -> Tensor:
    """Which values are among the largest of their segment: so large a share of it, rounded up.

    Args:
        values: [N]; of equal ones the first come first.
        index: [N] long, the segment of each value.
        size: number of segments.
        share: in (0, 1].

    Returns:
        [N] bool.

    >>> import torch
    >>> top_share(torch.tensor([3.0, 1.0, 2.0, 5.0]), torch.tensor([0, 0, 0, 1]), 2, 0.4).tolist()
    [True, False, True, True]
    """
    order = values.argsort(descending=True, stable=True)
    rank = values.new_empty(values.shape, dtype=index.dtype)
    rank[order] = segment_position(index[order], size)
    return rank < share_of(index, size, share)[index]


def share_of(index: Tensor, size: int, share: float) -> Tensor:
    """How many values of each segment :func:`top_share` keeps: [size] long."""
    return (segment_count(index, size).double() * share - 1e-9).ceil().long()
