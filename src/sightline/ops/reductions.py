"""Sums and means over segments of a flat axis, such as the tokens of each response."""

from __future__ import annotations

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
