"""Simple preference optimisation: mean log-likelihood per token as reward, with a target margin."""

from __future__ import annotations

from dataclasses import dataclass

from sightline.algorithms.links import LinkOptions, check_smoothing, sigmoid
from sightline.algorithms.pairs import check_preferences, check_range, chosen_nll, mean, pair_stats, response_means
from sightline.types import Algorithm, Batch, Scores, Stat, Term, World


@dataclass(frozen=True, kw_only=True)
class SimPO(Algorithm):
    """SimPO (Meng et al. 2024, arXiv 2405.14734, equation 6): ``-log σ(β (p̄(w) - p̄(l)) - γ)``.

    ``p̄(y)`` is the mean log-likelihood of the scored tokens of y, so that long answers have no advantage, and no
    reference is needed. γ is given as its ratio to β, as the authors tune it: the margin in nats per token.

    Terms: ``simpo`` [P] per pair (times the weight of the edge), ``sft`` per chosen token.

    >>> SimPO()
    SimPO(beta=2.0, gamma_beta_ratio=0.5, label_smoothing=0.0, sft_weight=0.0)
    """

    beta: float = 2.0
    """Scale of the reward, > 0; much larger than DPO's, since means per token are small."""
    gamma_beta_ratio: float = 0.5
    """Target margin γ/β, in nats per token, >= 0. TRL's ``simpo_gamma`` is this times ``beta``."""
    label_smoothing: float = 0.0
    """Share of labels assumed wrong, in [0, 0.5)."""
    sft_weight: float = 0.0
    """Weight of the negative log-likelihood per chosen token, >= 0 (CPO-SimPO; TRL's ``cpo_alpha``)."""

    compares = True

    def __post_init__(self) -> None:
        check_range("beta", self.beta, above=0)
        check_range("gamma_beta_ratio", self.gamma_beta_ratio, least=0)
        check_range("sft_weight", self.sft_weight, least=0)
        check_smoothing(self.label_smoothing)

    def loss(self, batch: Batch, scores: Scores, world: World) -> tuple[tuple[Term, ...], dict[str, Stat]]:
        """Unreduced terms, and statistics under TRL's names."""
        assert scores.logprobs is not None
        check_preferences(batch, "simpo")
        score_R = response_means(scores.logprobs, batch)
        winner_P, loser_P = score_R[batch.pairs].unbind(1)
        options = LinkOptions(self.beta, self.label_smoothing)
        loss_P = batch.pair_weight * sigmoid(winner_P - self.gamma_beta_ratio, loser_P, options)
        nll = chosen_nll(scores.logprobs, batch)
        terms = [Term(name="simpo", values=loss_P, unit="pair")]
        if self.sft_weight > 0:
            terms.append(Term(name="sft", values=nll, unit="chosen_token", coefficient=self.sft_weight))
        return tuple(terms), pair_stats(batch, scores.logprobs, self.beta * score_R) | {"nll_loss": mean(nll)}
