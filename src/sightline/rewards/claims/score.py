"""From verdicts on claims to the score of an answer, and to figures of many answers (RLAIF-V, arXiv 2405.17220)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from sightline.rewards.claims.feedback import Claim, feedback_of
from sightline.rewards.claims.split import NO_CLAIM
from sightline.types import Group

How = Literal["rejected", "share", "mean", "least"]


def score(group: Group, how: How, threshold: float) -> Group:
    """The group with a reward on every answer whose claims are all judged, and ``claims`` and ``rejected`` beside it;
    the others have the reason as ``reward_error``.

    Args:
        group: with feedback.
        how: see ``RlaifVSpec.score``.
        threshold: a claim stands where the probability of yes against no is above it.

    Raises:
        DataError: there is no feedback to its answers.
    """
    found = []
    for response, one in zip(group.responses, feedback_of(group), strict=True):
        if one.error is not None:
            found.append(replace(response, reward=None, rewards={}, reward_error=one.error))
            continue
        rejected = sum(not stands(claim, threshold) for claim in one.claims)
        named = {"claims": float(len(one.claims)), "rejected": float(rejected)}
        reward = worth(one.claims, how, threshold)
        found.append(replace(response, reward=reward, rewards=named, reward_error=None))
    return replace(group, responses=tuple(found), edges=())


def stands(claim: Claim, threshold: float) -> bool:
    """Whether the labeller takes a claim for right.

    >>> stands(Claim(text="", yes=0.3, no=0.3), 0.5), stands(Claim(text="", yes=0.03, no=0.02), 0.5)
    (False, True)
    """
    return claim.probability > threshold


def worth(claims: Sequence[Claim], how: How, threshold: float) -> float:
    """What claims are worth together; there is one at least.

    >>> claims = [Claim(text="", yes=yes, no=1 - yes) for yes in (0.9, 0.4, 0.2, 0.8)]
    >>> [round(worth(claims, how, 0.5), 3) for how in ("rejected", "share", "mean", "least")]
    [-2.0, -0.5, 0.575, 0.2]
    """
    rejected = sum(not stands(claim, threshold) for claim in claims)
    if how == "rejected":
        return float(-rejected)  # 0, not -0
    if how == "share":
        return -rejected / len(claims)
    told = [claim.probability for claim in claims]
    return min(told) if how == "least" else sum(told) / len(told)


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Of many answers. Means are over those that have a score."""

    answers: int
    scored: int
    without_claims: int
    """Answers that claim nothing."""
    failed: int
    """Answers for which something failed: no reply that could be read, no verdict."""
    first_failure: str
    score: float | None
    """Mean; None: no answer has one."""
    claims: float | None
    """Mean number."""
    rejected: float | None
    """Share of all claims that do not stand."""
    words: float | None
    """Mean length."""


def figures(groups: Iterable[Group]) -> Figures:
    """Of scored groups."""
    answers = [response for group in groups for response in group.responses]
    scored = [one for one in answers if one.reward is not None]
    wrong = [one.reward_error for one in answers if one.reward_error is not None and one.reward_error != NO_CLAIM]
    count = len(scored)
    claims = sum(one.rewards["claims"] for one in scored)
    return Figures(
        answers=len(answers),
        scored=count,
        without_claims=sum(one.reward_error == NO_CLAIM for one in answers),
        failed=len(wrong),
        first_failure=wrong[0] if wrong else "",
        score=sum(one.reward for one in scored if one.reward is not None) / count if count else None,
        claims=claims / count if count else None,
        rejected=sum(one.rewards["rejected"] for one in scored) / claims if claims else None,
        words=sum(len(one.text.split()) for one in scored) / count if count else None,
    )
