"""Contrastive preference optimisation: DPO without a reference, held by the likelihood of the chosen answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sightline.algorithms.links import LINKS, LinkOptions, check_smoothing
from sightline.algorithms.pairs import (
    check_preferences,
    check_range,
    chosen_nll,
    mean,
    pair_stats,
    response_means,
    response_sums,
)
from sightline.errors import RecipeError
from sightline.types import Algorithm, Batch, Scores, Stat, Term, World


@dataclass(frozen=True, kw_only=True)
class CPO(Algorithm):
    """CPO (Xu et al. 2024, arXiv 2401.08417, equations 3 and 4).

    The score of a response is its log-likelihood, summed over its tokens (their mean for ``ipo``); a link reads the
    scores of winner and loser as in DPO. The behaviour-cloning term keeps the policy near the chosen answers.

    Terms: ``cpo`` [P] per pair (times the weight of the edge), ``sft`` per chosen token.

    >>> CPO(sft_weight=0.5)
    CPO(beta=0.1, link='sigmoid', label_smoothing=0.0, sft_weight=0.5)
    """

    beta: float = 0.1
    """Temperature, > 0: a difference of 1/beta nats is one unit of reward."""
    link: Literal["sigmoid", "hinge", "ipo"] = "sigmoid"
    """``sigmoid``, ``hinge`` (SLiC-HF) or ``ipo`` (means per token)."""
    label_smoothing: float = 0.0
    """Share of labels assumed wrong, in [0, 0.5); ``sigmoid`` only."""
    sft_weight: float = 1.0
    """Weight of the negative log-likelihood per chosen token, >= 0; TRL's ``cpo_alpha``."""

    compares = True

    def __post_init__(self) -> None:
        check_range("beta", self.beta, above=0)
        check_range("sft_weight", self.sft_weight, least=0)
        if self.link not in ("sigmoid", "hinge", "ipo"):
            raise RecipeError(f"algorithm.link of cpo is {self.link!r}; choose 'sigmoid', 'hinge' or 'ipo'.")
        check_smoothing(self.label_smoothing, (self.link,))

    def loss(self, batch: Batch, scores: Scores, world: World) -> tuple[tuple[Term, ...], dict[str, Stat]]:
        """Unreduced terms, and statistics under TRL's names."""
        assert scores.logprobs is not None
        check_preferences(batch, "cpo")
        link = LINKS[self.link]
        score_R = (response_means if link.per_token else response_sums)(scores.logprobs, batch)
        options = LinkOptions(self.beta, self.label_smoothing)
        winner_P, loser_P = score_R[batch.pairs].unbind(1)
        loss_P = batch.pair_weight * link.loss(winner_P, loser_P, options)
        nll = chosen_nll(scores.logprobs, batch)
        terms = [Term(name="cpo", values=loss_P, unit="pair")]
        if self.sft_weight > 0:
            terms.append(Term(name="sft", values=nll, unit="chosen_token", coefficient=self.sft_weight))
        return tuple(terms), pair_stats(batch, scores.logprobs, self.beta * score_R) | {"nll_loss": mean(nll)}
