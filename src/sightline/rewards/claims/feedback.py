"""What was found out about an answer: its claims, the question to each, and how likely yes and no are.

It stands under :data:`FEEDBACK` in the facts of a group's prompt, one entry for each answer in order, so that every
stage is a Group file that a person can open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from sightline.errors import DataError
from sightline.types import Group

FEEDBACK: Final = "feedback"
"""Key of ``Prompt.facts``."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One thing that an answer says about the picture."""

    text: str
    question: str | None = None
    """Yes says that the claim is right. None: not asked yet."""
    yes: float | None = None
    """Probability of yes as the labeller's next token, over all tokens that spell it. None: not labelled yet."""
    no: float | None = None

    @property
    def probability(self) -> float:
        """Of yes against no."""
        assert self.yes is not None
        assert self.no is not None
        return self.yes / (self.yes + self.no)


@dataclass(frozen=True, kw_only=True)
class Feedback:
    """What is known of one answer."""

    answer: str
    claims: tuple[Claim, ...] = ()
    error: str | None = None
    """Why there will be no score; None: nothing failed."""


def feedback_of(group: Group) -> list[Feedback]:
    """What a group holds.

    Raises:
        DataError: Nothing, or something that does not fit its answers.
    """
    rows = group.prompts[0].facts.get(FEEDBACK)
    try:
        found = [_read(row) for row in rows or ()]
    except (TypeError, KeyError, AttributeError) as error:
        raise _damaged(group, f"holds {rows!r:.100} under {FEEDBACK!r} ({type(error).__name__})") from error
    if [one.answer for one in found] != [response.text for response in group.responses]:
        raise _damaged(group, f"holds feedback to {len(found)} answers, which are not its {len(group.responses)}")
    return found


def with_feedback(group: Group, feedback: Sequence[Feedback]) -> Group:
    """The group with another account of its answers."""
    return _with_facts(group, {**group.prompts[0].facts, FEEDBACK: [_write(one) for one in feedback]})


def without_feedback(group: Group) -> Group:
    """The group as it was sampled."""
    return _with_facts(group, {key: value for key, value in group.prompts[0].facts.items() if key != FEEDBACK})


def check_unjudged(group: Group) -> None:
    """
    Raises:
        DataError: Several prompts, no picture, or a fact of the name that feedback takes.
    """
    prompt = group.prompts[0]
    if len(group.prompts) > 1:
        found, remedy = f"has {len(group.prompts)} prompts", "Make a group of each"
    elif not prompt.images:
        found, remedy = "has no picture, and claims are held against one", "Leave the prompt out"
    elif FEEDBACK in prompt.facts:
        found, remedy = f"has a fact {FEEDBACK!r}, where the account of its answers is to stand", "Rename that fact"
    else:
        return
    raise DataError(f"group {group.id!r} {found}", source=group.source, remedy=remedy)


def _with_facts(group: Group, facts: Mapping[str, Any]) -> Group:
    return replace(group, prompts=(replace(group.prompts[0], facts=facts), *group.prompts[1:]))


def _read(row: Mapping[str, Any]) -> Feedback:
    claims = tuple(
        Claim(text=one["claim"], question=one.get("question"), yes=one.get("yes"), no=one.get("no"))
        for one in row.get("claims", ())
    )
    return Feedback(answer=row["answer"], claims=claims, error=row.get("error"))


def _write(feedback: Feedback) -> dict[str, Any]:
    told = ("question", "yes", "no")
    claims = [
        {"claim": one.text, **{key: value for key in told if (value := vars(one)[key]) is not None}}
        for one in feedback.claims
    ]
    error = {} if feedback.error is None else {"error": feedback.error}
    return {"answer": feedback.answer, "claims": claims, **error}


def _damaged(group: Group, found: str) -> DataError:
    remedy = "It was not written by this stage, or edited: remove the file, and it is made again"
    return DataError(f"group {group.id!r} {found}", source=group.source, remedy=remedy)
