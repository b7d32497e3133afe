"""A reward service over HTTP: asked again while it is away, never taken for a zero."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sightline.addresses import Addresses, Again, GivenUp, Patience, shown_url
from sightline.errors import DataError
from sightline.evaluation.judges.http import TOKEN_NAME, HttpReply, ask_service, service_token, shown_body
from sightline.recipes.terms import ServiceSpec
from sightline.rewards.terms import Failure, Value
from sightline.types import Group, Prompt

_FIRST_PAUSE: Final = 0.5
"""Seconds before the second try; doubled for each one after, half of it random."""
_LONGEST_PAUSE: Final = 30.0


@dataclass(kw_only=True)
class ServiceTerm:
    """Sends ``{"prompts", "responses", "id"}`` of a group, and reads ``{"rewards": [number or null, ...]}``."""

    spec: ServiceSpec
    remote: bool = True
    token: str = field(default_factory=service_token, repr=False)
    """Sent with every request; empty: none is."""
    _stop: threading.Event = field(default_factory=threading.Event, repr=False)
    """Set where the work is given up: nobody waits to try again."""

    def __post_init__(self) -> None:
        urls = (self.spec.url,) if isinstance(self.spec.url, str) else self.spec.url
        self._addresses = Addresses(urls=urls, stop=self._stop)

    def check(self, groups: Sequence[Group]) -> None:
        """What a service reads is its own affair."""

    def values(self, groups: Sequence[Group]) -> list[list[Value]]:
        self._stop.clear()
        with ThreadPoolExecutor(self.spec.workers) as pool:
            try:
                return list(pool.map(self._group, groups))
            except BaseException:  # a refusal, an interrupt
                self._stop.set()
                raise

    def give_up(self) -> None:
        self._stop.set()

    def _group(self, group: Group) -> list[Value]:
        if not group.responses:
            return []
        body = self._body(group)
        try:
            return self._addresses.ask(
                lambda url: self._once(url, body, len(group.responses)),
                Patience(seconds=self.spec.patience, pause=_FIRST_PAUSE, longest=_LONGEST_PAUSE),
            )
        except GivenUp as error:
            return [Failure(reason=str(error))] * len(group.responses)

    def _once(self, url: str, body: bytes, size: int) -> list[Value]:
        remedy = f"Correct its address, or set {TOKEN_NAME} to its token"
        reply = ask_service(url, body, self.token, seconds=self.spec.timeout, name="reward", remedy=remedy)
        if reply.status >= 400:
            return [Failure(reason=f"HTTP {reply.status}: {shown_body(reply, self.token)}")] * size
        return self._read(url, reply, size)

    def _read(self, url: str, reply: HttpReply, size: int) -> list[Value]:
        told = shown_body(reply, self.token)
        try:
            rewards = json.loads(reply.body)["rewards"]
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise Again(f"the body cannot be read ({type(error).__name__}): {told!r:.100}") from error
        if not isinstance(rewards, list) or len(rewards) != size or not all(map(_is_reward, rewards)):
            raise DataError(
                f"the reward service answered {told:.100} for {size} answers",
                source=shown_url(url),
                remedy='It is to answer {"rewards": [...]} with a number or null for each answer',
            )
        return [Failure(reason="the service gave null") if one is None else float(one) for one in rewards]

    def _body(self, group: Group) -> bytes:
        prompts = [self._prompt(prompt) for prompt in group.prompts]
        answers = [
            {
                "prompt": r.prompt,
                "text": r.text,
                "finish_reason": r.finish_reason,
                "tokens": len(r.tokens or ()) or None,
            }
            for r in group.responses
        ]
        return json.dumps({"id": group.id, "prompts": prompts, "responses": answers}).encode()

    def _prompt(self, prompt: Prompt) -> dict[str, Any]:
        told = {"messages": [dict(message) for message in prompt.messages], "facts": dict(prompt.facts)}
        if self.spec.pictures == "none":
            return told
        return told | {"images": [self._picture(path) for path in prompt.images]}

    def _picture(self, path: str) -> str:
        if self.spec.pictures == "path":
            return str(Path(path).absolute())
        try:
            return base64.b64encode(Path(path).read_bytes()).decode("ascii")
        except OSError as error:
            raise DataError(f"cannot be read ({error.strerror})", source=path, remedy="Correct the path") from error


def _is_reward(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")
    return value is None or number
