"""How a comparison is scored: losses of the margin between winner and loser.

A margin is the log-ratio (policy over reference) of the winner minus that of the loser, in nats; a
positive one says that the policy moved towards the winner. Every link maps [P] margins to [P] losses.
Which comparisons are made is not decided here but by the edges of a group.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from torch import Tensor
from torch.nn.functional import logsigmoid

LinkName = Literal["sigmoid", "hinge", "ipo", "robust"]


def sigmoid(margin: Tensor, beta: float, label_smoothing: float) -> Tensor:
    """``-(1-s) log σ(β m) - s log σ(-β m)``, the Bradley-Terry likelihood.

    Rafailov et al. 2023 (arXiv 2305.18290), equation 7; with ``label_smoothing`` s > 0 the conservative
    DPO of Mitchell 2023, for labels of which a share s in [0, 0.5) is wrong. Sum over tokens.

    >>> sigmoid(torch.tensor([5.0]), beta=0.1, label_smoothing=0.0)
    tensor([0.4741])
    """
    scaled = beta * margin
    if label_smoothing == 0:
        return -logsigmoid(scaled)
    return -(1 - label_smoothing) * logsigmoid(scaled) - label_smoothing * logsigmoid(-scaled)


def robust(margin: Tensor, beta: float, label_smoothing: float) -> Tensor:
    """``(-(1-s) log σ(β m) + s log σ(-β m)) / (1 - 2s)``: unbiased when a share s of labels is flipped.

    Chowdhury et al. 2024 (arXiv 2403.00409), equation 8; s in [0, 0.5). May be negative. Sum over tokens.

    >>> robust(torch.tensor([5.0]), beta=0.1, label_smoothing=0.1)
    tensor([0.4116])
    """
    scaled = beta * margin
    clean, flipped = -logsigmoid(scaled), -logsigmoid(-scaled)
    return ((1 - label_smoothing) * clean - label_smoothing * flipped) / (1 - 2 * label_smoothing)


def hinge(margin: Tensor, beta: float, label_smoothing: float) -> Tensor:
    """``max(0, 1 - β m)``: no push once the margin is 1/β.

    Zhao et al. 2023 (SLiC, arXiv 2305.10425), with the log-ratio as score. Sum over tokens.

    >>> hinge(torch.tensor([5.0]), beta=0.1, label_smoothing=0.0)
    tensor([0.5000])
    """
    return (1 - beta * margin).relu()


def ipo(margin: Tensor, beta: float, label_smoothing: float) -> Tensor:
    """``(m - 1/(2β))²``: pulls the margin to 1/(2β) instead of to infinity.

    Azar et al. 2023 (arXiv 2310.12036), equation 17, with τ = β. The margin is that of the *mean* log-ratio per
    token, as the authors computed it and as TRL does.

    >>> ipo(torch.tensor([2.0]), beta=0.1, label_smoothing=0.0)
    tensor([9.])
    """
    return (margin - 1 / (2 * beta)) ** 2


LINKS: Mapping[LinkName, Callable[[Tensor, float, float], Tensor]] = {
    "sigmoid": sigmoid,
    "hinge": hinge,
    "ipo": ipo,
    "robust": robust,
}
PER_TOKEN: frozenset[LinkName] = frozenset({"ipo"})
"""Links whose margin is made of mean log-ratios per token; the others sum over tokens."""
SMOOTHED: frozenset[LinkName] = frozenset({"sigmoid", "robust"})
"""Links that read ``label_smoothing``."""
