"""A language or vision-language model behind OpenAI's chat route and OViP's ``/critic`` and ``/describe``."""

from __future__ import annotations

import hashlib
import json
import re
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from fastapi import APIRouter

from sightline.evaluation.bench import JudgeReply, JudgeRequest
from sightline.evaluation.judges.base import Backend, Outcome
from sightline.evaluation.rubric import Rubric
from sightline.evaluation.verdicts import conclusion
from sightline.rewards.judge import read_score
from sightline.rollouts.engine import ToldToken
from sightline.services.batching import Batcher, Refused
from sightline.services.pictures import Pictures
from sightline.services.wire import (
    Answer,
    ChatMessage,
    ChatReply,
    ChatRequest,
    Choice,
    CriticReply,
    CriticRequest,
    DescribeReply,
    DescribeRequest,
    Logprobs,
    ModelCard,
    ModelList,
    TokenLogprob,
    TopLogprob,
    Usage,
)

V = TypeVar("V")
T = TypeVar("T", bound=TopLogprob)
_TEMPERATURE: Final = 0.1
"""Of ``/critic`` and ``/describe``, as published."""
_TOKENS: Final = 256
"""Of their replies: the published 128 end a judge that reasons before it grades."""
_ATTEMPTS: Final = 2
"""How often a model is asked for what its reply does not hold."""
REFERENCE: Final = "A reference answer, roughly ideal though it may not tell everything: "
"""How the judge is told the reference of ``/critic``."""


def judged(backend: Backend) -> Callable[[Sequence[JudgeRequest]], list[Outcome | Refused]]:
    """The work of a judge, for a batcher."""

    def run(requests: Sequence[JudgeRequest]) -> list[Outcome | Refused]:
        found: dict[int, Outcome] = {}
        backend.answer(requests, found.__setitem__)
        return [
            Refused(422, one.reply.error or "no reply") if one.reply.text is None else one
            for one in (found[place] for place in range(len(requests)))
        ]

    return run


@dataclass(frozen=True, kw_only=True)
class Desk:
    """What the routes of a judge share."""

    model: str
    batcher: Batcher[JudgeRequest, Outcome]
    pictures: Pictures
    critic: Rubric
    """Told ``question``, ``facts``, ``answer``, ``lowest`` and ``highest``."""

    async def chat(self, request: ChatRequest) -> ChatReply:
        """Answers a chat."""
        if request.model != self.model:
            raise Refused(404, f"there is no model {request.model[:100]!r} here; the model is {self.model!r}")
        limits = [one for one in (request.max_tokens, request.max_completion_tokens) if one is not None]
        if len(set(limits)) > 1:
            raise Refused(422, "max_tokens and max_completion_tokens differ; send one of them")
        if request.top_logprobs is not None and not request.logprobs:
            raise Refused(422, "top_logprobs is of logprobs: true; send both or neither")
        messages, named = _messages(request.messages)
        seed = uuid.uuid4().hex if request.seed is None else str(request.seed)
        with self.pictures.taken(named) as images:
            asked = JudgeRequest(
                id=f"{_digest([messages, [Path(one).name for one in images]])}/{seed}",
                messages=messages,
                images=images,
                temperature=request.temperature,
                max_tokens=limits[0] if limits else None,
                top_p=1.0 if request.top_p is None else request.top_p,
                likeliest=(request.top_logprobs or 0) if request.logprobs else None,
            )
            made = await self.batcher.submit(asked)
        assert made.reply.text is not None
        choice = Choice(
            message=Answer(content=made.reply.text),
            finish_reason="length" if made.reply.cut else "stop",
            logprobs=Logprobs(content=list(map(_told, made.tokens))) if request.logprobs else None,
        )
        read, said = made.prompt_tokens, made.completion_tokens
        usage = Usage(prompt_tokens=read, completion_tokens=said, total_tokens=read + said)
        name = f"chatcmpl-{uuid.uuid4().hex}"
        return ChatReply(id=name, created=int(time.time()), model=self.model, choices=[choice], usage=usage)

    async def grade(self, request: CriticRequest) -> CriticReply:
        """Grades an answer against a reference."""
        if (request.prompt is None) == (request.question is None):
            raise Refused(422, "expected either prompt or question, which hold the question")
        values = {
            "question": request.prompt if request.prompt is not None else str(request.question),
            "facts": REFERENCE + request.answer,
            "answer": request.response,
            "lowest": "0",
            "highest": "10",
        }
        score = await self.read(self.critic, values, lambda reply: read_score(reply, 0, 10))
        return CriticReply(critic="none" if score is None else int(score))

    async def read(self, rubric: Rubric, values: dict[str, str], read: Callable[[str], V | None]) -> V | None:
        """What the reply to a rubric holds; asked once more, with other random numbers, where it does not."""
        messages = rubric.messages(values)
        asked = JudgeRequest(id=_digest(messages), messages=messages, temperature=_TEMPERATURE, max_tokens=_TOKENS)
        for attempt in range(_ATTEMPTS):
            made = await self.batcher.submit(replace(asked, id=f"{asked.id}/{attempt}"))
            if (found := read(conclusion(_whole(made.reply)))) is not None:
                return found
        return None


def judge_routes(desk: Desk) -> APIRouter:
    """``/v1/chat/completions``, ``/v1/models`` and ``/critic``."""
    router, loaded = APIRouter(), int(time.time())

    @router.post("/v1/chat/completions")
    async def chat(request: ChatRequest) -> ChatReply:
        return await desk.chat(request)

    @router.get("/v1/models")
    async def models() -> ModelList:
        return ModelList(data=[ModelCard(id=desk.model, created=loaded)])

    @router.post("/critic")
    async def critic(request: CriticRequest) -> CriticReply:
        return await desk.grade(request)

    return router


def describe_routes(desk: Desk, rubric: Rubric, read: Callable[[str], str | None]) -> APIRouter:
    """Those of a judge, which is the same model, and ``/describe``."""
    router = judge_routes(desk)

    @router.post("/describe")
    async def describe(request: DescribeRequest) -> DescribeReply:
        values = {
            "question": request.prompt,
            "answer_shown": request.ground_truth,
            "answer_denied": request.response,
        }
        found = await desk.read(rubric, values, read)
        if found is None:
            raise Refused(422, "the model gave no description that can be read")
        return DescribeReply(description=found)

    return router


def _messages(messages: Sequence[ChatMessage]) -> tuple[list[dict[str, str]], list[str]]:
    """Texts of the messages, and the pictures of the last."""
    if messages[-1].role != "user":
        raise Refused(422, f"the last message is of the {messages[-1].role}, expected one of the user")
    told, pictures = [], []
    for number, message in enumerate(messages, start=1):
        if isinstance(message.content, str):
            told.append({"role": message.role, "content": message.content})
            continue
        shown = [part.image_url.url for part in message.content if part.image_url is not None]
        kinds = [part.type for part in message.content]
        whole = all((part.text is None) == (part.type == "image_url") for part in message.content)
        if not whole or kinds.count("image_url") != len(shown):
            raise Refused(422, f"message {number}: a part of type text holds text, one of type image_url image_url")
        if shown and (
            number < len(messages) or kinds != ["image_url"] * len(shown) + ["text"] * (len(kinds) - len(shown))
        ):
            raise Refused(422, f"message {number}: pictures are read before the text of the last message alone")
        told.append({"role": message.role, "content": "".join(part.text or "" for part in message.content)})
        pictures = shown
    return told, pictures


def _told(token: ToldToken) -> TokenLogprob:
    near = [_logprob(TopLogprob, text, logprob) for text, logprob in token.likeliest]
    return _logprob(TokenLogprob, token.text, token.logprob, top_logprobs=near)


def _logprob(kind: type[T], text: str, logprob: float, **more: Any) -> T:
    """Half a character has no bytes that a text could tell; JSON has no infinity, and OpenAI says -9999."""
    return kind(
        token=text, logprob=max(logprob, -9999.0), bytes=None if "\ufffd" in text else list(text.encode()), **more
    )


def _whole(reply: JudgeReply) -> str:
    """The reply; of one that was cut its whole sentences: the first half of a number is another number."""
    text = reply.text or ""
    ends = [match.end() for match in re.finditer(r"[.!?](?=\s)", text)]
    return text if not reply.cut else text[: ends[-1]] if ends else ""


def _digest(value: object) -> str:
    """Identity of what is asked: the same request draws the same random numbers, in whatever company."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()
