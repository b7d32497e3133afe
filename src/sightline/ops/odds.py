"""Odds of a probability that is given as its logarithm, in float32 and finite up to probability 1."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def log1mexp(logp: Tensor) -> Tensor:
    """``log(1 - exp(logp))`` for logarithms of probabilities, ``logp <= 0``.

    Two branches that meet at -ln 2, so that neither end loses digits (Maechler 2012, "Accurately computing
    log(1 - exp(-|a|))", equation 7). A probability within one rounding of 1 counts as one rounding below it: the
    result stays above -16 in float32, and its gradient there is 0.

    >>> log1mexp(torch.tensor([-0.6931472, -1e-9]))
    tensor([ -0.6931, -15.9424])
    """
    below = logp.clamp(max=-torch.finfo(logp.dtype).eps)
    near = below > -math.log(2)
    # each branch sees only values that it can take: where() would pass the other's infinite gradient on as nan
    by_expm1 = (-torch.expm1(below.where(near, below.new_full((), -0.5)))).log()
    by_exp = torch.log1p(-torch.exp(below.where(~near, below.new_full((), -1.0))))
    return by_expm1.where(near, by_exp)


def log_odds(logp: Tensor) -> Tensor:
    """``log(p / (1 - p))`` of ``p = exp(logp)``; at most 16 in float32, see :func:`log1mexp`.

    >>> log_odds(torch.tensor([-0.6931472]))
    tensor([0.])
    """
    return logp - log1mexp(logp)
