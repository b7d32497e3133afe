"""How a comparison is scored: losses of the scores of winner and loser.

A score is the log-ratio (policy over reference) of a response, in nats. Most links read only the margin, winner's
score minus loser's; some read both scores, so that they say where each should go and not only how far apart. Every
link maps [P] and [P] scores to [P] losses. Which comparisons are made is not decided here but by the edges of a
group. Names are those of TRL's ``loss_type``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import logsigmoid

from sightline.errors import RecipeError


class LinkOptions(NamedTuple):
    """What links may read beside the scores."""

    beta: float
    """> 0: a score of 1/beta nats is one unit of reward."""
    label_smoothing: float = 0.0
    """Share of labels assumed wrong, in [0, 0.5)."""
    discopop_tau: float = 0.05
    """Temperature of ``discopop``, > 0."""


def sigmoid(winner: Tensor, loser: Tensor, o: LinkOptions) -> Tensor:
    """``-(1-s) log σ(β m) - s log σ(-β m)`` of the margin m, the Bradley-Terry likelihood.

    Rafailov et al. 2023 (arXiv 2305.18290), equation 7; with ``label_smoothing`` s > 0 the conservative
    DPO of Mitchell 2023, for labels of which a share s in [0, 0.5) is wrong.

    >>> sigmoid(torch.tensor([3.0]), torch.tensor([-2.0]), LinkOptions(beta=0.1))
    tensor([0.4741])
    """
    scaled = o.beta * (winner - loser)
    if o.label_smoothing == 0:
        return -logsigmoid(scaled)
    return -(1 - o.label_smoothing) * logsigmoid(scaled) - o.label_smoothing * logsigmoid(-scaled)


def robust(winner: Tensor, loser: Tensor, o: LinkOptions) -> Tensor:
    """``(-(1-s) log σ(β m) + s log σ(-β m)) / (1 - 2s)``: unbiased when a share s of labels is flipped.

    Chowdhury et al. 2024 (arXiv 2403.00409), equation 8. May be negative.

    >>> robust(torch.tensor([5.0]), torch.tensor([0.0]), LinkOptions(beta=0.1, label_smoothing=0.1))
    tensor([0.4116])
    """
    scaled = o.beta * (winner - loser)
    clean, flipped = -logsigmoid(scaled), -logsigmoid(-scaled)
    return ((1 - o.label_smoothing) * clean - o.label_smoothing * flipped) / (1 - 2 * o.label_smoothing)


def hinge(winner: Tensor, loser: Tensor, o: LinkOptions) -> Tensor:
    """``max(0, 1 - β m)``: no push once the margin is 1/β.

    Zhao et al. 2023 (SLiC, arXiv 2305.10425), with the log-ratio as score.
    """
    return (1 - o.beta * (winner - loser)).relu()


def ipo(winner: Tensor, loser: Tensor, o: LinkOptions) -> Tensor:
    """``(m - 1/(2β))²``: pulls the margin to 1/(2β) instead of to infinity.

    Azar et al. 2023 (arXiv 2310.12036), equation 17, with τ = β. Scores are *means* per token, as the authors
    computed it and as TRL does.

    >>> ipo(torch.tensor([2.0]), torch.tensor([0.0]), LinkOptions(beta=0.1))
    tensor([9.])
    """
    return (winner - loser - 1 / (2 * o.beta)) ** 2


def exo_pair(winner: Tensor, loser: Tensor, o: LinkOptions) -> Tensor:
    """``q log(q / (1-s)) + (1-q) log((1-q) / s)`` with ``q = σ(β m)``: reverse KL to the labels.

    Ji et al. 2024 (EXO, arXiv 2402.00856), equation 16. The labels are softened by ``label_smoothing`` s > 0:
    at 0 the divergence is infinite.
    """
    scaled = o.beta * (winner - loser)
    wins, loses = scaled.sigmoid(), (-scaled).sigmoid()
    return wins * (logsigmoid(scaled) - math.log1p(-o.label_smoothing)) + loses * (
        logsigmoid(-scaled) - math.log(o.label_smoothing)
    )


def nca_pair(winner: Tensor, loser: Tensor, o: LinkOptions) -> Tensor:
    """``-log σ(β w) - ½ log σ(-β w) - ½ log σ(-β l)``: keeps the winner's likelihood from falling.

    Chen et al. 2024 (NCA, arXiv 2402.05369), for two responses.
    """
    win, lose = o.beta * winner, o.beta * loser
    return -logsigmoid(win) - 0.5 * logsigmoid(-win) - 0.5 * logsigmoid(-lose)


def bco_pair(winner: Tensor, loser: Tensor, o: LinkOptions) -> Tensor:
    """``-log σ(β w) - log σ(-β l)``: a binary classifier of good and bad responses.

    Jung et al. 2024 (BCO, arXiv 2404.04656), equation 6, without the shift δ (a running mean of rewards): as in TRL
    since 1.0, so that the loss of a pair depends on nothing but the pair.
    """
    return -logsigmoid(o.beta * winner) - logsigmoid(-o.beta * loser)


def sppo_hard(winner: Tensor, loser: Tensor, o: LinkOptions) -> Tensor:
    """``(w - 1/(2β))² + (l + 1/(2β))²``: both log-ratios have a finite target.

    Wu et al. 2024 (SPPO, arXiv 2405.00675), equation 4.7, with winning probabilities 1 and 0.
    """
    return (winner - 0.5 / o.beta) ** 2 + (loser + 0.5 / o.beta) ** 2


def apo_zero(winner: Tensor, loser: Tensor, o: LinkOptions) -> Tensor:
    """``1 - σ(β w) + σ(β l)``: winner up, loser down, for winners better than what the model says.

    D'Oosterlinck et al. 2024 (APO, arXiv 2408.06266), equation 7.
    """
    return (-o.beta * winner).sigmoid() + (o.beta * loser).sigmoid()


def apo_down(winner: Tensor, loser: Tensor, o: LinkOptions) -> Tensor:
    """``σ(β w) + 1 - σ(β m)``: winner down, loser further down, for winners worse than what the model says.

    D'Oosterlinck et al. 2024 (APO, arXiv 2408.06266), equation 8.
    """
    return (o.beta * winner).sigmoid() + (-o.beta * (winner - loser)).sigmoid()


def discopop(winner: Tensor, loser: Tensor, o: LinkOptions) -> Tensor:
    """``-log σ(x) (1 - σ(x/τ)) + e^{-x} σ(x/τ)`` with ``x = β m``: a loss found by search.

    Lu et al. 2024 (DiscoPOP, arXiv 2406.08414), equation 5.
    """
    scaled = o.beta * (winner - loser)
    mixing = (scaled / o.discopop_tau).sigmoid()
    # beyond -80 the mixing is 0 in float32, and an infinite exponential would make the product nan
    return -logsigmoid(scaled) * (1 - mixing) + (-scaled).clamp(max=80.0).exp() * mixing


@dataclass(frozen=True, kw_only=True)
class Link:
    """A link, and which scores and options it honours."""

    loss: Callable[[Tensor, Tensor, LinkOptions], Tensor]
    """([P] winner's score, [P] loser's score, options) -> [P]."""
    per_token: bool = False
    """Scores are mean log-ratios per token; otherwise sums."""
    smoothing: bool = False
    """Reads ``label_smoothing``."""
    margin: bool = True
    """Reads only the margin, and so may be used with any divergence."""


LINKS: Mapping[str, Link] = {
    "sigmoid": Link(loss=sigmoid, smoothing=True),
    "sigmoid_norm": Link(loss=sigmoid, smoothing=True, per_token=True),
    "hinge": Link(loss=hinge),
    "ipo": Link(loss=ipo, per_token=True),
    "robust": Link(loss=robust, smoothing=True),
    "exo_pair": Link(loss=exo_pair, smoothing=True),
    "nca_pair": Link(loss=nca_pair, margin=False),
    "bco_pair": Link(loss=bco_pair, margin=False),
    "sppo_hard": Link(loss=sppo_hard, margin=False),
    "apo_zero": Link(loss=apo_zero, margin=False),
    "apo_down": Link(loss=apo_down, margin=False),
    "discopop": Link(loss=discopop),
}
"""``sigmoid_norm`` is ``sigmoid`` on mean log-ratios per token. TRL's ``aot`` and ``aot_unpaired`` compare whole
batches and are an algorithm of their own (``aot``); its ``sft`` is a term (``sft_weight``)."""


def check_smoothing(value: float, used: Collection[str] = ("sigmoid",)) -> None:
    """
    Args:
        value: label smoothing.
        used: links of which one must read it if it is not 0.

    Raises:
        RecipeError: a share outside [0, 0.5), or one that no link reads.
    """
    if not 0 <= value < 0.5:
        raise RecipeError(f"algorithm.label_smoothing is {value}; it is the share of wrong labels, in [0, 0.5).")
    if value and not any(LINKS[name].smoothing for name in used):
        readers = ", ".join(name for name, link in LINKS.items() if link.smoothing)
        raise RecipeError(
            f"algorithm.label_smoothing is {value}, but the link {', '.join(used)} does not use it. "
            f"Set it to 0, or choose one of the links {readers}."
        )
