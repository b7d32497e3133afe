"""Is each claim right? A vision-language model is asked with the picture, and its next token is the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from sightline.errors import ServiceError
from sightline.evaluation.bench import Judge, JudgeReply, JudgeRequest
from sightline.recipes.rlaif_v import LabellerSpec
from sightline.rewards.claims.feedback import Claim, Feedback, feedback_of, with_feedback
from sightline.rewards.claims.writer import check_reply
from sightline.rewards.terms import Failure
from sightline.types import Group

_YES: Final = "yes"
_NO: Final = "no"
WORDS: Final = (_YES, _NO)
"""What a labeller answers with."""

Verdict = tuple[float, float] | Failure
"""Probabilities of yes and no, or why there are none."""


def label(groups: Sequence[Group], spec: LabellerSpec, labeller: Judge) -> list[Group]:
    """The groups with the probabilities of yes and no to each question. A question is asked once about a picture,
    however many answers give rise to it.

    Raises:
        DataError: a group without questions.
        ServiceError: the labeller is away, or tells no probabilities.
        RecipeError: no single token of the labeller spells yes, or no.
    """
    feedback = [feedback_of(group) for group in groups]
    asked = [_questions(some) for some in feedback]
    requests = [
        _request(spec, group, n, question)
        for group, some in zip(groups, asked, strict=True)
        for n, question in enumerate(some)
    ]
    replies = iter(labeller.ask(requests) if requests else [])
    found = []
    for group, some, own in zip(groups, feedback, asked, strict=True):
        verdicts = {question: _verdict(next(replies), spec, labeller, group.id) for question in own}
        found.append(with_feedback(group, [_labelled(one, verdicts) for one in some]))
    return found


def _questions(feedback: Sequence[Feedback]) -> list[str]:
    """Each once, of answers that nothing failed for."""
    return list(
        dict.fromkeys(
            claim.question
            for one in feedback
            if one.error is None
            for claim in one.claims
            if claim.question is not None
        )
    )


def _request(spec: LabellerSpec, group: Group, number: int, question: str) -> JudgeRequest:
    return JudgeRequest(
        id=f"{group.id}/{number}",
        messages=[{"role": "user", "content": spec.ask.replace("{question}", question)}],
        images=group.prompts[0].images,
        max_tokens=1,
        choices=WORDS,
    )


def _verdict(reply: JudgeReply, spec: LabellerSpec, labeller: Judge, what: str) -> Verdict:
    check_reply(reply, labeller, f"a question about {what}")
    if reply.text is None:
        return Failure(reason=reply.error or "no reply")
    if reply.probabilities is None:
        raise ServiceError(
            f"{labeller.name} tells no log-probabilities, which are the verdicts",
            remedy="Take a server that does (sightline serve judge, vLLM, SGLang), or local:FOLDER",
        )
    yes, no = reply.probabilities.get(_YES, 0.0), reply.probabilities.get(_NO, 0.0)
    if yes + no <= 0 or yes + no < spec.least:
        return Failure(reason=f"p(yes) + p(no) is {yes + no:.3g}, the likeliest reply begins with {reply.text!r:.40}")
    return yes, no


def _labelled(one: Feedback, verdicts: dict[str, Verdict]) -> Feedback:
    if one.error is not None:
        return one
    claims = list[Claim]()
    error = None
    for claim in one.claims:
        verdict = Failure(reason="it was not asked") if claim.question is None else verdicts[claim.question]
        if isinstance(verdict, Failure):
            error = error or f"no verdict on {claim.question!r}: {verdict.reason}"
            claims.append(claim)
        else:
            claims.append(replace(claim, yes=verdict[0], no=verdict[1]))
    return replace(one, claims=tuple(claims), error=error)
