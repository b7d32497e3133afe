"""Odds ratio preference optimisation: supervised fine-tuning that also learns what not to say, without a reference."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import logsigmoid

from sightline.algorithms.pairs import check_preferences, check_range, chosen_nll, mean, pair_stats, response_means
from sightline.errors import RecipeError
from sightline.ops.odds import log_odds
from sightline.types import Algorithm, Batch, Scores, Stat, Term, World


@dataclass(frozen=True, kw_only=True)
class ORPO(Algorithm):
    """ORPO (Hong et al. 2024, arXiv 2403.07691, equations 6 and 7).

    ``-log σ(log odds(w) - log odds(l))`` with ``odds(y) = P / (1 - P)``, where log P is the *mean* log-likelihood of
    the scored tokens of y; beside it the negative log-likelihood of the chosen answer. Prompt and image placeholders
    are in neither term: TRL's ORPO trains the prompt too, which for a picture means thousands of placeholders.

    Odds are computed in float32 and stay finite at probability 1 (:mod:`sightline.ops.odds`).

    Terms: ``orpo`` [P] per pair (times the weight of the edge), ``sft`` per chosen token.

    >>> ORPO(beta=0.2)
    ORPO(beta=0.2, sft_weight=1.0)
    """

    beta: float = 0.1
    """Weight of the odds-ratio term, >= 0: the paper's λ, TRL's ``beta``, the authors' ``alpha``."""
    sft_weight: float = 1.0
    """Weight of the negative log-likelihood per chosen token, >= 0: 1 in the paper and in TRL."""

    compares = True

    def __post_init__(self) -> None:
        check_range("beta", self.beta, least=0)
        check_range("sft_weight", self.sft_weight, least=0)
        if self.beta == 0 and self.sft_weight == 0:
            raise RecipeError("algorithm.beta and algorithm.sft_weight are both 0: nothing would be trained.")

    def loss(self, batch: Batch, scores: Scores, world: World) -> tuple[tuple[Term, ...], dict[str, Stat]]:
        """Unreduced terms, and statistics under TRL's names."""
        assert scores.logprobs is not None
        check_preferences(batch, "orpo")
        logp_R = response_means(scores.logprobs, batch).to(torch.promote_types(scores.logprobs.dtype, torch.float32))
        odds_R = log_odds(logp_R)
        ratio_P = odds_R[batch.pairs[:, 0]] - odds_R[batch.pairs[:, 1]]
        nll = chosen_nll(scores.logprobs, batch)
        terms = []
        if self.beta > 0:
            values = -batch.pair_weight * logsigmoid(ratio_P)
            terms.append(Term(name="orpo", values=values, unit="pair", coefficient=self.beta))
        if self.sft_weight > 0:
            terms.append(Term(name="sft", values=nll, unit="chosen_token", coefficient=self.sft_weight))
        stats = pair_stats(batch, scores.logprobs, self.beta * logp_R) | {
            "logps/chosen": mean(logp_R[batch.pairs[:, 0]]),
            "logps/rejected": mean(logp_R[batch.pairs[:, 1]]),
            "nll_loss": mean(nll),
            "log_odds_ratio": mean(logsigmoid(ratio_P)),
            "log_odds_chosen": mean(ratio_P),
        }
        return tuple(terms), stats
