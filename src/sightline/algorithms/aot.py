"""Alignment by optimal transport: the distribution of winners should lie above that of losers, rank by rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sightline.algorithms.links import LinkOptions, check_smoothing, sigmoid
from sightline.algorithms.pairs import check_preferences, check_range, check_unweighted, pair_stats, response_sums
from sightline.types import Algorithm, Batch, Scores, Stat, Term, World


@dataclass(frozen=True, kw_only=True)
class AOT(Algorithm):
    """AOT (Melnyk et al. 2024, arXiv 2406.05882, equations 4 and 5): first-order stochastic dominance.

    ``paired``: the policy's margins ``log π(w) - log π(l)`` of all pairs of the step are sorted, those of the
    reference too, and the k-th is compared with the k-th. Otherwise the log-ratios of all winners and of all losers
    are sorted and compared. Ranks are those among all pairs of the step, over micro-batches and ranks: a value is
    measured against its counterpart of equal rank, which has no gradient of its own there.

    Term: ``aot`` [P] per pair (unpaired: the loser's half adds its gradient and no value).

    >>> AOT(paired=False)
    AOT(beta=0.1, paired=False, label_smoothing=0.0)
    """

    beta: float = 0.1
    """Scale of the margin, > 0."""
    paired: bool = True
    """True: TRL's ``aot``; False: its ``aot_unpaired``, where which loser belongs to which winner does not matter."""
    label_smoothing: float = 0.0
    """Share of labels assumed wrong, in [0, 0.5)."""

    needs = frozenset({"ref_logprobs", "old_logprobs"})
    compares = True

    def __post_init__(self) -> None:
        check_range("beta", self.beta, above=0)
        check_smoothing(self.label_smoothing)

    def prepare_step(self, batches: Sequence[Batch], counted: Sequence[bool], world: World) -> Sequence[Batch]:
        """Fills ``baseline``: paired, the reference's margin of equal rank; else the counterpart of each side."""
        for batch in batches:
            check_preferences(batch, "aot")
            check_unweighted(batch, "aot")
        kept = [(batch, *_before(batch, self.paired)) for batch, counts in zip(batches, counted, strict=True) if counts]
        empty = batches[0].pair_weight.new_zeros(0)
        ours_A, first = _gather(torch.cat([ours for _, ours, _ in kept] or [empty]), world)
        theirs_A, _ = _gather(torch.cat([theirs for _, _, theirs in kept] or [empty]), world)
        to_ours_A = theirs_A.sort().values[_ranks(ours_A)]
        to_theirs_A = ours_A.sort().values[_ranks(theirs_A)]
        filled = []
        for batch, counts in zip(batches, counted, strict=True):
            own = slice(first, first + (batch.pairs.shape[0] if counts else 0))
            matched = torch.stack([to_ours_A[own], to_theirs_A[own]], 1)
            filled.append(batch.with_columns(baseline=matched if counts else matched.new_zeros(batch.pairs.shape)))
            first = own.stop
        return filled

    def loss(self, batch: Batch, scores: Scores, world: World) -> tuple[tuple[Term, ...], dict[str, Stat]]:
        """Unreduced terms, and statistics per pair under TRL's names."""
        assert scores.logprobs is not None and batch.ref_logprobs is not None and batch.baseline is not None
        options = LinkOptions(self.beta, self.label_smoothing)
        to_winner_P, to_loser_P = batch.baseline.unbind(1)
        ratio_R = response_sums(scores.logprobs - batch.ref_logprobs, batch)
        if self.paired:
            winner_P, loser_P = response_sums(scores.logprobs, batch)[batch.pairs].unbind(1)
            loss_P = sigmoid(winner_P - loser_P, to_winner_P, options)
        else:
            winner_P, loser_P = ratio_R[batch.pairs].unbind(1)
            loser_half_P = sigmoid(to_loser_P, loser_P, options)
            loss_P = sigmoid(winner_P, to_winner_P, options) + loser_half_P - loser_half_P.detach()
        return (Term(name="aot", values=loss_P, unit="pair"),), pair_stats(batch, scores.logprobs, self.beta * ratio_R)


def _before(batch: Batch, paired: bool) -> tuple[Tensor, Tensor]:
    """[P] and [P] that are sorted and compared, under the policy before the step."""
    assert batch.old_logprobs is not None and batch.ref_logprobs is not None
    old_R, reference_R = response_sums(batch.old_logprobs, batch), response_sums(batch.ref_logprobs, batch)
    if not paired:
        winner_P, loser_P = (old_R - reference_R)[batch.pairs].unbind(1)
        return winner_P, loser_P
    old_P2, reference_P2 = old_R[batch.pairs], reference_R[batch.pairs]
    return old_P2[:, 0] - old_P2[:, 1], reference_P2[:, 0] - reference_P2[:, 1]


def _ranks(values: Tensor) -> Tensor:
    """Rank of each value, from 0; ties in order of appearance."""
    return values.argsort(stable=True).argsort()


def _gather(values: Tensor, world: World) -> tuple[Tensor, int]:
    """All ranks' values in order of ranks, and where this rank's begin. A sum of vectors that are zero elsewhere."""
    if world.size == 1:
        return values, 0
    lengths = torch.zeros(world.size, dtype=torch.long, device=values.device)
    lengths[world.rank] = values.shape[0]
    lengths = world.sum(lengths)
    first = int(lengths[: world.rank].sum())
    everything = values.new_zeros(int(lengths.sum()))
    everything[first : first + values.shape[0]] = values
    return world.sum(everything), first
