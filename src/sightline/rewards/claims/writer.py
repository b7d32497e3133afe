"""The language model that splits answers into claims and turns claims into questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sightline.errors import ServiceError
from sightline.evaluation.bench import Judge, JudgeReply, JudgeRequest
from sightline.evaluation.rubric import Rubric, load_rubric
from sightline.evaluation.verdicts import conclusion
from sightline.recipes.rlaif_v import WriterSpec
from sightline.rewards.claims.lists import read_list
from sightline.rewards.terms import Failure

Told = tuple[str, ...] | Failure
_SHOWN = 80
"""Characters of a reply that a message quotes."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a writer is to write about."""

    id: str
    values: dict[str, str]
    """Of the fields of its rubric."""
    number: int | None = None
    """Entries that the list must have; None: as many as it has."""


@dataclass(frozen=True, kw_only=True)
class Writer:
    """Writes lists. A reply that holds none, or that was cut, is asked for again, and is a failure after that."""

    judge: Judge
    rubric: Rubric
    spec: WriterSpec

    def lists(self, asked: Sequence[Asked]) -> list[Told]:
        """The list to each request, in order, or why there is none.

        Raises:
            ServiceError: The model is away; nothing is wrong with what it was asked.
        """
        found: dict[int, Told] = {}
        left = list(range(len(asked)))
        for attempt in range(self.spec.attempts):
            requests = [replace(self._request(asked[index]), attempt=attempt) for index in left]
            replies = self.judge.ask(requests) if requests else []
            found |= {index: _read(asked[index], reply, self.judge) for index, reply in zip(left, replies, strict=True)}
            left = [index for index in left if isinstance(found[index], Failure)]
        return [found[index] for index in range(len(asked))]

    def _request(self, asked: Asked) -> JudgeRequest:
        return JudgeRequest(
            id=asked.id,
            messages=self.rubric.messages(asked.values),
            temperature=self.spec.temperature,
            top_p=self.spec.top_p,
            max_tokens=self.spec.max_tokens,
        )


def writer(judge: Judge, spec: WriterSpec, rubric: str) -> Writer:
    """
    Args:
        judge: who writes.
        spec: how.
        rubric: ``claims_split`` or ``claims_ask``, in whose place a template of one's own may stand.

    Raises:
        DataError: the template cannot be used.
    """
    return Writer(judge=judge, rubric=load_rubric(rubric, spec.template), spec=spec)


def check_rubric(rubric: str, spec: WriterSpec) -> None:
    """Looks, before there is an answer, whether a request can be made.

    Raises:
        DataError: the template cannot be used.
    """
    values = {"claims_split": ("question", "answer"), "claims_ask": ("claims",)}[rubric]
    load_rubric(rubric, spec.template).messages(dict.fromkeys(values, ""))


def check_reply(reply: JudgeReply, judge: Judge, what: str) -> None:
    """
    Raises:
        ServiceError: there is no reply, and there may be one next time.
    """
    if reply.text is None and not reply.final:
        raise ServiceError(
            f"{judge.name} gave no reply to {what}: {reply.error}",
            remedy="Mend it and run the same command, which goes on here",
        )


def _read(asked: Asked, reply: JudgeReply, judge: Judge) -> Told:
    check_reply(reply, judge, asked.id)
    if reply.text is None:
        return Failure(reason=reply.error or "no reply")
    shown = f"{reply.text[-_SHOWN:]!r}"
    if reply.cut:
        return Failure(reason=f"the reply was cut at its limit of tokens: {shown}")
    entries = read_list(conclusion(reply.text))
    if entries is None:
        return Failure(reason=f"the reply holds no list: {shown}")
    if asked.number is not None and len(entries) != asked.number:
        return Failure(reason=f"the reply holds {len(entries)} entries for {asked.number}: {shown}")
    return entries
