"""Answers into claims, and claims into questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sightline.recipes.rlaif_v import ClaimsSpec, QuestionsSpec
from sightline.rewards.claims.feedback import Claim, Feedback, check_unjudged, feedback_of, with_feedback
from sightline.rewards.claims.writer import Asked, Told, Writer
from sightline.rewards.judge import conversation
from sightline.rewards.sentences import sentences
from sightline.rewards.terms import Failure
from sightline.scenes.claims import claims_of, question_about
from sightline.types import Group, Response

NO_CLAIM = "it makes no claim about the picture"


def split(groups: Sequence[Group], spec: ClaimsSpec, writer: Writer | None) -> list[Group]:
    """The groups with the claims of each answer. Answers of the same words are split once.

    Args:
        groups: one prompt with a picture each.
        spec: how answers are split.
        writer: of ``by: model``.

    Raises:
        DataError: a group that cannot be judged.
        ServiceError: the writer is away.
    """
    for group in groups:
        check_unjudged(group)
    texts = [list(dict.fromkeys(one.text for one in group.responses if _says(one))) for group in groups]
    told = iter(_claims(groups, texts, spec, writer))
    found = []
    for group, some in zip(groups, texts, strict=True):
        by_text = {text: _feedback(text, next(told)) for text in some}
        own = [by_text[one.text] if _says(one) else _silent(one) for one in group.responses]
        found.append(with_feedback(group, own))
    return found


def ask(groups: Sequence[Group], spec: QuestionsSpec, writer: Writer | None) -> list[Group]:
    """The groups with a question to each claim. All claims of an answer are turned together, and where that gives
    another number of questions, each by itself.

    Raises:
        DataError: a group without claims.
        ServiceError: the writer is away.
    """
    feedback = [feedback_of(group) for group in groups]
    sets = [list(dict.fromkeys(_texts(one) for one in some if one.claims)) for some in feedback]
    told = iter(_questions(groups, sets, spec, writer))
    found = []
    for group, some, own in zip(groups, feedback, sets, strict=True):
        by_claims = {claims: next(told) for claims in own}
        found.append(with_feedback(group, [_with_questions(one, by_claims.get(_texts(one), ())) for one in some]))
    return found


def _claims(
    groups: Sequence[Group], texts: Sequence[Sequence[str]], spec: ClaimsSpec, writer: Writer | None
) -> list[Told]:
    if spec.by != "model":
        cut = claims_of if spec.by == "scenes" else sentences
        return [tuple(cut(text)) for some in texts for text in some]
    assert writer is not None
    return writer.lists(
        [
            Asked(id=f"{group.id}/{n}", values={"question": conversation(group.prompts[0]), "answer": text})
            for group, some in zip(groups, texts, strict=True)
            for n, text in enumerate(some)
        ]
    )


def _says(response: Response) -> bool:
    return response.finish_reason != "error" and bool(response.text.strip())


def _silent(response: Response) -> Feedback:
    error = "there is no answer" if response.finish_reason == "error" else NO_CLAIM
    return Feedback(answer=response.text, error=error)


def _feedback(text: str, told: Told) -> Feedback:
    if isinstance(told, Failure):
        return Feedback(answer=text, error=f"not split into claims: {told.reason}")
    if not told:
        return Feedback(answer=text, error=NO_CLAIM)
    return Feedback(answer=text, claims=tuple(Claim(text=claim) for claim in told))


def _questions(
    groups: Sequence[Group], sets: Sequence[Sequence[tuple[str, ...]]], spec: QuestionsSpec, writer: Writer | None
) -> list[Told]:
    """The questions to each set of claims of each group."""
    flat = [
        (f"{group.id}/{n}", claims) for group, some in zip(groups, sets, strict=True) for n, claims in enumerate(some)
    ]
    if spec.by != "model":
        return [_by_rule(claims, spec) for _, claims in flat]
    assert writer is not None
    told = writer.lists([_to_turn(id, claims) for id, claims in flat])
    again = [place for place, one in enumerate(told) if isinstance(one, Failure) and len(flat[place][1]) > 1]
    single = [_to_turn(f"{flat[n][0]}/{k}", (claim,)) for n in again for k, claim in enumerate(flat[n][1])]
    alone = iter(writer.lists(single))
    for place in again:
        told[place] = _together([next(alone) for _ in flat[place][1]])
    return told


def _to_turn(id: str, claims: Sequence[str]) -> Asked:
    return Asked(id=id, values={"claims": "\n".join(f"- {claim}" for claim in claims)}, number=len(claims))


def _together(told: Sequence[Told]) -> Told:
    failed = next((one for one in told if isinstance(one, Failure)), None)
    return failed or tuple(question for one in told if not isinstance(one, Failure) for question in one)


def _by_rule(claims: Sequence[str], spec: QuestionsSpec) -> Told:
    if spec.by == "template":
        return tuple(spec.text.replace("{claim}", claim) for claim in claims)
    found = [question_about(claim) for claim in claims]
    missing = next((claim for claim, question in zip(claims, found, strict=True) if question is None), None)
    if missing is not None:
        return Failure(reason=f"the claim {missing!r} names no shape of the built-in world")
    return tuple(question for question in found if question is not None)


def _with_questions(one: Feedback, told: Told) -> Feedback:
    if not one.claims:
        return one
    if isinstance(told, Failure):
        return replace(one, error=f"claims not turned into questions: {told.reason}")
    pairs = zip(one.claims, told, strict=True)
    return replace(one, claims=tuple(replace(claim, question=question) for claim, question in pairs))


def _texts(one: Feedback) -> tuple[str, ...]:
    return tuple(claim.text for claim in one.claims)
