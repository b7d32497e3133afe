"""The constants of Calibrated Self-Rewarding (CSR, arXiv 2405.14622). Imports no torch.

Defaults are the published values. Where paper and released code differ, the fields say which has what; the guide
``docs/guides/csr.md`` says how to write either.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from sightline.recipes.rewards import RewardSpec

_STRICT = ConfigDict(extra="forbid", str_strip_whitespace=False, allow_inf_nan=False)
_MOST = 2**31 - 1

Count = Annotated[int, Field(ge=1, le=_MOST)]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class SearchSpec:
    """How a tree of answers grows, a sentence a level."""

    candidates: int = Field(default=5, ge=1, le=1000)
    """Sentences that continue a node: groups of diverse decoding, one beam each."""
    diversity: float = Field(default=3.0, ge=0, le=1e6)
    """What a token loses, in nats, for each earlier group of its node that took it at the same step (Hamming diversity,
    arXiv 1610.02424). It chooses tokens and enters no score."""
    max_new_tokens: Count = 70
    """Most tokens of a sentence (release 70, paper 74). What has not ended by then is a fragment, and the next sentence
    goes on from there."""
    width: int = Field(default=5, ge=4, le=_MOST)
    """K: of a level's K or more sentences that could go on, the best ``K // 2 - 1`` and the worst ``K // 2`` do."""
    prune_by: Literal["lm", "calibrated"] = "lm"
    """By which score: the model's own (release), or the calibrated one (paper), which asks for relevance in the search.
    """
    max_characters: Count = 1024
    """An answer of so many characters goes on no more. The release counts the prompt's as well."""
    max_sentences: Count | None = None
    """Most levels; what has not ended by then is cut. None: no bound but ``max_characters`` and the model's context."""
    junk: Literal["drop", "keep"] = "drop"
    """Sentences of Korean, Japanese or Russian letters, emoji, runs of one word or character, and of less than 4
    characters: their branch ends there and counts for nothing. ``keep``: for prompts in such a language."""
    batch_size: Count = 4
    """Prompts that are searched together. Changes no tree."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class CalibrationSpec:
    """What a sentence and an answer are worth."""

    mode: Literal["rank", "raw", "zscore"] = "rank"
    """What of model and picture is mixed: ``rank``: the places among siblings, best 1/n, worst 1 (release);
    ``raw``: the numbers themselves (paper); ``zscore``: the numbers less their mean over the tree, in standard
    deviations."""
    weight: float = Field(default=0.9, ge=0, le=1)
    """Lambda: share of the relevance to the picture. 0: the model alone (plain self-rewarding), 1: relevance alone."""
    lm_term: Literal["sum_logprob", "mean_logprob", "prob"] = "mean_logprob"
    """The model's own score of a sentence: the sum of its tokens' log-probabilities, their mean (release), or the
    probability (paper; next to relevances of 20 it weighs nothing)."""
    clip_clamp_zero: bool = False
    """Of ``raw`` and ``zscore``: relevances below 0 count as 0 (paper)."""
    path_reduce: Literal["sum", "mean_sentences", "mean_nodes"] = "mean_sentences"
    """From sentences to the answer. ``sum`` (paper); ``mean_nodes``: the sum divided by one more than there are
    sentences (release), which in mode ``rank`` prefers short answers."""
    only_child: Literal["neutral", "worst"] = "neutral"
    """Place of a sentence without siblings, mode ``rank``: 0.5, or 1 (release)."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class CsrPairSpec:
    """Which answers of a tree become chosen and rejected."""

    min_gap: float = Field(default=0.0, ge=0, le=1e9)
    """Least difference of their scores. Equal ones are never a pair."""
    cut: Literal["keep", "drop"] = "keep"
    """Answers that reached ``search.max_characters`` or the like before their end (release: keep)."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class CsrSpec:
    """A round of CSR: trees of answers, relevance of their sentences, one pair for each prompt."""

    name: Literal["csr"] = "csr"
    relevance: RewardSpec
    """What tells how far a sentence goes with its picture: as ``online.reward``. Published: ``{clip: {path:
    openai/clip-vit-large-patch14-336, unit: answer, long: cut, weight: 100}}``, 100 times the cosine."""
    search: SearchSpec = SearchSpec()
    """How a tree of answers grows, a sentence a level."""
    score: CalibrationSpec = CalibrationSpec()
    """What a sentence and an answer are worth."""
    pairs: CsrPairSpec = CsrPairSpec()
    """Which answers of a tree become chosen and rejected."""
