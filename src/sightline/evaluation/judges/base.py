"""What every back end of a judge is made of: the contract, and what a reply took."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from sightline.evaluation.bench import JudgeReply, JudgeRequest
from sightline.rollouts.engine import ToldToken

OnReply = Callable[[int, "Outcome"], None]
"""Called with the number of a request and what came of it, from one thread at a time."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A reply and what it took."""

    reply: JudgeReply
    prompt_tokens: int = 0
    completion_tokens: int = 0
    tries: int = 1
    tokens: tuple[ToldToken, ...] = ()
    """Of the reply, where ``JudgeRequest.likeliest`` asks for them and the back end is a model on this machine."""


class Backend(Protocol):
    """Something that answers judge requests."""

    @property
    def name(self) -> str:
        """Model and version."""
        ...

    @property
    def identity(self) -> str:
        """What a reply depends on beside name and request: address, weights, further parameters."""
        ...

    @property
    def cached(self) -> bool:
        """Whether its replies are worth keeping."""
        ...

    def answer(self, requests: Sequence[JudgeRequest], on_reply: OnReply) -> None:
        """Answers all requests, in any order; a request that fails is reported as a reply without text."""
        ...

    def give_up(self) -> None:
        """Called from another thread: nothing is tried again, and what is left fails."""
        ...


def asked(request: JudgeRequest) -> str:
    """What a judge is asked, without pictures and parameters: a stored reply is to this question and no other."""
    messages = [dict(message) for message in request.messages]
    return hashlib.sha256(json.dumps(messages, sort_keys=True).encode()).hexdigest()[:16]
