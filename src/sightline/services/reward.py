"""Rewards behind ``/score``: the other end of the reward term ``service``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fastapi import APIRouter

from sightline.services.batching import Batcher, Refused
from sightline.services.pictures import Pictures
from sightline.services.wire import ScoredPrompt, ScoreReply, ScoreRequest
from sightline.types import Group, Prompt, Response

Rewards = Callable[[Sequence[Group]], Sequence[Group]]
"""Gives every answer of every group its ``reward``, or None where it cannot be judged."""


def scored(rewards: Rewards) -> Callable[[Sequence[Group]], list[list[float | None] | Refused]]:
    """The work of a reward service, for a batcher."""

    def run(groups: Sequence[Group]) -> list[list[float | None] | Refused]:
        return [[response.reward for response in group.responses] for group in rewards(groups)]

    return run


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What the route of a reward service works with."""

    batcher: Batcher[Group, list[float | None]]
    pictures: Pictures

    async def score(self, request: ScoreRequest) -> ScoreReply:
        """The reward of every answer."""
        if not request.responses:
            return ScoreReply(rewards=[])
        far = next((one.prompt for one in request.responses if one.prompt >= len(request.prompts)), None)
        if far is not None:
            raise Refused(422, f"an answer is to prompt {far}, and there are {len(request.prompts)}, counted from 0")
        for number, prompt in enumerate(request.prompts):
            marked = _check(number, prompt)
            if marked != len(prompt.images):
                raise Refused(422, f"prompt {number} marks {marked} pictures, and {len(prompt.images)} came with it")
        named = [name for prompt in request.prompts for name in prompt.images]
        with self.pictures.taken(named) as paths:
            return ScoreReply(rewards=await self.batcher.submit(_group(request, paths)))


def reward_routes(scale: Scale) -> APIRouter:
    """``/score``."""
    router = APIRouter()

    @router.post("/score")
    async def score(request: ScoreRequest) -> ScoreReply:
        return await scale.score(request)

    return router


def _group(request: ScoreRequest, paths: Sequence[str]) -> Group:
    left = iter(paths)
    prompts = tuple(
        Prompt(
            id=f"{request.id}/{number}" if number else request.id,
            messages=tuple(prompt.messages),
            images=tuple(next(left) for _ in prompt.images),
            facts=prompt.facts,
        )
        for number, prompt in enumerate(request.prompts)
    )
    answers = tuple(
        Response(text=one.text, prompt=one.prompt, finish_reason=one.finish_reason) for one in request.responses
    )
    return Group(prompts=prompts, responses=answers, source="request")


def _check(number: int, prompt: ScoredPrompt) -> int:
    """Markers of pictures in a prompt.

    Raises:
        Refused: Its messages are none.
    """
    marked = 0
    for message in prompt.messages:
        content, role = message.get("content"), message.get("role")
        if role not in ("system", "user", "assistant") or not isinstance(content, str | list):
            raise Refused(422, f"prompt {number}: a message has a role, and a text or parts as content")
        if isinstance(content, str):
            continue
        if not all(map(_is_part, content)):
            raise Refused(422, f"prompt {number}: a part of a message is of type text or image")
        marked += sum(part["type"] == "image" for part in content)
    if prompt.messages[-1]["role"] != "user":
        raise Refused(422, f"prompt {number}: the last message is to be one of the user")
    return marked


def _is_part(part: object) -> bool:
    if not isinstance(part, dict):
        return False
    return part == {"type": "image"} or (part.get("type") == "text" and isinstance(part.get("text"), str))
