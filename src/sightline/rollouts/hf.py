"""Rollouts on the policy itself, through its transformers model: no second copy of the weights."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sightline.data.render import Renderer
from sightline.errors import RecipeError
from sightline.models.decoding import decoding
from sightline.models.limits import Limits
from sightline.models.load import load_policy
from sightline.models.policy import Policy
from sightline.models.rope import steady_length
from sightline.recipes.schema import ModelSpec, SamplingSpec
from sightline.rendered import RenderedGroup
from sightline.rollouts.engine import (
    FirstWord,
    Progress,
    ToldAnswer,
    ToldToken,
    check_one_prompt,
    check_room,
    same_pictures_together,
)
from sightline.rollouts.first_words import FirstWords
from sightline.rollouts.refill import Sample, Sampler
from sightline.types import Group, Response

PLACEHOLDER_KEY = re.compile(r"(image|video|audio|vision|vision_start|vision_end|boi|eoi)_token_(id|index)")
"""Entries of a model config that name multimodal special ids."""


class HFEngine:
    """A ``RolloutEngine`` on transformers, exact and without padding.

    Prompts with the same pictures are brought together and computed once each, their pictures and common
    beginnings once for all; the answers branch from there (``models/branches.py``), and waiting prompts take the
    places of finished ones (``refill.py``). Ids that stand for pictures are never sampled. Every answer has its own
    stream of random numbers, from the seed, the id of its prompt and its number.

    >>> HFEngine(policy).generate(groups, SamplingSpec(n=8, temperature=1.0), seed=0)  # doctest: +SKIP
    """

    def __init__(self, policy: Policy, renderer: Renderer | None = None) -> None:
        """
        Args:
            policy: samples with the weights and adapters that it has at each call.
            renderer: to share its cache of pictures; None: one of its own.
        """
        self.policy, self.longest = policy, longest_row(policy)
        self.renderer = renderer or Renderer(policy.processor, policy.family, limits=Limits.of(policy.config))
        self.tokenizer: Any = self.renderer.tokenizer
        self.forbidden = placeholder_ids(policy)
        # what ends the answers of data ends a sample, whatever the generation config says
        self.ends = sorted({*end_ids(policy), self.renderer.encoder.end_id})

    def generate(
        self, groups: Sequence[Group], sampling: SamplingSpec, *, seed: int, on_progress: Progress | None = None
    ) -> list[Group]:
        """See ``RolloutEngine.generate``. The policy's modes are left as they were."""
        sampled = self._sampled(groups, sampling, seed, on_progress=on_progress)
        return [self._answered(group, some, sampling) for group, some in zip(groups, sampled, strict=True)]

    def told(self, groups: Sequence[Group], sampling: SamplingSpec, *, seed: int, likeliest: int) -> list[ToldAnswer]:
        """See ``AskedEngine.told``."""
        sampled = self._sampled(groups, replace(sampling, n=1), seed, likeliest=likeliest)
        return [(self._response(one), self._told(one)) for (one,) in sampled]

    def _sampled(
        self,
        groups: Sequence[Group],
        sampling: SamplingSpec,
        seed: int,
        *,
        likeliest: int = 0,
        on_progress: Progress | None = None,
    ) -> list[list[Sample]]:
        for group in groups:
            check_one_prompt(group)
        order = same_pictures_together(groups)
        asked = [replace(groups[index], responses=(), edges=()) for index in order]
        answered: dict[int, list[Sample]] = {}
        with decoding(self.policy):
            for finished in self._sampler(sampling, likeliest).run(asked, self._reader(sampling), seed):
                answered |= {order[place]: samples for place, samples in finished.items()}
                if on_progress is not None:
                    on_progress(len(answered), len(groups))
        return [answered[index] for index in range(len(groups))]

    def stream(self, group: Group, sampling: SamplingSpec, *, seed: int, on_text: Callable[[str], None]) -> Response:
        """One answer to a group's prompt, its text told as it grows: the same as ``generate`` gives with ``n`` 1.

        Raises:
            DataError: a picture that cannot be read, or a prompt longer than the model's context.
        """
        one, asked = replace(sampling, n=1), [replace(group, responses=(), edges=())]
        growing = _Growing(self.tokenizer, on_text)
        with decoding(self.policy):
            (finished,) = self._sampler(one).run(asked, self._reader(one), seed, growing.add)
        response = self._response(finished[0][0])
        growing.end(response.text)
        return response

    def first_words(self, groups: Sequence[Group], words: Sequence[str]) -> list[FirstWord]:
        """How likely the answer to each group's prompt begins with each of ``words``; see ``rollouts.first_words``."""
        return FirstWords(self.policy, self.renderer).of(groups, words)

    def read(self, group: Group) -> tuple[int, ...]:
        """See ``ReadEngine.read``."""
        return self.renderer.render(replace(group, responses=(), edges=())).prompts[0].tokens

    def update(self, version: int) -> None:
        """It is the policy: there is nothing to bring."""

    def close(self) -> None:
        """It holds nothing outside."""

    def _sampler(self, sampling: SamplingSpec, likeliest: int = 0) -> Sampler:
        return Sampler(self.policy, sampling, forbidden=self.forbidden, ends=self.ends, likeliest=likeliest)

    def _reader(self, sampling: SamplingSpec) -> Callable[[Group], RenderedGroup]:
        def read(group: Group) -> RenderedGroup:
            rendered = self.renderer.render(group)
            check_room(rendered, sampling, self.longest)
            return rendered

        return read

    def _answered(self, group: Group, samples: Sequence[Sample], sampling: SamplingSpec) -> Group:
        responses = tuple(map(self._response, samples))
        return replace(group, responses=responses * (sampling.n // len(responses)), edges=())

    def _response(self, sample: Sample) -> Response:
        return Response(
            text=self.tokenizer.decode(sample.tokens, skip_special_tokens=True).strip(),
            tokens=tuple(sample.tokens),
            rollout_logprobs=tuple(sample.logprobs),
            finish_reason="stop" if sample.tokens[-1] in self.ends else "length",
        )

    def _told(self, sample: Sample) -> tuple[ToldToken, ...]:
        spelled = self.tokenizer.decode
        return tuple(
            ToldToken(
                text=spelled([token]), logprob=logprob, likeliest=tuple((spelled([id]), value) for id, value in near)
            )
            for token, logprob, near in zip(sample.tokens, sample.logprobs, sample.likeliest, strict=True)
        )


def load_engine(spec: ModelSpec, device: str | None = None, *, processor_of: str | None = None) -> HFEngine:
    """The engine of a model that is only asked.

    Args:
        spec: Which model.
        device: ``cpu``, ``cuda``, ``cuda:1``, ...; None: the GPU where there is one.
        processor_of: Folder whose processor is taken; None: the adapter's own, or the model's.

    Raises:
        RecipeError: no model at ``spec.path``, or no such device.
        UnsupportedError: a model family that Sightline does not have.
    """
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch without that kind of device
        first = str(error).strip().splitlines()[0]
        raise RecipeError(f"device {place!r} cannot be used ({first}). Write cpu, cuda or cuda:NUMBER") from error
    asked = replace(spec, layout="rows")  # every family has it, and the engine lays out nothing
    return HFEngine(load_policy(asked, trainable=False, processor_of=processor_of).to(place))


class _Growing:
    """Tells the text of one answer piece by piece; half a character waits for its other half."""

    def __init__(self, tokenizer: Any, on_text: Callable[[str], None]) -> None:
        self._tokenizer, self._on_text = tokenizer, on_text
        self._tokens: list[int] = []
        self._told = ""

    def add(self, tokens: Tensor) -> None:
        """The next token [1]."""
        self._tokens += tokens.tolist()
        text = self._tokenizer.decode(self._tokens, skip_special_tokens=True).lstrip()
        whole = text.rstrip()  # white space at the end is told with what follows, if anything does
        if not whole.endswith("\ufffd") and len(whole) > len(self._told):
            self._on_text(whole[len(self._told) :])
            self._told = whole

    def end(self, text: str) -> None:
        """Tells what the whole answer has beyond that: half a character where it was cut."""
        if len(text) > len(self._told):
            self._on_text(text[len(self._told) :])


def longest_row(policy: Policy) -> int:
    """Most tokens of a prompt with its answer: the context, and no more than leaves all rows of a call as they are."""
    return min(Limits.of(policy.config).context, steady_length(policy.config) or sys.maxsize)


def placeholder_ids(policy: Policy) -> list[int]:
    """Ids that stand for pictures, videos and their borders: they can never be part of an answer."""
    config = policy.config.to_dict()
    named = {value for key, value in config.items() if PLACEHOLDER_KEY.fullmatch(key) and value is not None}
    processor = policy.processor
    own = {processor.image_token_id, policy.family.placeholder(processor), *processor.image_token_ids}
    vocabulary = policy.base.get_output_embeddings().weight.shape[0]  # what lies behind it cannot be written anyway
    return sorted(token for token in named | own if token < vocabulary)


def unread_settings(policy: Policy) -> dict[str, Any]:
    """What the model's generation config asks for and this engine does not do: all of it but the ids of tokens.

    Sampling is as :class:`SamplingSpec` says, and penalties are not applied: log-probabilities are the policy's own.
    """
    given = policy.base.generation_config.to_diff_dict()
    told = {name: value for name, value in given.items() if not name.endswith("_token_id") and name[0] != "_"}
    plain = (str, int, float, bool, list)
    return {
        name: value if isinstance(value, plain) else str(value)
        for name, value in told.items()
        if name not in ("transformers_version", "use_cache", "return_dict_in_generate") and value is not None
        if not name.startswith("output_")  # what else ``generate`` would return
    }


def not_applied(policy: Policy) -> str | None:
    """:func:`unread_settings` for people; None: there are none."""
    told = ", ".join(f"{name} {value}" for name, value in sorted(unread_settings(policy).items()))
    return f"Not applied of the model's generation_config: {told}." if told else None


def end_ids(policy: Policy) -> list[int]:
    """Ids that end an answer: those of the generation config, and the tokenizer's."""
    ends = policy.base.generation_config.eos_token_id
    listed = ends if isinstance(ends, list) else [] if ends is None else [ends]
    return sorted({*listed, policy.processor.tokenizer.eos_token_id})
