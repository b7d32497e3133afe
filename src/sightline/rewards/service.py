"""A reward service over HTTP: asked again while it is away, never taken for a zero."""

from __future__ import annotations

import base64
import json
import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final

from sightline.errors import DataError
from sightline.evaluation.judges.endpoint import shown_url
from sightline.evaluation.judges.http import TooLarge, post
from sightline.recipes.terms import ServiceSpec
from sightline.rewards.terms import Failure, Value
from sightline.types import Group, Prompt

_REFUSED: Final = (401, 402, 403, 404, 405)
"""Wrong address, or no right to ask: every request would fail."""
_AGAIN: Final = (408, 409, 425, 429)
"""And all from 500 on."""
_FIRST_PAUSE: Final = 0.5
"""Seconds before the second try; doubled for each one after, half of it random."""
_LONGEST_PAUSE: Final = 30.0


@dataclass(kw_only=True)
class ServiceTerm:
    """Sends ``{"prompts", "responses", "id"}`` of a group, and reads ``{"rewards": [number or null, ...]}``."""

    spec: ServiceSpec
    remote: bool = True
    _stop: threading.Event = field(default_factory=threading.Event, repr=False)
    """Set where the work is given up: nobody waits to try again."""

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
        body, given_up = self._body(group), time.monotonic() + self.spec.patience
        pause, tries = _FIRST_PAUSE, 0
        while True:
            tries += 1
            found = self._once(body, len(group.responses))
            if not isinstance(found, _Again):
                return found
            left = given_up - time.monotonic()
            if left <= 0 or self._stop.is_set():
                return [Failure(reason=f"{found.reason} ({tries} tries)")] * len(group.responses)
            self._stop.wait(min(pause * random.uniform(0.5, 1), left))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _once(self, body: bytes, size: int) -> list[Value] | _Again:
        try:
            reply = post(self.spec.url, body, {"Content-Type": "application/json"}, seconds=self.spec.timeout)
        except (HTTPException, OSError, TooLarge) as error:
            return _Again(reason=f"{type(error).__name__}: {error}")
        said = f"HTTP {reply.status}: {reply.body[:200].decode('utf-8', 'replace')}"
        if 300 <= reply.status < 400 or reply.status in _REFUSED:
            raise DataError(
                f"the reward service answered {said}", source=shown_url(self.spec.url), remedy="Correct its address"
            )
        if reply.status in _AGAIN or reply.status >= 500:
            return _Again(reason=said)
        return [Failure(reason=said)] * size if reply.status >= 300 else self._read(reply.body, size)

    def _read(self, body: bytes, size: int) -> list[Value] | _Again:
        try:
            rewards = json.loads(body)["rewards"]
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            return _Again(reason=f"the body cannot be read ({type(error).__name__}): {body[:100]!r}")
        if not isinstance(rewards, list) or len(rewards) != size or not all(map(_is_reward, rewards)):
            raise DataError(
                f"the reward service answered {json.dumps(rewards)[:100]} for {size} answers",
                source=shown_url(self.spec.url),
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


@dataclass(frozen=True, kw_only=True)
class _Again:
    """A try that may go well next time."""

    reason: str


def _is_reward(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")
    return value is None or number
