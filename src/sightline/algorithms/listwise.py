"""DPO over ranked lists of any length: the Plackett-Luce likelihood of the whole order."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from sightline.algorithms.links import check_smoothing
from sightline.algorithms.pairs import (
    check_preferences,
    check_range,
    check_unweighted,
    chosen_nll,
    pair_stats,
    ranked_below,
    response_sums,
)
from sightline.ops.odds import log1mexp
from sightline.ops.reductions import segment_logsumexp, segment_sum
from sightline.types import Algorithm, Batch, Scores, Stat, Term, World


@dataclass(frozen=True, kw_only=True)
class ListwiseDPO(Algorithm):
    """DPO under the Plackett-Luce model (Rafailov et al. 2023, arXiv 2305.18290, appendix A.3, equation 20).

    A response competes with those it beats: ``-log p = Σ_i [log(c + e^{s_i} + Σ_{j beaten by i} e^{s_j}) - s_i]``
    over all responses of a group that stand in an edge, with ``s = β (log π - log π_ref)``. A response beats those that
    an edge, or a path of edges, leads to: a chain and the edges between all ranks (``relation: ranked``) give the
    likelihood of the same order. Ties have no edge and do not compete. One pair is DPO.

    Term: ``dpo_listwise`` per group, ``-(1 - ε) log p - ε log(1 - p)``.

    >>> ListwiseDPO(beta=0.2).stabiliser
    0.0
    """

    beta: float = 0.1
    """Strength of the pull towards the reference, > 0."""
    label_smoothing: float = 0.0
    """ε, the share of orders assumed wrong, in [0, 0.5)."""
    stabiliser: float = 0.0
    """c, added to every denominator, >= 0. 0.01 reproduces the multi-candidate DPO of Vision-LLM-Alignment, which
    needs it against division by zero; here logarithms are summed and nothing needs it."""
    sft_weight: float = 0.0
    """Weight of the negative log-likelihood per token of responses that win an edge and lose none, >= 0."""

    needs = frozenset({"ref_logprobs"})
    compares = True

    def __post_init__(self) -> None:
        check_range("beta", self.beta, above=0)
        check_range("stabiliser", self.stabiliser, least=0)
        check_range("sft_weight", self.sft_weight, least=0)
        check_smoothing(self.label_smoothing)

    def loss(self, batch: Batch, scores: Scores, world: World) -> tuple[tuple[Term, ...], dict[str, Stat]]:
        """Unreduced terms, and statistics per pair under TRL's names.

        Raises:
            DataError: comparisons that contradict each other.
        """
        assert scores.logprobs is not None and batch.ref_logprobs is not None
        check_preferences(batch, "dpo_listwise")
        check_unweighted(batch, "dpo_listwise")
        score_R = self.beta * response_sums(scores.logprobs - batch.ref_logprobs, batch)
        laid_out = batch.structure
        ranked = batch.sent(laid_out.pairs.flatten().unique())
        beats, beaten = batch.sent(ranked_below(laid_out.pairs, batch.num_responses).nonzero()).unbind(1)
        entrant, rival = torch.cat([ranked, beats]), torch.cat([ranked, beaten])
        entries = score_R[rival]
        if self.stabiliser > 0:
            entrant = torch.cat([entrant, ranked])
            entries = torch.cat([entries, entries.new_full(ranked.shape, math.log(self.stabiliser))])
        total_R = segment_logsumexp(entries, entrant, batch.num_responses)
        nll_G = segment_sum(total_R[ranked] - score_R[ranked], batch.group[ranked], batch.num_groups)
        loss_G = nll_G
        if self.label_smoothing > 0:
            with_order = batch.sent(laid_out.group[laid_out.pairs[:, 0]].unique())
            nll_G = nll_G[with_order]
            loss_G = (1 - self.label_smoothing) * nll_G - self.label_smoothing * log1mexp(-nll_G)
        terms = [Term(name="dpo_listwise", values=loss_G, unit="group")]
        if self.sft_weight > 0:
            values = chosen_nll(scores.logprobs, batch)
            terms.append(Term(name="sft", values=values, unit="chosen_token", coefficient=self.sft_weight))
        return tuple(terms), pair_stats(batch, scores.logprobs, score_R)
