"""Reward models: a score for every response, learnt from comparisons, rankings or given scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from sightline.algorithms.pairs import check_preferences, check_range, check_unweighted, ranked_below
from sightline.errors import RecipeError
from sightline.types import Algorithm, Batch, Scores, Stat, Term, World

Objective = Literal["bradley_terry", "plackett_luce", "regression"]


@dataclass(frozen=True, kw_only=True)
class RewardModel(Algorithm):
    """A linear head on the last hidden state of each response (its end of turn) gives its score r.

    Terms: ``bradley_terry`` [P] per pair, ``plackett_luce`` [G] per group, or ``regression`` [R] per response; and
    ``centering`` [P] per pair. An edge's weight multiplies its loss.

    >>> RewardModel(objective="plackett_luce").heads
    frozenset({'reward'})
    """

    objective: Objective = "bradley_terry"
    """``bradley_terry``: ``-log σ(r_w - r_l)`` of every edge. ``plackett_luce``: every response that wins must be
    chosen among itself and all that rank below it, by the edges of its group and what follows from them; a chain of
    N gives the list loss of Plackett and Luce, one edge gives Bradley-Terry. ``regression``: ``(r - s)²`` with the
    reward s that the response has in the data."""
    margin: float = 0.0
    """Factor on the difference of the given rewards, >= 0, in units of score per unit of reward:
    ``-log σ(r_w - r_l - margin (s_w - s_l))`` (Touvron et al. 2023, Llama 2, arXiv 2307.09288, equation 2; their m(r)
    is the difference of rewards here). ``bradley_terry`` only."""
    center_rewards_coefficient: float = 0.0
    """Weight c >= 0 of ``(r_w + r_l)²`` of every edge, which holds the mean score at zero (Eisenstein et al. 2023,
    arXiv 2312.09244); TRL's option of the same name. Not with ``regression``, which fixes the level itself."""

    heads = frozenset({"reward"})

    def __post_init__(self) -> None:
        if self.objective not in get_args(Objective):
            listed = ", ".join(get_args(Objective))
            raise RecipeError(f"algorithm.objective is {self.objective!r}; choose one of {listed}.")
        for name in ("margin", "center_rewards_coefficient"):
            check_range(name, vars(self)[name], least=0)
        if self.margin and self.objective != "bradley_terry":
            raise RecipeError(
                f"algorithm.margin is {self.margin}, but {self.objective} has no margin. "
                "Set it to 0, or objective to bradley_terry."
            )
        if self.center_rewards_coefficient and self.objective == "regression":
            raise RecipeError(
                f"algorithm.center_rewards_coefficient is {self.center_rewards_coefficient}, but regression is "
                "centred by the given rewards. Set it to 0."
            )
        if self.margin or self.objective == "regression":
            object.__setattr__(self, "needs", frozenset({"rewards"}))
        object.__setattr__(self, "compares", self.objective != "regression")

    def loss(self, batch: Batch, scores: Scores, world: World) -> tuple[tuple[Term, ...], dict[str, Stat]]:
        """Unreduced terms, and statistics under the names of TRL's RewardTrainer.

        Raises:
            RecipeError: edges of kind ``mismatched``, or with weights that ``regression`` does not read.
            DataError: comparisons that contradict each other, with ``plackett_luce``.
        """
        assert scores.reward is not None
        check_preferences(batch, "reward_model")
        score_R = scores.reward
        lists = self.objective == "plackett_luce"
        below_RR = ranked_below(batch.structure.pairs, batch.num_responses) if lists else None
        if self.objective == "regression":
            check_unweighted(batch, "reward_model with objective: regression")
            assert batch.rewards is not None
            terms = [Term(name="regression", values=(score_R - batch.rewards) ** 2, unit="response")]
        elif below_RR is None:
            terms = [Term(name="bradley_terry", values=self._bradley_terry(batch, score_R), unit="pair")]
        else:
            terms = [
                Term(name="plackett_luce", values=_plackett_luce(batch, score_R, batch.sent(below_RR)), unit="group")
            ]
        if self.center_rewards_coefficient > 0:
            both_P = score_R[batch.pairs].sum(1)
            centering_P = batch.pair_weight * both_P**2
            coefficient = self.center_rewards_coefficient
            terms.append(Term(name="centering", values=centering_P, unit="pair", coefficient=coefficient))
        stats = _stats(score_R.detach(), batch.pairs if below_RR is None else batch.sent(below_RR.nonzero()))
        if self.objective == "regression":
            stats["squared_error"] = _mean(terms[0].values.detach())
        return tuple(terms), stats

    def _bradley_terry(self, batch: Batch, score_R: Tensor) -> Tensor:
        winner_P, loser_P = batch.pairs.unbind(1)
        margin_P = score_R[winner_P] - score_R[loser_P]
        if self.margin:
            assert batch.rewards is not None
            margin_P = margin_P - self.margin * (batch.rewards[winner_P] - batch.rewards[loser_P])
        return -batch.pair_weight * logsigmoid(margin_P)


def _plackett_luce(batch: Batch, score_R: Tensor, below_RR: Tensor) -> Tensor:
    """[G]: ``Σ_i w_i (logsumexp of the scores of i and all below it - r_i)`` over the responses i that win.

    Plackett 1975, Luce 1959. The weight w_i of a stage is the mean weight of the edges that i wins.
    """
    itself_RR = torch.eye(batch.num_responses, dtype=torch.bool, device=score_R.device)
    field_RR = score_R.expand(batch.num_responses, -1).masked_fill(~(below_RR | itself_RR), -torch.inf)
    stage_R = torch.logsumexp(field_RR, dim=1) - score_R
    winner_P = batch.pairs[:, 0]
    won_R = score_R.new_zeros(batch.num_responses).index_add(0, winner_P, torch.ones_like(batch.pair_weight))
    weight_R = score_R.new_zeros(batch.num_responses).index_add(0, winner_P, batch.pair_weight) / won_R.clamp(min=1)
    return score_R.new_zeros(batch.num_groups).index_add(0, batch.group, weight_R * stage_R)


def _stats(score_R: Tensor, ordered: Tensor) -> dict[str, Stat]:
    """Means over comparisons [P,2], and over responses."""
    chosen_P, rejected_P = score_R[ordered].unbind(1)
    return {
        "accuracy": _mean((chosen_P > rejected_P).to(score_R.dtype)),
        "margin": _mean(chosen_P - rejected_P),
        "mean_reward": _mean(score_R),
        "rewards/chosen": _mean(chosen_P),
        "rewards/rejected": _mean(rejected_P),
    }


def _mean(values: Tensor) -> Stat:
    return Stat(sum=values.sum(), count=values.shape[0])
