"""RLAIF-V (arXiv 2405.17220): answers are judged claim by claim, and by that become preferences. Imports no torch.

Where no other is named, a default is the published value: that of the paper, or of its code where the paper has none.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from sightline.recipes.schema import SamplingSpec

_STRICT = ConfigDict(extra="forbid", str_strip_whitespace=False, allow_inf_nan=False)
_MOST = 2**31 - 1

Text = Annotated[str, Field(min_length=1)]
Share = Annotated[float, Field(ge=0, le=1)]

SELF = "self"
LABELLER = "labeller"
_STATEMENT = "Is this true of the picture? {claim}"
CLAIMS_BENCH = "sightline.rewards.claims.bench:BENCH"
"""The benchmark of held-out questions."""


def _no_key(options: dict[str, Any]) -> None:
    if "key" in options:
        raise ValueError("a key in a recipe would be written to disk with every run. Set OPENAI_API_KEY instead")
    if "max_tokens" in options:
        raise ValueError("found options.max_tokens, which nothing reads: every request has its limit. Remove it")


def _one_field(text: str, field: str) -> None:
    other = next((name for name in re.findall(r"\{\w+\}", text) if name != field), None)
    if other is not None:
        raise ValueError(f"found {other}, which nothing fills in; it may hold {field}. Correct it")


def _check_self(model: str, options: dict[str, Any]) -> None:
    if model == SELF and options:
        raise ValueError("found options, and model: self, which is loaded as the loop's model says. Remove options")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class WriterSpec:
    """The language model that writes claims, or questions."""

    model: Text = LABELLER
    """``labeller``: the model that answers the questions, without a picture; ``self``: the model of the round;
    ``local:FOLDER``, ``openai:MODEL``, ``http://ADDRESS`` or ``replay:FILE``. Published: Llama-3 8B, tuned for it."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Of such a model, as of ``--judge-option``: ``url``, ``timeout``, ``workers``, ``dtype``, ... A key comes from the
    environment alone."""
    temperature: float = Field(default=0.2, ge=0, le=100)
    top_p: float = Field(default=0.9, gt=0, le=1)
    max_tokens: int = Field(default=256, ge=1, le=_MOST)
    """Of a reply. One that reaches it is cut, and counts as one that cannot be read."""
    attempts: int = Field(default=3, ge=1, le=1000)
    """How often it is asked at most for a reply that can be read. Published: once, and half a reply was taken."""
    template: Text | None = None
    """A file with the request in other words (``docs/evaluation.md``, rubrics)."""

    def __post_init__(self) -> None:
        """Refuses what would change nothing."""
        _no_key(self.options)
        if not self.temperature and self.attempts > 1:
            raise ValueError(f"found {self.attempts} attempts at temperature 0, whose replies are all the same. Set 1")
        if self.model == LABELLER and self.options:
            raise ValueError("found options, and model: labeller, which has those of the labeller. Remove options")
        _check_self(self.model, self.options)


def _asked(by: str, writer: WriterSpec) -> None:
    if by != "model" and writer != WriterSpec():
        raise ValueError(f"found a writer, and by: {by}, which asks none. Remove writer, or set by: model")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ClaimsSpec:
    """How an answer is split into claims."""

    by: Literal["model", "sentences", "scenes"] = "model"
    """``model``: as ``writer`` writes them; ``sentences``: each sentence is one; ``scenes``: each object that is named
    is one, by the grammar of the built-in world."""
    writer: WriterSpec = WriterSpec()
    """Of ``model``."""

    def __post_init__(self) -> None:
        """Refuses a writer that nobody asks."""
        _asked(self.by, self.writer)


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class QuestionsSpec:
    """How a claim becomes a question to be answered by yes or no; yes says that the claim is right."""

    by: Literal["model", "template", "scenes"] = "model"
    """``model``: as ``writer`` writes them; ``template``: ``text`` with the claim in it; ``scenes``: whether a shape is
    there, as the built-in world asks."""
    text: str = Field(default=_STATEMENT, pattern=r"\{claim\}")
    """Of ``template``."""
    writer: WriterSpec = WriterSpec()
    """Of ``model``."""

    def __post_init__(self) -> None:
        """Refuses a writer that nobody asks, and a text that nobody reads or fills in."""
        _asked(self.by, self.writer)
        _one_field(self.text, "{claim}")
        if self.by != "template" and self.text != _STATEMENT:
            raise ValueError(f"found text, and by: {self.by}, which reads none. Remove text, or set by: template")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class LabellerSpec:
    """The vision-language model that answers the questions, with the picture."""

    model: Text = SELF
    """``self``: the model of the round; ``local:FOLDER``; ``openai:MODEL`` or ``http://ADDRESS``, which must tell
    log-probabilities; ``replay:FILE``. Published: OmniLMM 12B, and LLaVA-NeXT 34B; for OmniLMM itself, itself."""
    options: dict[str, Any] = Field(default_factory=dict)
    """As of a writer."""
    ask: str = Field(default="{question} Please answer yes or no.", pattern=r"\{question\}")
    """What it is asked."""
    threshold: Share = 0.5
    """A claim stands where p(yes) / (p(yes) + p(no)) is above it."""
    least: Share = 0.0
    """Least p(yes) + p(no), as the next token, for a verdict: below it the model would not have answered by either."""

    def __post_init__(self) -> None:
        """Refuses a key."""
        _no_key(self.options)
        _check_self(self.model, self.options)
        _one_field(self.ask, "{question}")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class BalanceSpec:
    """Which comparisons are kept so that chosen and rejected answers have the same mean length in words: pairs whose
    chosen answer is shorter than the rejected one by more than a share are left out, and the share is the one whose
    means differ least. (Chosen answers that are longer on the whole stay so.)"""

    step: float = Field(default=0.02, gt=0, lt=1)
    """Shares that are tried: 0, ``step``, 2 ``step``, ... below 1."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class PairsSpec:
    """How scored answers become comparisons."""

    relation: Literal["ranked", "best_worst", "length_balanced"] = "ranked"
    """As ``online.relation``."""
    min_gap: float = Field(default=1.0, ge=0, le=1e9)
    """Least difference of score."""
    most: int | None = Field(default=2, ge=1, le=_MOST)
    """Comparisons to a prompt, drawn from all that there are; None: all. The published code drew two."""
    balance: BalanceSpec | None = BalanceSpec()
    """None: all pairs are kept."""
    cut_answers: Literal["keep", "leave_out"] = "keep"
    """Answers that reached the limit of tokens, which do not end."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class RlaifVSpec:
    """A round of RLAIF-V: sample, split into claims, ask, score, pair."""

    name: Literal["rlaif_v"]
    sampling: SamplingSpec = SamplingSpec(n=10, temperature=0.7, max_new_tokens=512)
    """The same for all answers to a prompt ("deconfounded"): they differ in what they say, not in how they were
    made."""
    claims: ClaimsSpec = ClaimsSpec()
    """How answers are split into claims."""
    questions: QuestionsSpec = QuestionsSpec()
    """How claims become questions that are answered by yes or no."""
    labeller: LabellerSpec = LabellerSpec()
    """Who answers them with the picture before its eyes."""
    score: Literal["rejected", "share", "mean", "least"] = "rejected"
    """What an answer is worth. ``rejected``: minus the number of claims that do not stand; ``share``: minus their
    share; ``mean`` and ``least``: of the probabilities of yes against no."""
    most_failed: Share = 0.5
    """Share of a round's answers for which something may fail (a reply that cannot be read, no verdict). They have no
    score and are in no comparison, and are counted and told; above it the round stops. Answers that claim nothing have
    no score either, and are no failures."""
    pairs: PairsSpec = PairsSpec()
    """Which answers to a prompt are compared."""
    held_out: float | None = Field(default=None, gt=0, lt=1)
    """Share of the prompts that no round asks, by a hash of their pictures, so that none is on both sides: the round is
    chosen by them (``exam`` with the benchmark ``claims``). The published checkpoints were chosen on benchmarks that
    were reported. None: none."""

    def __post_init__(self) -> None:
        """Refuses settings under which nothing could be compared or asked."""
        if self.score != "rejected" and self.pairs.min_gap >= 1:
            raise ValueError(
                f"found score: {self.score}, whose values lie within 1 of each other, and pairs.min_gap: "
                f"{self.pairs.min_gap:g}. Lower min_gap"
            )
        if self.sampling.n < 2 or not self.sampling.temperature:
            raise ValueError(
                f"found {self.sampling.n} answers at temperature {self.sampling.temperature:g}, expected different "
                "answers to compare. Raise sampling.n to 2 or more, and temperature above 0"
            )
        if self.claims.by == "scenes" and self.questions.by == "model":
            raise ValueError("claims by scenes are asked as the world asks. Set questions: {by: scenes} or a template")


def held_out_conflict(method: object, data: Path) -> str | None:
    """What is wrong where an exam asks the held-out part of a file: the rounds must leave out the same part.

    Args:
        method: of the loop.
        data: of the benchmark; nothing is said where it cannot be read, which opening it will tell.
    """
    try:
        share = json.loads((data / "claims.json").read_text(encoding="utf-8")).get("share")
    except (OSError, ValueError, AttributeError):
        return None
    left_out = method.held_out if isinstance(method, RlaifVSpec) else None
    if share == left_out:
        return None
    return (
        f"the exam asks the share {share} of the prompts of {data / 'claims.json'}, and the rounds leave out "
        f"{left_out}: some questions would be trained on that choose the round. Set method.held_out (of rlaif_v) and "
        "that share to the same number."
    )
