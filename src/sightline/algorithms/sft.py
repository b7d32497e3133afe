"""Supervised fine-tuning: raise the likelihood of the given answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sightline.algorithms.pairs import check_preferences, check_unweighted, chosen_tokens
from sightline.errors import RecipeError
from sightline.types import Algorithm, Batch, Scores, Stat, Term, Unit, World


@dataclass(frozen=True, kw_only=True)
class SFT(Algorithm):
    """Mean negative log-likelihood per scored token; prompts and image placeholders are never scored.

    The term ``sft`` has the unit token, so that long answers count by their length, whatever the
    micro-batches. Per-token weights of the data multiply the values, not the count.

    >>> SFT()
    SFT(responses='all')
    """

    responses: Literal["all", "chosen"] = "all"
    """``all``: every response; refused where groups bring comparisons or undesirable labels, since a rejected
    answer would be trained too. ``chosen``: only responses that win a comparison and lose none; weights of edges
    are refused."""

    def __post_init__(self) -> None:  # an attribute of the class that depends on a field
        object.__setattr__(self, "compares", self.responses == "chosen")

    def loss(self, batch: Batch, scores: Scores, world: World) -> tuple[tuple[Term, ...], dict[str, Stat]]:
        """One term, and the mean NLL per token (its exponential is the perplexity)."""
        assert scores.logprobs is not None
        nll_N, weights_N, unit = -scores.logprobs, batch.weights, self._unit(batch)
        if unit == "chosen_token":
            chosen = chosen_tokens(batch)
            nll_N, weights_N = nll_N[chosen], None if weights_N is None else weights_N[chosen]
        values = nll_N if weights_N is None else nll_N * weights_N
        stats = {"nll": Stat(sum=nll_N.detach().sum(), count=nll_N.shape[0])}
        if scores.entropy is not None:
            stats["entropy"] = Stat(sum=scores.entropy.sum(), count=scores.entropy.shape[0])
        return (Term(name="sft", values=values, unit=unit),), stats

    def _unit(self, batch: Batch) -> Unit:
        if self.responses == "chosen":
            check_preferences(batch, "sft")
            check_unweighted(batch, "sft")
            return "chosen_token"
        if batch.pairs.shape[0]:
            raise RecipeError(
                f"sft was given groups with {batch.pairs.shape[0]} comparisons, and would train the rejected answers "
                "like the chosen ones. Set algorithm.responses: chosen, or use an algorithm that compares (dpo)."
            )
        labels = batch.structure.labels
        if labels is not None and (count := int((labels == 0).sum())):
            raise RecipeError(
                f"sft was given {count} answers that are labelled undesirable, and would train them like the others. "
                "Leave these rows out, or set algorithm.name: kto, which learns from labels."
            )
        return "token"
