"""Direct preference optimisation over whatever comparisons the groups bring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from sightline.algorithms.links import LINKS, PER_TOKEN, SMOOTHED, LinkName
from sightline.errors import RecipeError
from sightline.ops.reductions import segment_mean, segment_sum
from sightline.types import Algorithm, Batch, EdgeKind, Scores, Stat, Term, World


@dataclass(frozen=True, kw_only=True)
class DPO(Algorithm):
    """DPO (Rafailov et al. 2023, arXiv 2305.18290): the log-ratio of policy to reference is the reward.

    For every edge (winner w, loser l) of the batch the margin ``m = Δ(w) - Δ(l)`` is scored by a link, where
    ``Δ(y) = Σ_t (log π(y_t) - log π_ref(y_t))`` over the scored tokens of y, each times its weight where the data
    brings weights. Edges of kind ``image`` (same answer, other picture) are scored in the same way, so that
    visual preferences need no other algorithm.

    Terms: ``dpo`` [P] per pair (link times the weight of the edge) or summed per group, and ``sft`` per chosen
    token.

    >>> DPO(beta=0.1, link="ipo")
    DPO(beta=0.1, link='ipo', label_smoothing=0.0, sft_weight=0.0, per='pair')
    """

    beta: float = 0.1
    """Strength of the pull towards the reference, > 0: a margin of 1/beta nats is one unit of reward."""
    link: LinkName = "sigmoid"
    """``sigmoid``, ``hinge``, ``ipo`` (mean log-ratio per token) or ``robust``."""
    label_smoothing: float = 0.0
    """Share of labels assumed wrong, in [0, 0.5): conservative DPO with ``sigmoid``, unbiased with ``robust``."""
    sft_weight: float = 0.0
    """Weight of the mean negative log-likelihood per chosen token, >= 0. A response that wins several edges
    counts once."""
    per: Literal["pair", "group"] = "pair"
    """``pair``: mean over comparisons. ``group``: sum over the comparisons of a group, mean over groups, which is how
    losses of several terms per row are published (mDPO, S-VCO, OViP)."""

    needs = frozenset({"ref_logprobs"})

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise RecipeError(f"algorithm.beta is {self.beta}; DPO needs a value above 0. The usual one is 0.1.")
        if self.link not in LINKS:
            raise RecipeError(f"algorithm.link is {self.link!r}; choose one of {', '.join(LINKS)}.")
        if not 0 <= self.label_smoothing < 0.5:
            raise RecipeError(
                f"algorithm.label_smoothing is {self.label_smoothing}; it is the share of wrong labels, in [0, 0.5)."
            )
        if self.label_smoothing and self.link not in SMOOTHED:
            raise RecipeError(
                f"algorithm.label_smoothing is {self.label_smoothing}, but the link {self.link!r} does not use it. "
                f"Set it to 0, or choose one of the links {', '.join(sorted(SMOOTHED))}."
            )
        if not self.sft_weight >= 0:
            raise RecipeError(f"algorithm.sft_weight is {self.sft_weight}; it must be 0 or more.")

    def loss(self, batch: Batch, scores: Scores, world: World) -> tuple[tuple[Term, ...], dict[str, Stat]]:
        """Unreduced terms, and statistics under TRL's names."""
        assert scores.logprobs is not None and batch.ref_logprobs is not None
        logratio_N = scores.logprobs - batch.ref_logprobs
        summed_R = segment_sum(
            logratio_N if batch.weights is None else logratio_N * batch.weights, batch.response, batch.num_responses
        )
        scored_R = summed_R
        if self.link in PER_TOKEN:
            scored_R = segment_mean(logratio_N, batch.response, batch.num_responses, batch.weights)
        winner_P, loser_P = batch.pairs.unbind(1)
        margin_P = scored_R[winner_P] - scored_R[loser_P]
        loss_P = LINKS[self.link](margin_P, self.beta, self.label_smoothing)
        terms = [Term(name="dpo", values=batch.pair_weight * loss_P, unit=self.per)]
        if self.sft_weight > 0:
            nll_N = -scores.logprobs if batch.weights is None else -scores.logprobs * batch.weights
            chosen_N = batch.chosen()[batch.response]
            terms.append(Term(name="sft", values=nll_N[chosen_N], unit="chosen_token", coefficient=self.sft_weight))
        return tuple(terms), self._stats(batch, scores.logprobs.detach(), self.beta * summed_R.detach())

    def _stats(self, batch: Batch, logprobs_N: Tensor, reward_R: Tensor) -> dict[str, Stat]:
        """Means per pair. Per kind of edge there is always an entry, so that every rank logs the same names."""
        logp_R = segment_sum(logprobs_N, batch.response, batch.num_responses)
        length_R = segment_sum(torch.ones_like(logprobs_N), batch.response, batch.num_responses)
        winner_P, loser_P = batch.pairs.unbind(1)
        margin_P = reward_R[winner_P] - reward_R[loser_P]
        right_P = (margin_P > 0).to(margin_P.dtype)
        stats = {
            "rewards/chosen": _mean(reward_R[winner_P]),
            "rewards/rejected": _mean(reward_R[loser_P]),
            "rewards/accuracies": _mean(right_P),
            "rewards/margins": _mean(margin_P),
            "logps/chosen": _mean(logp_R[winner_P]),
            "logps/rejected": _mean(logp_R[loser_P]),
            "length/chosen": _mean(length_R[winner_P]),
            "length/rejected": _mean(length_R[loser_P]),
        }
        for kind in get_args(EdgeKind):
            of_kind_P = torch.tensor([k == kind for k in batch.pair_kind], dtype=torch.bool, device=margin_P.device)
            stats[f"rewards/accuracies/{kind}"] = _mean(right_P[of_kind_P])
            stats[f"rewards/margins/{kind}"] = _mean(margin_P[of_kind_P])
        return stats


def _mean(values: Tensor) -> Stat:
    return Stat(sum=values.sum(), count=values.shape[0])
