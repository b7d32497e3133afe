"""Answers of a language model that sees no pictures: a judge of text on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sightline.errors import DataError
from sightline.models.control import control_tokens
from sightline.models.text import TextModel, load_text_model
from sightline.ops.sampling import draw, sampling_probabilities
from sightline.recipes.schema import ModelSpec, SamplingSpec
from sightline.rollouts.engine import FirstWord, Progress, ToldAnswer, ToldToken, check_finite
from sightline.rollouts.first_words import spellings
from sightline.rollouts.refill import uniform_numbers
from sightline.types import Group, Prompt, Response


class TextEngine:
    """A ``RolloutEngine`` of one answer each on a causal language model; prompts have text alone.

    >>> load_text_engine(ModelSpec(path="models/judge")).generate(groups, SamplingSpec(), seed=0)  # doctest: +SKIP
    """

    def __init__(self, model: TextModel, *, name: str) -> None:
        self.model, self.name = model, name
        self._control = control_tokens(model.tokenizer)

    def generate(
        self, groups: Sequence[Group], sampling: SamplingSpec, *, seed: int, on_progress: Progress | None = None
    ) -> list[Group]:
        """See ``RolloutEngine.generate``; ``rollout_logprobs`` are left out.

        Raises:
            DataError: A prompt shows pictures, holds a control token, or is too long for the model.
        """
        told = self._all(groups, sampling, seed, None, on_progress)
        return [replace(group, responses=(one,), edges=()) for group, (one, _) in zip(groups, told, strict=True)]

    def told(self, groups: Sequence[Group], sampling: SamplingSpec, *, seed: int, likeliest: int) -> list[ToldAnswer]:
        """See ``AskedEngine.told``.

        Raises:
            DataError: As ``generate``.
        """
        return self._all(groups, sampling, seed, likeliest, None)

    def _all(
        self,
        groups: Sequence[Group],
        sampling: SamplingSpec,
        seed: int,
        likeliest: int | None,
        on_progress: Progress | None,
    ) -> list[ToldAnswer]:
        """``likeliest`` None: nothing is told of tokens."""
        answered: list[ToldAnswer] = []
        for start in range(0, len(groups), sampling.batch_size):
            batch = groups[start : start + sampling.batch_size]
            prompts = [self._encoded(group, sampling) for group in batch]
            answered += self._answer(prompts, batch, sampling, seed, likeliest)
            if on_progress is not None:
                on_progress(len(answered), len(groups))
        return answered

    def first_words(self, groups: Sequence[Group], words: Sequence[str]) -> list[FirstWord]:
        """See ``HFEngine.first_words``.

        Raises:
            DataError: As ``generate``.
            RecipeError: A word takes more than one token.
        """
        one = SamplingSpec(max_new_tokens=1)
        found = list[FirstWord]()
        for group in groups:
            logprobs = self.model.start([self._encoded(group, one)]).logits().log_softmax(-1)[0]
            ids = [spellings(self.model.tokenizer, word, logprobs.shape[0], name=self.name) for word in words]
            told = {word: float(logprobs[list(some)].exp().sum()) for word, some in zip(words, ids, strict=True)}
            check_finite(told.values())
            text = self.model.tokenizer.decode([int(logprobs.argmax())]).strip()
            found.append(FirstWord(text=text, probabilities=told))
        return found

    def read(self, group: Group) -> tuple[int, ...]:
        """See ``ReadEngine.read``."""
        return tuple(self._encoded(group, SamplingSpec(max_new_tokens=1)))

    def _encoded(self, group: Group, sampling: SamplingSpec) -> list[int]:
        prompt = group.prompts[0]
        if prompt.images:
            raise DataError(
                "this model sees no pictures, and the prompt shows some",
                source=self.name,
                remedy="Take a vision-language model",
            )
        texts = [message["content"] for message in _messages(prompt)]
        found = next((token for token in self._control if any(token in text for text in texts)), None)
        if found is not None:
            raise DataError(
                f"prompt {group.id!r} contains {found!r}, which is no text to the tokenizer",
                source=self.name,
                remedy="Remove it, or spell it otherwise",
            )
        ids = self.model.encode(_messages(prompt))
        if len(ids) + sampling.max_new_tokens > self.model.longest:
            raise DataError(
                f"prompt {group.id!r} has {len(ids)} tokens; with {sampling.max_new_tokens} new ones it exceeds the "
                f"model's {self.model.longest}",
                source=self.name,
                remedy="Take a model that reads more",
            )
        return ids

    def _answer(
        self,
        prompts: Sequence[list[int]],
        groups: Sequence[Group],
        sampling: SamplingSpec,
        seed: int,
        likeliest: int | None,
    ) -> list[ToldAnswer]:
        uniform = uniform_numbers(groups, sampling, 1, seed)
        decoding, ends = self.model.start(prompts), set(self.model.ends)
        rows: list[list[int]] = [[] for _ in prompts]
        told: list[list[ToldToken]] = [[] for _ in prompts]
        going = set(range(len(prompts)))
        for index in range(sampling.max_new_tokens):
            logits = decoding.logits()
            check_finite(logits.logsumexp(-1).tolist())
            if sampling.temperature == 0:
                tokens = logits.argmax(-1)
            else:
                kept = sampling_probabilities(logits, sampling.temperature, sampling.top_k, sampling.top_p)
                tokens = draw(kept, uniform[:, index].to(logits.device))
            for row in sorted(going):
                rows[row].append(int(tokens[row]))
                if likeliest is not None:
                    told[row].append(self._told(logits[row], rows[row][-1], likeliest))
            going = {row for row in going if rows[row][-1] not in ends}
            if not going:
                break
            decoding.extend(tokens)
        return [(self._response(row, ends), tuple(some)) for row, some in zip(rows, told, strict=True)]

    def _told(self, logits: Tensor, token: int, likeliest: int) -> ToldToken:
        """Of logits [V]."""
        logprobs, spelled = logits.log_softmax(-1), self.model.tokenizer.decode
        near = logprobs.topk(min(likeliest, len(logprobs)))
        pairs = zip(near.indices.tolist(), near.values.tolist(), strict=True)
        return ToldToken(
            text=spelled([token]), logprob=float(logprobs[token]), likeliest=tuple((spelled([i]), p) for i, p in pairs)
        )

    def _response(self, tokens: list[int], ends: set[int]) -> Response:
        text = self.model.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        return Response(text=text, tokens=tuple(tokens), finish_reason="stop" if tokens[-1] in ends else "length")


def load_text_engine(spec: ModelSpec) -> TextEngine:
    """The engine of a language model, on the GPU where there is one.

    Raises:
        RecipeError: There is no model at ``spec.path``, or it has no chat template.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return TextEngine(load_text_model(spec, device), name=spec.path)


def _messages(prompt: Prompt) -> list[dict[str, str]]:
    return [{"role": message["role"], "content": _text(message["content"])} for message in prompt.messages]


def _text(content: str | Sequence[dict[str, str]]) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content if part["type"] == "text")
