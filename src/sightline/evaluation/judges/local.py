"""A transformers model on this machine as judge, through the same engine that answers benchmarks."""

from __future__ import annotations

from collections.abc import Sequence

from sightline.evaluation.bench import JudgeReply, JudgeRequest
from sightline.evaluation.judge import OnReply, Outcome
from sightline.recipes.schema import ModelSpec, SamplingSpec
from sightline.rollouts.engine import RolloutEngine
from sightline.types import Group, Prompt


class LocalBackend:
    """Judges with a ``RolloutEngine``. A request with pictures shows them before the last message's text."""

    cached = True

    def __init__(self, engine: RolloutEngine, *, name: str, batch_size: int = 8) -> None:
        """
        Args:
            engine: Generates.
            name: Model, as written into results and part of the cache key.
            batch_size: Requests generated together.
        """
        self.engine, self.name, self.batch_size = engine, name, batch_size

    def answer(self, requests: Sequence[JudgeRequest], on_reply: OnReply) -> None:
        """See ``judge.Backend``. Another attempt draws other random numbers; at temperature 0 it changes nothing."""
        kinds: dict[tuple[float, int, int], list[int]] = {}
        for index, request in enumerate(requests):
            kinds.setdefault((request.temperature, request.max_tokens, request.attempt), []).append(index)
        for (temperature, max_tokens, attempt), indices in kinds.items():
            sampling = SamplingSpec(n=1, temperature=temperature, max_new_tokens=max_tokens, batch_size=self.batch_size)
            for start in range(0, len(indices), self.batch_size):
                some = indices[start : start + self.batch_size]
                groups = [Group(prompts=(_prompt(requests[index]),)) for index in some]
                for index, group in zip(some, self.engine.generate(groups, sampling, seed=attempt), strict=True):
                    on_reply(index, _outcome(group))


def local_judge(path: str, *, dtype: str, batch_size: int) -> LocalBackend:
    """A judge from the folder or hub name of a vision-language model."""
    from sightline.recipes.load import check_spec
    from sightline.rollouts.hf import load_engine

    spec = check_spec(ModelSpec, "judge options", path=path, dtype=dtype)
    return LocalBackend(load_engine(spec), name=path, batch_size=batch_size)


def _prompt(request: JudgeRequest) -> Prompt:
    messages = []
    for number, message in enumerate(request.messages, start=1):
        pictures = len(request.images) if number == len(request.messages) else 0
        parts = [{"type": "image"}] * pictures
        messages.append({"role": message["role"], "content": [*parts, {"type": "text", "text": message["content"]}]})
    return Prompt(id=request.id, messages=tuple(messages), images=tuple(request.images))


def _outcome(group: Group) -> Outcome:
    response = group.responses[0]
    tokens = len(response.tokens or ())
    if not response.text.strip():
        return Outcome(reply=JudgeReply(text=None, error="the reply is empty"), completion_tokens=tokens)
    reply = JudgeReply(text=response.text, cut=response.finish_reason == "length")
    return Outcome(reply=reply, completion_tokens=tokens)
