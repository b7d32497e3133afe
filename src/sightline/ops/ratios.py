"""Importance ratios of a policy to the one it was before, and what is made of them: one number per token in, one out.

Every function takes and gives [N], so that levels compose with any objective: a ratio of a whole response stands at
each of its tokens. Where policy and old policy agree, every ratio is exactly 1, with the gradient of its
logarithm.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sightline.ops.reductions import segment_mean, segment_sum

RatioLevel = Literal["token", "sequence", "sequence_token", "product"]


def log_ratio_at(logratio: Tensor, response: Tensor, size: int, level: RatioLevel) -> Tensor:
    """[N] logarithm of the ratio that stands at each token.

    ==============  =============================================================================================
    token           its own: ``log π(y_t) - log π_old(y_t)``
    sequence        mean over its response: GSPO (Zheng et al. 2025, arXiv 2507.18071, equation 7)
    sequence_token  the same value, with the gradient of its own token alone: GSPO-token (equation 14)
    product         sum over its response: the ratio of the probabilities of whole responses (RLOO)
    ==============  =============================================================================================

    Args:
        logratio: [N] log π - log π_old.
        response: [N] long, in 0..size-1.
        size: number of responses.
        level: which of them.
    """
    if level == "token":
        return logratio
    if level == "product":
        return segment_sum(logratio, response, size)[response]
    mean = segment_mean(logratio, response, size)[response]
    return mean if level == "sequence" else mean.detach() + logratio - logratio.detach()


def clipped_gain(ratio: Tensor, advantage: Tensor, low: float, high: float, most: float | None = None) -> Tensor:
    """PPO's ``min(ratio·A, clip(ratio, 1-low, 1+high)·A)`` (Schulman et al. 2017, arXiv 1707.06347, equation 7).

    Args:
        ratio: [N].
        advantage: [N].
        low: distance below 1, >= 0.
        high: distance above 1, >= 0; above ``low`` it is DAPO's clip-higher.
        most: largest ratio that a negative advantage is multiplied by (dual clip, arXiv 1912.09729); None: any.

    >>> clipped_gain(torch.tensor([1.5, 1.5, 0.5]), torch.tensor([1.0, -1.0, -1.0]), 0.2, 0.28)
    tensor([ 1.2800, -1.5000, -0.8000])
    """
    clipped = ratio.clamp(1 - low, 1 + high)
    free = ratio if most is None else ratio.clamp(max=most)
    return torch.minimum(free * advantage, clipped * advantage)


def clip_log_ratio(logratio: Tensor, advantage: Tensor, low: float, high: float) -> Tensor:
    """Log-ratios bounded on the side that the advantage pushes them to: at most ``high`` where it is positive, at least
    ``-low`` elsewhere (GMPO: Zhao et al. 2025, arXiv 2507.20673, equation 4)."""
    return torch.where(advantage > 0, logratio.clamp(max=high), logratio.clamp(min=-low))


def soft_gain(ratio: Tensor, advantage: Tensor, temperature_positive: float, temperature_negative: float) -> Tensor:
    """``4/τ · σ(τ(ratio - 1)) · A``: a gate whose slope at 1 is 1 and that closes smoothly on both sides
    (SAPO: Gao et al. 2025, arXiv 2511.20347)."""
    temperature = torch.where(advantage > 0, temperature_positive, temperature_negative)
    return (temperature * (ratio - 1)).sigmoid() * 4 / temperature * advantage
