"""Asking a judge, with one convention for every benchmark that is graded by one.

A request ends in a **verdict**; or its reply is **unread**, which holds none; or the judge is **silent**. The last two
are failures, counted and named. A silent request is in no figure. An unread reply is in a figure only where the
benchmark's own script gives it a number (MMHal 0, LLaVA-Bench -1, HallusionBench "unclear"), and the result says so.
Where no reply holds a verdict there is no figure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Generic, TypeVar

from sightline.errors import DataError
from sightline.evaluation.bench import Judge, JudgeReply, JudgeRequest

V = TypeVar("V")

_THOUGHTS: Final = (
    *((f"<{name}>", f"</{name}>") for name in ("think", "thinking", "thought", "reasoning", "seed:think")),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|channel|>analysis", "<|channel|>final<|message|>"),
)
"""What models set around their thoughts: Qwen and DeepSeek, others, Seed, Magistral, Kimi, gpt-oss."""
_SHOWN: Final = 60
"""Characters of a reply that a message quotes."""


@dataclass(frozen=True, kw_only=True)
class Said(Generic[V]):
    """What a request came to."""

    id: str
    verdict: V | None
    """None: the reply is unread, or there is none."""
    reply: JudgeReply
    problem: str
    """Why there is no verdict; empty where there is one."""

    @property
    def silent(self) -> bool:
        """Whether the judge did not reply."""
        return self.reply.text is None

    @property
    def unread(self) -> bool:
        """Whether it replied, and the reply holds no verdict."""
        return self.verdict is None and not self.silent


def ask(
    judge: Judge,
    requests: Sequence[JudgeRequest],
    read: Callable[[str], V | None],
    *,
    wanted: str = "verdict",
    attempts: int = 1,
    warmer: float | None = None,
) -> list[Said[V]]:
    """:func:`ask_each` where all replies are read alike: ``read`` takes a reply."""
    return ask_each(judge, requests, lambda _, reply: read(reply), wanted=wanted, attempts=attempts, warmer=warmer)


def ask_each(
    judge: Judge,
    requests: Sequence[JudgeRequest],
    read: Callable[[JudgeRequest, str], V | None],
    *,
    wanted: str = "verdict",
    attempts: int = 1,
    warmer: float | None = None,
    first: int = 0,
) -> list[Said[V]]:
    """What each request came to, in order. What ended without a verdict is asked again, up to ``attempts`` in all.

    Args:
        judge: Whom to ask.
        requests: First attempts.
        read: The verdict in the reply to a request, thoughts left out; None where there is none.
        wanted: What a verdict is called, for messages.
        attempts: How often a request is asked at most.
        warmer: Temperature from the second attempt on; None: that of the request.
        first: Number of the first attempt; another one is another sample.
    """
    found: dict[int, Said[V]] = {}
    left = list(range(len(requests)))
    for attempt in range(attempts):
        asked = [replace(requests[index], attempt=first + attempt) for index in left]
        if attempt and warmer is not None:
            asked = [replace(one, temperature=warmer) for one in asked]
        for index, request, reply in zip(left, asked, judge.ask(asked) if asked else [], strict=True):
            found[index] = _said(request, reply, read, wanted)
        left = [index for index in left if found[index].verdict is None]
    return [found[index] for index in range(len(requests))]


def _said(
    request: JudgeRequest, reply: JudgeReply, read: Callable[[JudgeRequest, str], V | None], wanted: str
) -> Said[V]:
    if reply.text is None:
        return Said(id=request.id, verdict=None, reply=reply, problem=reply.error or "no reply")
    verdict = read(request, conclusion(reply.text))
    cut = ", cut at its limit of tokens" if reply.cut else ""
    problem = "" if verdict is not None else f"no {wanted} in {reply.text[-_SHOWN:]!r}{cut}"
    return Said(id=request.id, verdict=verdict, reply=reply, problem=problem)


def conclusion(reply: str) -> str:
    """A reply without the thoughts of a judge that thinks aloud; thoughts that were cut leave nothing.

    >>> conclusion("<think>Is it incorrect? No.</think>\\n\\ncorrect"), conclusion("<think>Is it incorrect?")
    ('correct', '')
    """
    for begin, end in _THOUGHTS:
        first, last = reply.find(begin), reply.rfind(end)
        if last >= 0:  # templates that open the thoughts themselves leave only their end in the reply
            before = reply[:first] if 0 <= first < last else ""
            return (before + reply[last + len(end) :]).lstrip()
        if reply.lstrip().startswith(begin):
            return ""
    return reply


def need_verdicts(bench: str, told: Sequence[Said[V]], *, each: int = 1) -> None:
    """``each``: requests about one answer.

    Raises:
        DataError: There were requests, and none of them ended in a verdict: figures would be made of nothing.
    """
    if told and all(one.verdict is None for one in told):
        unread, cut = sum(one.unread for one in told), sum(one.reply.cut for one in told)
        replies = f"{unread} replies hold no verdict, {cut} of them cut at their limit of tokens"
        silent = f"{len(told) - unread} requests got no reply"
        raise DataError(
            f"none of {len(told) // each} answers could be graded ({replies}; {silent}; first: {_first(told)})",
            source=bench,
            remedy="Check the judge, and grade again: replies that are there are not asked for twice",
        )


def verdict_notes(told: Sequence[Said[V]], *, wanted: str = "verdict", unread: str = "left out") -> list[str]:
    """What a reader must know: replies without a verdict and what became of them, silence, and replies that were cut.

    Args:
        told: What the requests came to.
        wanted: What a verdict is called.
        unread: What became of replies without one.
    """
    notes = []
    if count := sum(one.unread for one in told):
        notes.append(f"{count} of {len(told)} replies hold no {wanted}: {unread}")
    if count := sum(one.silent for one in told):
        notes.append(f"{count} of {len(told)} requests got no reply and are in no figure")
    if count := sum(one.reply.cut for one in told):
        notes.append(f"{count} of {len(told)} replies were cut at their limit of tokens")
    if any(one.verdict is None for one in told):
        notes.append(f"first failure: {_first(told)}")
    return notes


def _first(told: Sequence[Said[V]]) -> str:
    failed = next(one for one in told if one.verdict is None)
    return f"{failed.id}: {failed.problem}"
