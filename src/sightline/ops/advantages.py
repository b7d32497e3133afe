"""What an answer is worth beyond the others: baselines and scales of rewards, per group of answers.

Sums are taken in float64 where the caller gives it. A group of one answer has itself for a mean, a deviation of 0, and
no others to leave it out of: its advantage is 0 under every baseline made from the group.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sightline.ops.reductions import segment_sum


def group_mean(values: Tensor, group: Tensor, size: int) -> Tensor:
    """[R] mean of each response's group.

    Args:
        values: [R].
        group: [R] long, in 0..size-1 and in any order.
        size: number of groups.

    >>> group_mean(torch.tensor([1.0, 2.0, 6.0]), torch.tensor([0, 1, 1]), 2)
    tensor([1., 4., 4.])
    """
    count = segment_sum(torch.ones_like(values), group, size)
    return (segment_sum(values, group, size) / count.clamp(min=1))[group]


def group_std(values: Tensor, group: Tensor, size: int, *, unbiased: bool) -> Tensor:
    """[R] standard deviation of each response's group; 0 for a group of one.

    Args:
        values: [R], as in ``group_mean``.
        group: [R].
        size: number of groups.
        unbiased: True: divides by n - 1 (``torch.std``, the convention of TRL and verl); False: by n.

    >>> group_std(torch.tensor([1.0, 3.0]), torch.tensor([0, 0]), 1, unbiased=False)
    tensor([1., 1.])
    """
    count = segment_sum(torch.ones_like(values), group, size)
    squares = segment_sum((values - group_mean(values, group, size)).square(), group, size)
    return (squares / (count - float(unbiased)).clamp(min=1)).sqrt()[group]


def leave_one_out(values: Tensor, group: Tensor, size: int) -> Tensor:
    """[R] mean of the *other* responses of the group (RLOO: Kool et al. 2019; Ahmadian et al. 2024, arXiv 2402.14740).
    A response alone in its group gets its own value.

    >>> leave_one_out(torch.tensor([1.0, 2.0, 6.0]), torch.tensor([0, 0, 0]), 1)
    tensor([4.0000, 3.5000, 1.5000])
    """
    count = segment_sum(torch.ones_like(values), group, size)[group]
    others = segment_sum(values, group, size)[group] - values
    return torch.where(count > 1, others / (count - 1).clamp(min=1), values)


def length_weighted_mean(values: Tensor, lengths: Tensor, group: Tensor, size: int) -> Tensor:
    """[R] mean of the group, each response by its length: the baseline of least variance where the squared norm of the
    gradient grows with the length (OPO: Hao et al. 2025, arXiv 2505.23585, equation 8).

    Args:
        values: [R], as in ``group_mean``.
        group: [R].
        size: number of groups.
        lengths: [R] tokens of each response. A group without tokens gets 0.

    >>> length_weighted_mean(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 3.0]), torch.tensor([0, 0]), 1)
    tensor([0.2500, 0.2500])
    """
    mass = segment_sum(lengths, group, size)
    return (segment_sum(values * lengths, group, size) / mass.where(mass > 0, mass.new_ones(())))[group]


def to_go(values: Tensor, segment: Tensor, size: int) -> Tensor:
    """[N] sum of this value and of all that follow it in its segment.

    Args:
        values: [N].
        segment: [N] long, the values of each segment in their order.
        size: number of segments.

    >>> to_go(torch.tensor([1.0, 2.0, 4.0, 8.0]), torch.tensor([0, 0, 1, 0]), 2)
    tensor([11., 10.,  4.,  8.])
    """
    order = segment.argsort(stable=True)
    sorted_segment = segment[order]
    running = values[order].to(torch.float64).cumsum(0)
    total = segment_sum(values.to(torch.float64), segment, size)
    done_before_segment = (total.cumsum(0) - total)[sorted_segment]
    left = total[sorted_segment] - (running - done_before_segment) + values[order].to(torch.float64)
    back = torch.empty_like(left)
    back[order] = left
    return back.to(values.dtype)
