"""A transformers model on this machine as judge: vision-language models through the engine that answers
benchmarks, language models (any chat model) for rubrics of text."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Final

from sightline.errors import DataError, RecipeError
from sightline.evaluation.bench import JudgeReply, JudgeRequest
from sightline.evaluation.judges.base import OnReply, Outcome
from sightline.evaluation.weights import fingerprint_files
from sightline.recipes.schema import ModelSpec, SamplingSpec
from sightline.rollouts.engine import AskedEngine, ToldAnswer, ToldToken
from sightline.types import Group, Prompt, Response

MOST_TOKENS: Final = 2048
"""Of a reply where the protocol sets no limit: room to think, and an end to a model that does not stop."""


class LocalBackend:
    """Judges with an ``AskedEngine``. A request with pictures shows them before the last message's text."""

    cached = True

    def __init__(
        self,
        load: Callable[[], AskedEngine],
        *,
        name: str,
        batch_size: int = 8,
        identity: str = "",
        longest: int = MOST_TOKENS,
    ) -> None:
        """
        Args:
            load: Gives what is asked; called when the first request comes.
            name: Model, as written into results and part of the cache key.
            batch_size: Requests generated together.
            identity: See ``judges.base.Backend``.
            longest: Most tokens of a reply to a request that sets no limit.
        """
        self.load, self.name, self.batch_size, self.identity = load, name, batch_size, identity
        self.longest = longest

    def answer(self, requests: Sequence[JudgeRequest], on_reply: OnReply) -> None:
        """See ``base.Backend``. Another attempt draws other random numbers; at temperature 0 it changes nothing."""
        kinds: dict[tuple[SamplingSpec, int, int | None], list[int]] = {}
        chosen: dict[tuple[str, ...], list[int]] = {}
        for index, request in enumerate(requests):
            if request.choices:
                chosen.setdefault(tuple(request.choices), []).append(index)
                continue
            kinds.setdefault((self._sampling(request), request.attempt, request.likeliest), []).append(index)
        for words, indices in chosen.items():  # all at once: questions about the same pictures share them
            groups = [Group(prompts=(_prompt(requests[index]),)) for index in indices]
            for index, outcome in zip(indices, self._first_words(groups, words), strict=True):
                on_reply(index, outcome)
        for kind, indices in kinds.items():
            for start in range(0, len(indices), self.batch_size):
                some = indices[start : start + self.batch_size]
                groups = [Group(prompts=(_prompt(requests[index]),)) for index in some]
                for index, outcome in zip(some, self._generate(groups, *kind), strict=True):
                    on_reply(index, outcome)

    def give_up(self) -> None:
        """It waits for nobody."""

    def _sampling(self, request: JudgeRequest) -> SamplingSpec:
        return SamplingSpec(
            n=1,
            temperature=request.temperature,
            top_p=request.top_p,
            max_new_tokens=request.max_tokens or self.longest,
            batch_size=self.batch_size,
        )

    def _generate(
        self, groups: Sequence[Group], sampling: SamplingSpec, seed: int, likeliest: int | None
    ) -> list[Outcome]:
        """One that the engine refuses (too long, or pictures that the model does not see) fails alone."""
        engine = self.load()
        try:
            found: list[ToldAnswer]
            if likeliest is None:
                found = [(group.responses[0], ()) for group in engine.generate(groups, sampling, seed=seed)]
            else:
                found = engine.told(groups, sampling, seed=seed, likeliest=likeliest)
            read = [len(engine.read(group)) for group in groups]
            return [_outcome(*one, read=count) for one, count in zip(found, read, strict=True)]
        except DataError as error:
            if len(groups) > 1:
                return [outcome for group in groups for outcome in self._generate([group], sampling, seed, likeliest)]
            return [Outcome(reply=JudgeReply(text=None, error=str(error), final=True))]

    def _first_words(self, groups: Sequence[Group], words: Sequence[str]) -> list[Outcome]:
        """As ``_generate``; halves are tried first, for what is asked alone shares nothing."""
        try:
            told = self.load().first_words(groups, words)
        except DataError as error:
            if half := len(groups) // 2:
                return [*self._first_words(groups[:half], words), *self._first_words(groups[half:], words)]
            return [Outcome(reply=JudgeReply(text=None, error=str(error), final=True))]
        return [Outcome(reply=JudgeReply(text=one.text, probabilities=one.probabilities)) for one in told]


def local_judge(path: str, *, dtype: str, batch_size: int) -> LocalBackend:
    """A judge from a vision-language model (folder, hub name, run directory, adapter), or from a language model with a
    chat template.

    Raises:
        RecipeError: There is no such model.
    """
    from sightline.models.locate import located
    from sightline.models.text import context_length, sees_pictures
    from sightline.recipes.load import check_spec

    spec = located(check_spec(ModelSpec, "judge options", path=path, dtype=dtype))
    sees_pictures(spec.path)  # that there is no model is said now, not when the answers are there
    identity = " ".join([dtype, *(fingerprint_files(folder) for folder in (spec.path, spec.adapter) if folder)])
    return LocalBackend(
        functools.partial(_engine, spec),
        name=path,
        batch_size=batch_size,
        identity=identity,
        longest=min(MOST_TOKENS, context_length(spec.path) // 2),  # the other half is for what it is asked
    )


def own_judge(spec: ModelSpec) -> LocalBackend:
    """A vision-language model as judge, loaded as it is trained: with its adapter, type, pictures and template."""

    def load() -> AskedEngine:
        from sightline.rollouts.hf import load_engine

        return load_engine(spec)

    return LocalBackend(functools.cache(load), name=spec.path)


def check_words(path: str, words: Sequence[str]) -> None:
    """Looks, before it is loaded, whether a model can be asked for the probabilities of words, with a picture.

    Raises:
        RecipeError: There is no such model, it sees no pictures, or no single token spells a word.
    """
    from sightline.models.locate import located
    from sightline.models.text import sees_pictures, tokenizer_of
    from sightline.rollouts.first_words import spellings

    spec = located(ModelSpec(path=path))
    if not sees_pictures(spec.path):
        raise RecipeError(f"{path} sees no pictures, expected a vision-language model. Name another one.")
    tokenizer = tokenizer_of(spec.path)
    for word in words:
        spellings(tokenizer, word, len(tokenizer), name=path)


def forget_local_judges() -> None:
    """Gives back the memory of the model that was asked last; the next request loads it again."""
    _engine.cache_clear()


@functools.lru_cache(maxsize=1)
def _engine(spec: ModelSpec) -> AskedEngine:
    """Loaded once for all benchmarks of a command."""
    from sightline.models.text import sees_pictures
    from sightline.rollouts.hf import load_engine
    from sightline.rollouts.text import load_text_engine

    return load_engine(spec) if sees_pictures(spec.path) else load_text_engine(spec)


def _prompt(request: JudgeRequest) -> Prompt:
    messages = []
    for number, message in enumerate(request.messages, start=1):
        pictures = len(request.images) if number == len(request.messages) else 0
        parts = [{"type": "image"}] * pictures
        messages.append({"role": message["role"], "content": [*parts, {"type": "text", "text": message["content"]}]})
    return Prompt(id=request.id, messages=tuple(messages), images=tuple(request.images))


def _outcome(response: Response, told: tuple[ToldToken, ...], *, read: int) -> Outcome:
    reply = JudgeReply(text=response.text, cut=response.finish_reason == "length")
    if not response.text.strip() and not told:  # where tokens are told of, they are what is asked for
        reply = JudgeReply(text=None, error="the reply is empty", final=True)
    return Outcome(reply=reply, prompt_tokens=read, completion_tokens=len(response.tokens or ()), tokens=told)
