"""What every algorithm on comparisons reads and reports: sums over the two sides of each pair, and their statistics."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor

from sightline.errors import DataError, RecipeError
from sightline.ops.reductions import segment_count, segment_position, segment_sum
from sightline.types import Batch, EdgeKind, Stat


def check_preferences(batch: Batch, algorithm: str) -> None:
    """Refuses edges that say something else than that one response is better.

    Raises:
        RecipeError: edges of kind ``mismatched``.
    """
    if "mismatched" in batch.pair_kind:
        raise RecipeError(
            f"{algorithm} was given mismatched answers, which only kto can read: they are answers to other questions, "
            "not worse answers. Remove relation: mismatched and edges of that kind, or set algorithm.name: kto."
        )


def check_unweighted(batch: Batch, algorithm: str) -> None:
    """
    Raises:
        RecipeError: weights of edges, which an algorithm without a loss per comparison cannot honour.
    """
    if bool((batch.structure.pair_weight != 1).any()):
        raise RecipeError(
            f"{algorithm} was given comparisons with weights other than 1, and has no loss per comparison that they "
            "could multiply. Remove the weights of the edges, or use dpo."
        )


def weighted(values: Tensor, batch: Batch) -> Tensor:
    """[N] values times the weights of their tokens, where the data brings weights."""
    return values if batch.weights is None else values * batch.weights


def response_sums(values: Tensor, batch: Batch) -> Tensor:
    """[R] sums of [N] values over the tokens of each response, by their weights."""
    return segment_sum(weighted(values, batch), batch.response, batch.num_responses)


def response_masses(batch: Batch) -> Tensor:
    """[R] sums of token weights, at least tiny: what a sum is divided by for a mean per token."""
    ones = torch.ones(batch.target.shape, device=batch.target.device)
    mass = response_sums(ones, batch)
    return mass.where(mass > 0, mass.new_ones(()))


def response_means(values: Tensor, batch: Batch) -> Tensor:
    """[R] means of [N] values over the tokens of each response, by their weights; 0 where nothing weighs."""
    return response_sums(values, batch) / response_masses(batch)


def side_sums(values: Tensor, batch: Batch, ld_alpha: float) -> tuple[Tensor, Tensor]:
    """Sums of [N] values over the tokens of winner and loser of each pair, length-desensitised.

    Tokens past the length of the shorter of the two count ``ld_alpha`` times (Liu et al. 2024, LD-DPO, arXiv
    2409.06411, equation 10). A response may be the longer of one pair and the shorter of another.

    Returns:
        [P] of winners and [P] of losers.
    """
    values = weighted(values, batch)
    lengths = segment_count(batch.response, batch.num_responses)
    shared_P = lengths[batch.pairs].amin(1)
    position, laid_out = segment_position(batch.response, batch.num_responses), batch.structure
    sides = []
    for side in laid_out.pairs.unbind(1):
        found = (side[:, None] == laid_out.response[None, :]).nonzero()
        pair, token = batch.sent(found).unbind(1)
        kept = torch.where(position[token] < shared_P[pair], 1.0, ld_alpha)
        sides.append(segment_sum(values[token] * kept, pair, side.shape[0]))
    return sides[0], sides[1]


def chosen_nll(logprobs: Tensor, batch: Batch) -> Tensor:
    """Negative log-likelihoods of the tokens of :meth:`Batch.chosen`, each once, by their weights: [chosen tokens]."""
    return weighted(-logprobs, batch)[chosen_tokens(batch)]


def chosen_tokens(batch: Batch) -> Tensor:
    """Where the tokens of :meth:`Batch.chosen` stand: [chosen tokens] long."""
    laid_out = batch.structure
    return batch.sent(laid_out.chosen()[laid_out.response].nonzero()[:, 0])


def mean(values: Tensor) -> Stat:
    """A logged mean of values, without gradient."""
    return Stat(sum=values.detach().sum(), count=values.shape[0])


def pair_stats(batch: Batch, logprobs: Tensor, reward: Tensor) -> dict[str, Stat]:
    """Means per pair under TRL's names.

    Args:
        batch: names the pairs.
        logprobs: [N] under the policy.
        reward: [R] what the algorithm maximises the margin of, or [P,2] where it depends on the pair.

    Returns:
        Per kind of edge there is always an entry, so that every rank logs the same names.
    """
    logprobs, reward = logprobs.detach(), reward.detach()
    logp_R = segment_sum(logprobs, batch.response, batch.num_responses)
    length_R = segment_count(batch.response, batch.num_responses).to(logp_R.dtype)
    reward_P2 = reward if reward.ndim == 2 else reward[batch.pairs]
    margin_P = reward_P2[:, 0] - reward_P2[:, 1]
    right_P = (margin_P > 0).to(margin_P.dtype)
    winner_P, loser_P = batch.pairs.unbind(1)
    stats = {
        "rewards/chosen": mean(reward_P2[:, 0]),
        "rewards/rejected": mean(reward_P2[:, 1]),
        "rewards/accuracies": mean(right_P),
        "rewards/margins": mean(margin_P),
        "logps/chosen": mean(logp_R[winner_P]),
        "logps/rejected": mean(logp_R[loser_P]),
        "length/chosen": mean(length_R[winner_P]),
        "length/rejected": mean(length_R[loser_P]),
    }
    for kind in get_args(EdgeKind):
        of_kind_P = of_kind(batch, kind)
        stats[f"rewards/accuracies/{kind}"] = mean(right_P[of_kind_P])
        stats[f"rewards/margins/{kind}"] = mean(margin_P[of_kind_P])
    return stats


def of_kind(batch: Batch, kind: EdgeKind) -> Tensor:
    """Places of the edges of one kind: [<= P] long."""
    return batch.sent(torch.tensor([n for n, one in enumerate(batch.pair_kind) if one == kind], dtype=torch.long))


def ranked_below(pairs: Tensor, num_responses: int) -> Tensor:
    """[R,R] bool: whether response j ranks below response i, by an edge or a path of edges.

    Args:
        pairs: [P,2] (winner, loser).
        num_responses: R.

    Raises:
        DataError: a response ranks below itself.
    """
    below = torch.zeros(num_responses, num_responses, device=pairs.device)
    below[pairs[:, 0], pairs[:, 1]] = 1.0
    known = -1
    while known != (known := int(below.sum())):
        below = ((below + below @ below) > 0).to(below.dtype)
    if below.diagonal().any():
        raise DataError(
            f"{int(below.diagonal().sum())} responses rank below themselves: comparisons run in a circle",
            remedy="Remove contradicting edges (sightline pairs --relation ranked makes none), "
            "or use an algorithm that takes comparisons one by one (dpo; reward_model with bradley_terry)",
        )
    return below > 0


_MOST = 1e300


def check_range(name: str, value: float, *, above: float | None = None, least: float | None = None) -> None:
    """
    Raises:
        RecipeError: a number that is not finite, not above ``above``, or below ``least``.
    """
    if not abs(value) <= _MOST:
        raise RecipeError(f"algorithm.{name} is {f'{value}':.40}; it must be a finite number.")
    if above is not None and not value > above:
        raise RecipeError(f"algorithm.{name} is {value}; it must be above {above:g}.")
    if least is not None and not value >= least:
        raise RecipeError(f"algorithm.{name} is {value}; it must be {least:g} or more.")
