"""What a sampler's log-probabilities differ from the trainer's, and how answers are weighed for it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sightline.ops.reductions import segment_mean, segment_sum

MismatchLevel = Literal["token", "sequence", "geometric"]
MismatchAction = Literal["truncate", "mask", "reject"]


def mismatch_ratio(gap: Tensor, response: Tensor, size: int, level: MismatchLevel) -> Tensor:
    """[N] ratio of the trainer's probability to the sampler's: of the token, of the whole response, or the geometric
    mean over the response.

    Args:
        gap: [N] log π_old - log π_rollout.
        response: [N] long, in 0..size-1.
        size: number of responses.
        level: which of them.
    """
    if level == "token":
        return gap.exp()
    whole = segment_sum(gap, response, size) if level == "sequence" else segment_mean(gap, response, size)
    return whole.exp()[response]


def mismatch_weight(ratio: Tensor, action: MismatchAction, low: float, high: float) -> Tensor:
    """[N] weight of each token's policy gradient.

    Args:
        ratio: [N], of :func:`mismatch_ratio`.
        action: ``truncate``: the ratio, moved to the nearer bound where it is outside; ``mask``: the ratio, 0 outside;
            ``reject``: 1, 0 outside.
        low: least ratio that is inside, >= 0.
        high: greatest ratio that is inside.

    >>> mismatch_weight(torch.tensor([0.4, 1.5, 6.0]), "mask", 0.5, 5.0)
    tensor([0.0000, 1.5000, 0.0000])
    """
    if action == "truncate":
        return ratio.clamp(low, high)
    inside = (ratio >= low) & (ratio <= high)
    return torch.where(inside, ratio if action == "mask" else torch.ones_like(ratio), ratio.new_zeros(()))
