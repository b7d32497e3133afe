"""Kahneman-Tversky optimisation: single answers, each good or bad, without a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sightline.algorithms.pairs import check_range, mean, response_sums
from sightline.errors import RecipeError
from sightline.types import Algorithm, Batch, Scores, Stat, Term, World


@dataclass(frozen=True, kw_only=True)
class KTO(Algorithm):
    """KTO (Ethayarajh et al. 2024, arXiv 2402.01306, equations 7 and 8).

    A desirable response costs ``λ_D (1 - σ(β (Δ - z)))``, an undesirable one ``λ_U (1 - σ(β (z - Δ)))``, with the
    log-ratio ``Δ = log π(y) - log π_ref(y)`` summed over scored tokens, and with the baseline
    ``z = max(0, mean Δ of mismatched answers)``, an estimate of the KL divergence between policy and reference.

    Each group brings, beside its labelled responses, an answer to another question, as the loser of an edge of kind
    ``mismatched`` from each of them (``relation: mismatched`` makes them). Those answers are not trained. z is one
    number for the whole step, over all micro-batches and ranks, and has no gradient.

    Term: ``kto`` [P], one per labelled response (times the weight of its edge).

    >>> KTO(undesirable_weight=1.5)
    KTO(beta=0.1, desirable_weight=1.0, undesirable_weight=1.5)
    """

    beta: float = 0.1
    """Strength of the pull towards the reference, > 0."""
    desirable_weight: float = 1.0
    """λ_D, > 0. The authors keep λ_D n_D / (λ_U n_U) between 1 and 3/2, for n_D and n_U examples of each sort."""
    undesirable_weight: float = 1.0
    """λ_U, > 0."""

    needs = frozenset({"ref_logprobs", "old_logprobs", "labels"})
    compares = True

    def __post_init__(self) -> None:
        for name in ("beta", "desirable_weight", "undesirable_weight"):
            check_range(name, vars(self)[name], above=0)

    def prepare_step(self, batches: Sequence[Batch], counted: Sequence[bool], world: World) -> Sequence[Batch]:
        """Fills ``baseline`` with z of the whole step."""
        total = batches[0].pair_weight.new_zeros(2, dtype=torch.float64)
        for batch, counts in zip(batches, counted, strict=True):
            _check(batch)
            if counts:
                mismatched = batch.sent(batch.structure.pairs[:, 1].unique())
                total += torch.stack([_moved(batch)[mismatched].sum(), total.new_tensor(float(len(mismatched)))])
        moved, count = world.sum(total)
        kl = (moved / count.clamp(min=1)).clamp(min=0).to(batches[0].pair_weight.dtype)
        return [batch.with_columns(baseline=kl.expand(batch.pairs.shape)) for batch in batches]

    def loss(self, batch: Batch, scores: Scores, world: World) -> tuple[tuple[Term, ...], dict[str, Stat]]:
        """The term, and statistics under TRL's names."""
        assert scores.logprobs is not None and batch.ref_logprobs is not None
        assert batch.labels is not None and batch.baseline is not None
        reward_P = self.beta * response_sums(scores.logprobs - batch.ref_logprobs, batch)[batch.pairs[:, 0]]
        kl_P, good_P = batch.baseline[:, 0], batch.labels[batch.pairs[:, 0]] > 0
        gain_P = (reward_P - self.beta * kl_P).where(good_P, self.beta * kl_P - reward_P)
        weight_P = torch.where(good_P, self.desirable_weight, self.undesirable_weight)
        loss_P = batch.pair_weight * weight_P * (-gain_P).sigmoid()
        logp_P = response_sums(scores.logprobs, batch)[batch.pairs[:, 0]]
        chosen, rejected = _labelled(batch)
        stats = {
            "rewards/chosen": mean(reward_P[chosen]),
            "rewards/rejected": mean(reward_P[rejected]),
            "logps/chosen": mean(logp_P[chosen]),
            "logps/rejected": mean(logp_P[rejected]),
            # a label is met when the response is on its side of the baseline
            "rewards/accuracies": mean((gain_P > 0).to(gain_P.dtype)),
            "kl": mean(kl_P),
        }
        return (Term(name="kto", values=loss_P, unit="pair"),), stats


def _moved(batch: Batch) -> Tensor:
    """[R] log-ratio of the policy before the step to the reference."""
    assert batch.old_logprobs is not None and batch.ref_logprobs is not None
    return response_sums((batch.old_logprobs - batch.ref_logprobs).to(torch.float64), batch)


def _labelled(batch: Batch) -> tuple[Tensor, Tensor]:
    """Places of the pairs whose answer is desirable, and of the others."""
    laid_out = batch.structure
    assert laid_out.labels is not None
    good_P = laid_out.labels[laid_out.pairs[:, 0]] > 0
    return batch.sent(good_P.nonzero()[:, 0]), batch.sent((~good_P).nonzero()[:, 0])


def _check(batch: Batch) -> None:
    """
    Raises:
        RecipeError: a response that is neither compared with a mismatched one nor mismatched itself.
    """
    other = sorted({kind for kind in batch.pair_kind if kind != "mismatched"})
    pairs = batch.structure.pairs
    in_edge = torch.zeros(batch.num_responses, dtype=torch.bool, device=pairs.device)
    in_edge[pairs.flatten()] = True
    if other or not bool(in_edge.all()):
        found = f"comparisons of kind {', '.join(other)}" if other else "answers without a mismatched one beside them"
        raise RecipeError(
            f"kto was given {found}. It needs an answer to another question in every group, to measure how far the "
            "policy has moved: set relation: mismatched for each source in data.train and data.eval. It takes rows "
            "with a label, and rows with chosen and rejected."
        )
