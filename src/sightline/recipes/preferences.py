"""How scored answers become preferences, and where these wait. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from sightline.recipes.direct import said_plainly

_STRICT = ConfigDict(extra="forbid", str_strip_whitespace=False, allow_inf_nan=False)
_MOST = 2**31 - 1
_LONGEST = 1e9

Number = Annotated[float, Field(ge=-_LONGEST, le=_LONGEST)]
Gap = Annotated[float, Field(ge=0, le=_LONGEST)]

OnlineRelation = Literal["best_worst", "ranked", "length_balanced", "ovip", "best", "none"]
UNCOMPARED: Final = ("best", "none")
"""Relations that make no comparisons."""


@said_plainly
@dataclass(frozen=True, kw_only=True, config=_STRICT)
class SelectionSpec:
    """OViP's rule for pairs (arXiv 2505.15963, as its code has it). The defaults are its published values, for scores
    from 0 to 10. Answers of the same words count once, and one that has no reward not at all."""

    small: int = Field(default=4, ge=0, le=_MOST)
    """Most answers of a small group, whose best is paired with its worst alone."""
    small_gap: Gap = 4.0
    """Least difference of such a pair."""
    good: Number = 6.0
    """Least reward of a chosen answer that was sampled."""
    deviations: Gap = 2.0
    """Larger groups: the k-th best is paired with the k-th worst while they differ by more than so many standard
    deviations of the group's rewards ..."""
    least_deviation: Gap = 1.5
    """... each counted as this much at least."""
    most: int | None = Field(default=None, ge=1, le=_MOST)
    """Most pairs of a prompt, the widest first; None: no limit. OViP's trainer without a buffer has 3."""
    bad: Number = 5.0
    """Where no pair is found: most reward of the worst answer for which ``fallback`` makes one."""
    fallback: Literal["reference", "relaxed", "none"] = "reference"
    """``reference``: the reference answer over the worst; ``relaxed``: the best over the worst where they differ by
    ``relaxed_gap``, whatever the best got; ``none``: no pair."""
    relaxed_gap: Gap = 2.0
    reference: str = Field(default="answer", min_length=1)
    """Key of ``Prompt.facts`` with the reference answer, a text."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class BufferSpec:
    """Groups with comparisons wait here for their steps. A round takes so many as it trains, the oldest first, and
    samples prompts until it has them; what is left over waits for later rounds, and is kept in checkpoints. The
    defaults are those of OViP's experience buffer: first in, first out, each trained once, at whatever age."""

    size: int = Field(default=1024, ge=1, le=_MOST)
    """Most entries that wait; the oldest leave first."""
    unit: Literal["group", "pair"] = "group"
    """What an entry is: all comparisons of a prompt, whose picture is then computed once; or each comparison by itself,
    so that every step trains the same number of them (OViP's)."""
    uses: int = Field(default=1, ge=1, le=_MOST)
    """Rounds that an entry is trained in."""
    fresh: float = Field(default=0.0, ge=0, le=1)
    """Least share of a round that is newly sampled; the rest is taken from what waits, as far as it goes."""
    max_staleness: int | None = Field(default=None, ge=0, le=_MOST)
    """Most rounds between the sampling of an entry and its training: older ones leave. None: no bound."""
    tries: int = Field(default=8, ge=1, le=1000)
    """Times that prompts are sampled for one round, each time as many as are missing; then the round is smaller."""
