"""Sums and means over segments of a flat axis, such as the tokens of each response."""

from __future__ import annotations

import torch
from torch import Tensor


def segment_sum(values: Tensor, index: Tensor, size: int) -> Tensor:
    """Sum of the values of each segment.

    Args:
        values: [N] float.
        index: [N] long, the segment of each value, in 0..size-1 and in any order.
        size: number of segments.

    Returns:
        [size], 0 for a segment without values.

    >>> segment_sum(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1, 0, 1]), 3)
    tensor([2., 5., 0.])
    """
    return values.new_zeros(size).index_add(0, index, values)


def segment_count(index: Tensor, size: int) -> Tensor:
    """Number of values of each segment. (``bincount`` would make the host wait for a device.)

    Args:
        index: [N] long, the segment of each value.
        size: number of segments.

    Returns:
        [size] long.

    >>> segment_count(torch.tensor([1, 0, 1]), 3)
    tensor([1, 2, 0])
    """
    return index.new_zeros(size).index_add(0, index, torch.ones_like(index))


def segment_mean(values: Tensor, index: Tensor, size: int, weights: Tensor | None = None) -> Tensor:
    """Mean of the values of each segment, weighted where ``weights`` [N] >= 0 are given.

    Returns:
        [size], 0 for a segment without values or whose weights are all 0.
    """
    if weights is None:
        weights = values.new_ones(values.shape)
    total = segment_sum(values * weights, index, size)
    mass = segment_sum(weights, index, size)
    return total / mass.where(mass > 0, mass.new_ones(()))


def segment_logsumexp(values: Tensor, index: Tensor, size: int) -> Tensor:
    """Logarithm of the sum of exponentials of each segment, without overflow.

    Args and shapes as in :func:`segment_sum`.

    Returns:
        [size], -inf for a segment without values.

    >>> segment_logsumexp(torch.tensor([0.0, 1000.0, 0.0]), torch.tensor([0, 1, 0]), 2)
    tensor([6.9315e-01, 1.0000e+03])
    """
    highest = values.detach().new_full((size,), float("-inf")).scatter_reduce(0, index, values.detach(), "amax")
    shift = highest.where(highest.isfinite(), highest.new_zeros(()))
    return segment_sum((values - shift[index]).exp(), index, size).log() + shift


def segment_position(index: Tensor, size: int) -> Tensor:
    """Place of each value within its segment, counted from 0 in the order of the flat axis.

    Args:
        index: [N] long, in any order.
        size: number of segments.

    Returns:
        [N] long.

    >>> segment_position(torch.tensor([1, 0, 1, 1]), 2)
    tensor([0, 0, 1, 2])
    """
    order = index.argsort(stable=True)
    lengths = segment_count(index, size)
    starts = lengths.cumsum(0) - lengths
    place = index.new_empty(index.shape)
    place[order] = torch.arange(index.shape[0], device=index.device) - starts[index[order]]
    return place
