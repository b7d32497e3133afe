"""What a log-ratio is worth under another divergence from the reference than the reverse KL (f-DPO).

DPO is the reverse KL's case of a family: with a divergence f the reward of a response is ``β f'(π/π_ref)`` instead
of ``β log π/π_ref`` (Wang et al. 2023, arXiv 2309.16240, theorem 1 and table 2).
"""

from __future__ import annotations

import math
from typing import Literal, get_args

from torch import Tensor
from torch.nn.functional import logsigmoid

Divergence = Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"]
DIVERGENCES: tuple[Divergence, ...] = get_args(Divergence)

_HIGHEST = 80.0
"""Exponents are cut here: e^80 is still finite in float32. TRL does the same for the alpha divergence."""


def divergence_score(logratio: Tensor, divergence: Divergence, alpha: float | None) -> Tensor:
    """``f'(t)`` of ``t = exp(logratio)``, up to a constant that cancels between two responses.

    Args:
        logratio: log π - log π_ref, any shape, in nats.
        divergence: ``reverse_kl`` log t; ``forward_kl`` 1 - 1/t; ``js_divergence`` log(2t / (1 + t));
            ``alpha_divergence`` (t^(α-1) - 1) / (α - 1).
        alpha: α of the alpha divergence, not 1.

    Returns:
        The shape of ``logratio``.

    >>> divergence_score(torch.tensor([0.0, 1.0]), "forward_kl", None)
    tensor([0.0000, 0.6321])
    """
    if divergence == "forward_kl":
        return 1 - (-logratio).clamp(max=_HIGHEST).exp()
    if divergence == "js_divergence":
        return math.log(2) + logsigmoid(logratio)
    if divergence == "alpha_divergence":
        assert alpha is not None
        return ((alpha - 1) * logratio).clamp(max=_HIGHEST).expm1() / (alpha - 1)
    return logratio
