"""Direct preference optimisation over whatever comparisons the groups bring."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from sightline.algorithms.divergences import DIVERGENCES, Divergence, divergence_score
from sightline.algorithms.links import LINKS, LinkOptions, check_smoothing
from sightline.algorithms.pairs import (
    check_preferences,
    check_range,
    chosen_nll,
    of_kind,
    pair_stats,
    response_masses,
    response_sums,
    side_sums,
)
from sightline.errors import RecipeError
from sightline.ops.reductions import segment_mean
from sightline.types import Algorithm, Batch, Scores, Stat, Term, World


@dataclass(frozen=True, kw_only=True)
class DPO(Algorithm):
    """DPO (Rafailov et al. 2023, arXiv 2305.18290): the log-ratio of policy to reference is the reward.

    For every edge (winner w, loser l) of the batch the scores ``Δ(w)`` and ``Δ(l)`` go through a link, where
    ``Δ(y) = Σ_t (log π(y_t) - log π_ref(y_t))`` over the scored tokens of y, each times its weight where the data
    brings weights. Edges of kind ``image`` (same answer, other picture) are scored in the same way, so that
    visual preferences need no other algorithm.

    Terms: ``dpo`` [P] per pair or group (link times the weight of the edge; ``dpo/LINK`` for each link of a sum),
    ``anchor`` and ``negative_anchor`` per anchored response, divided like pairs, and ``sft`` per chosen token.

    >>> DPO(beta=0.1, link="ipo").link
    'ipo'
    """

    beta: float = 0.1
    """Strength of the pull towards the reference, > 0: a margin of 1/beta nats is one unit of reward."""
    link: str | Mapping[str, float] = "sigmoid"
    """Name of a link in ``LINKS``, or a weighted sum of them: ``{sigmoid: 0.8, bco_pair: 0.2}``."""
    label_smoothing: float = 0.0
    """Share of labels assumed wrong, in [0, 0.5): conservative DPO with ``sigmoid``, unbiased with ``robust``;
    ``exo_pair`` needs a value above 0."""
    sft_weight: float = 0.0
    """Weight of the mean negative log-likelihood per chosen token, >= 0. A response that wins several edges
    counts once."""
    ld_alpha: float = 1.0
    """Weight, in [0, 1], of tokens past the length of the shorter of the two responses (LD-DPO). 1: plain DPO."""
    divergence: Divergence = "reverse_kl"
    """What keeps the policy near the reference; others than ``reverse_kl`` only with links that read the margin."""
    divergence_alpha: float | None = None
    """α of ``alpha_divergence``, which needs it; not 1."""
    discopop_tau: float = 0.05
    """Temperature of the link ``discopop``, > 0."""
    anchor_weight: float = 0.0
    """Weight of ``-log σ(β Δ(w) - δ)`` on responses that win and never lose, >= 0 (mDPO, AncPO)."""
    anchor_margin: float = 0.0
    """δ of the anchor, in units of reward."""
    negative_anchor_weight: float = 0.0
    """Weight of ``-log σ(-β Δ(l))`` on the losers of text edges that never win, >= 0."""
    weighting: Literal["none", "wpo"] = "none"
    """``wpo``: each comparison counts as much as the policy would write both of its answers (WPO): for pairs that
    another model wrote. Anchors and the SFT term are not weighted."""
    per: Literal["pair", "group"] = "pair"
    """``pair``: mean over comparisons. ``group``: sum over the comparisons of a group, mean over groups, which is how
    losses of several terms per row are published (mDPO, S-VCO, OViP)."""

    needs = frozenset({"ref_logprobs"})
    compares = True

    def __post_init__(self) -> None:
        check_range("beta", self.beta, above=0)
        for name in ("sft_weight", "anchor_weight", "negative_anchor_weight"):
            check_range(name, vars(self)[name], least=0)
        check_range("discopop_tau", self.discopop_tau, above=0)
        check_range("anchor_margin", self.anchor_margin)
        if self.divergence_alpha is not None:
            check_range("divergence_alpha", self.divergence_alpha)
        if self.per not in ("pair", "group"):
            raise RecipeError(f"algorithm.per is {self.per!r}; choose 'pair' or 'group'.")
        if self.weighting not in ("none", "wpo"):
            raise RecipeError(f"algorithm.weighting is {self.weighting!r}; choose 'none' or 'wpo'.")
        if self.weighting == "wpo":  # an attribute of the class that depends on a field
            object.__setattr__(self, "heads", frozenset({"logprobs", "collision"}))
        if not 0 <= self.ld_alpha <= 1:
            raise RecipeError(f"algorithm.ld_alpha is {self.ld_alpha}; it is a weight in [0, 1], 1 for plain DPO.")
        if self.anchor_margin and not self.anchor_weight:
            raise RecipeError("algorithm.anchor_margin is set and there is no anchor. Set algorithm.anchor_weight too.")
        self._check_links()
        self._check_divergence()

    def _check_links(self) -> None:
        if not self.links:
            raise RecipeError("algorithm.link is empty; name one link, or several with their weights.")
        for name, weight in self.links.items():
            if name not in LINKS:
                valid = ", ".join(map(repr, LINKS))
                raise RecipeError(f"algorithm.link is {name!r}; choose one of {valid}.{_other(name)}")
            check_range(f"link.{name}", weight, above=0)
        check_smoothing(self.label_smoothing, self.links)
        if "exo_pair" in self.links and self.label_smoothing == 0:
            raise RecipeError("The link exo_pair is infinite without label_smoothing. Set it, for example to 1e-3.")
        if "discopop" not in self.links and self.discopop_tau != DPO.discopop_tau:
            raise RecipeError(f"algorithm.discopop_tau is {self.discopop_tau}, but no link reads it but discopop.")

    def _check_divergence(self) -> None:
        if self.divergence not in DIVERGENCES:
            raise RecipeError(f"algorithm.divergence is {self.divergence!r}; choose one of {', '.join(DIVERGENCES)}.")
        if (self.divergence == "alpha_divergence") != (self.divergence_alpha is not None):
            raise RecipeError(
                f"algorithm.divergence is {self.divergence!r} and algorithm.divergence_alpha {self.divergence_alpha}; "
                "alpha_divergence needs a number there, and nothing else reads it."
            )
        if self.divergence_alpha == 1:
            raise RecipeError("algorithm.divergence_alpha is 1, which is the reverse KL. Set divergence: reverse_kl.")
        both = [name for name in self.links if not LINKS[name].margin]
        if self.divergence != "reverse_kl" and both:
            raise RecipeError(
                f"The link {both[0]} reads log-ratios themselves, and has no meaning under the divergence "
                f"{self.divergence}. Set divergence: reverse_kl, or use a link that reads the margin."
            )

    @property
    def links(self) -> Mapping[str, float]:
        """Each link with its weight."""
        return {self.link: 1.0} if isinstance(self.link, str) else self.link

    def loss(self, batch: Batch, scores: Scores, world: World) -> tuple[tuple[Term, ...], dict[str, Stat]]:
        """Unreduced terms, and statistics under TRL's names.

        Raises:
            RecipeError: edges that say something else than a preference, or a negative anchor that finds no answer.
        """
        assert scores.logprobs is not None and batch.ref_logprobs is not None
        check_preferences(batch, "dpo")
        logratio_N = scores.logprobs - batch.ref_logprobs
        reward_R = self.beta * response_sums(logratio_N, batch)
        weight_P = batch.pair_weight
        if self.weighting == "wpo":
            weight_P = weight_P * _likelihood(batch, scores)[batch.pairs].prod(1)
        ratio_P2 = self._ratios(batch, logratio_N)
        terms = [*self._link_terms(batch, weight_P, ratio_P2), *self._anchor_terms(batch, reward_R)]
        if self.sft_weight > 0:
            values = chosen_nll(scores.logprobs, batch)
            terms.append(Term(name="sft", values=values, unit="chosen_token", coefficient=self.sft_weight))
        return tuple(terms), pair_stats(batch, scores.logprobs, self.beta * ratio_P2)

    def _ratios(self, batch: Batch, logratio_N: Tensor) -> Tensor:
        """[P,2] log-ratios of winner and loser of each pair; under LD-DPO they depend on the pair."""
        if self.ld_alpha < 1:
            return torch.stack(side_sums(logratio_N, batch, self.ld_alpha), 1)
        return response_sums(logratio_N, batch)[batch.pairs]

    def _link_terms(self, batch: Batch, weight_P: Tensor, ratio_P2: Tensor) -> list[Term]:
        winner_P, loser_P = divergence_score(ratio_P2, self.divergence, self.divergence_alpha).unbind(1)
        winner_mass_P, loser_mass_P = response_masses(batch)[batch.pairs].unbind(1)
        options = LinkOptions(self.beta, self.label_smoothing, self.discopop_tau)
        terms = []
        for name, weight in self.links.items():
            link, sides = LINKS[name], (winner_P, loser_P)
            if link.per_token:
                sides = winner_P / winner_mass_P, loser_P / loser_mass_P
            values = weight_P * link.loss(*sides, options)
            label = "dpo" if isinstance(self.link, str) else f"dpo/{name}"
            terms.append(Term(name=label, values=values, unit=self.per, coefficient=weight))
        return terms

    def _anchor_terms(self, batch: Batch, reward_R: Tensor) -> list[Term]:
        """Anchors per response that has one, in the unit of the links: they keep their weight against these when a
        group has several comparisons."""
        laid_out = batch.structure
        chosen, (winner_P, loser_P) = laid_out.chosen(), laid_out.pairs.unbind(1)
        terms = []
        if self.anchor_weight > 0:
            values = -logsigmoid(reward_R[batch.sent(chosen.nonzero()[:, 0])] - self.anchor_margin)
            terms.append(Term(name="anchor", values=values, unit=self.per, coefficient=self.anchor_weight))
        if self.negative_anchor_weight > 0:
            self._check_rejected(batch)
            rejected = torch.zeros_like(chosen).index_fill(0, loser_P[of_kind(laid_out, "text")], True)
            rejected = rejected.index_fill(0, winner_P, False)
            values = -logsigmoid(-reward_R[batch.sent(rejected.nonzero()[:, 0])])
            terms.append(
                Term(name="negative_anchor", values=values, unit=self.per, coefficient=self.negative_anchor_weight)
            )
        return terms

    def _check_rejected(self, batch: Batch) -> None:
        """Whether every group that compares has a rejected answer for the negative anchor."""
        laid_out = batch.structure
        owner_P, text_P = laid_out.group[laid_out.pairs[:, 0]], of_kind(laid_out, "text")
        if without := set(owner_P.tolist()) - set(owner_P[text_P].tolist()):
            raise RecipeError(
                f"algorithm.negative_anchor_weight is {self.negative_anchor_weight}, but {len(without)} groups compare "
                "pictures alone and have no rejected answer that it could hold down. Set it to 0, or choose a "
                "visual.relation that compares answers (mdpo, ovip)."
            )


def _likelihood(batch: Batch, scores: Scores) -> Tensor:
    """[R] geometric mean per token of the likelihood of each response, relative to that of the policy's own samples.

    Zhou et al. 2024 (WPO, arXiv 2406.11827), equation 2 with sampled alignment: log π(y_t) - log Σ_v π(v)².
    """
    assert scores.logprobs is not None and scores.collision is not None
    aligned_N = scores.logprobs.detach() - scores.collision
    return segment_mean(aligned_N, batch.response, batch.num_responses).exp()


def _other(name: str) -> str:
    """Where to find what TRL calls a loss type and is no link here."""
    if name in ("aot", "aot_unpaired"):
        return " It compares whole batches: set algorithm.name: aot."
    return " Set algorithm.sft_weight instead." if name == "sft" else ""
