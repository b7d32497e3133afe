"""Rollouts on the policy itself, through its transformers model: no second copy of the weights."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sightline.data.render import Renderer
from sightline.errors import RecipeError
from sightline.models.branches import Branches, decoding, prefill, step
from sightline.models.limits import Limits
from sightline.models.load import load_policy
from sightline.models.policy import Policy
from sightline.models.rope import steady_length
from sightline.models.row_branches import RowBranches, prefill_rows, step_rows
from sightline.ops.sampling import draw, sampling_probabilities
from sightline.recipes.schema import ModelSpec, SamplingSpec
from sightline.rendered import RenderedGroup
from sightline.rollouts.engine import FirstWord, Progress, check_one_prompt, check_room, same_pictures_together
from sightline.rollouts.first_words import FirstWords
from sightline.types import Group, Response

PLACEHOLDER_KEY = re.compile(r"(image|video|audio|vision|vision_start|vision_end|boi|eoi)_token_(id|index)")
"""Entries of a model config that name multimodal special ids."""
COMPACT_BELOW = 0.75
"""Finished answers leave the batch once the others fill no more than this share of it."""


class HFEngine:
    """A ``RolloutEngine`` on transformers, exact and without padding.

    Prompts with the same pictures are brought together and computed once each, their pictures and common
    beginnings once for all; the answers branch from there (``models/branches.py``). Ids that stand for
    pictures are never sampled. Every answer has its own stream of random numbers, from the seed, the id of
    its prompt and its number.

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
        for group in groups:
            check_one_prompt(group)
        order = same_pictures_together(groups)
        answered: dict[int, Group] = {}
        with decoding(self.policy):
            for start in range(0, len(order), sampling.batch_size):
                indices = order[start : start + sampling.batch_size]
                batch = [replace(groups[index], responses=(), edges=()) for index in indices]
                answered.update(zip(indices, self._answer(batch, sampling, seed), strict=True))
                if on_progress is not None:
                    on_progress(len(answered), len(groups))
        return [answered[index] for index in range(len(groups))]

    def stream(self, group: Group, sampling: SamplingSpec, *, seed: int, on_text: Callable[[str], None]) -> Response:
        """One answer to a group's prompt, its text told as it grows: the same as ``generate`` gives with ``n`` 1.

        Raises:
            DataError: a picture that cannot be read, or a prompt longer than the model's context.
        """
        one, asked = replace(sampling, n=1), [replace(group, responses=(), edges=())]
        with decoding(self.policy):
            rendered = [self.renderer.render(asked[0])]
            self._check_length(rendered, one)
            growing = _Growing(self.tokenizer, on_text)
            samples = self._sample(rendered, one, 1, uniform_numbers(asked, one, 1, seed), growing.add)
        length = int(samples.lengths[0])
        return self._response(samples.tokens[0].tolist()[:length], samples.logprobs[0].tolist()[:length])

    def first_words(self, groups: Sequence[Group], words: Sequence[str]) -> list[FirstWord]:
        """How likely the answer to each group's prompt begins with each of ``words``; see ``rollouts.first_words``."""
        return FirstWords(self.policy, self.renderer).of(groups, words)

    def read(self, group: Group) -> tuple[int, ...]:
        """See ``CheckedEngine.read``."""
        return self.renderer.render(replace(group, responses=(), edges=())).prompts[0].tokens

    def update(self, version: int) -> None:
        """It is the policy: there is nothing to bring."""

    def close(self) -> None:
        """It holds nothing outside."""

    def _answer(self, groups: Sequence[Group], sampling: SamplingSpec, seed: int) -> list[Group]:
        rendered = [self.renderer.render(group) for group in groups]
        self._check_length(rendered, sampling)
        # greedy answers to one prompt are equal: one is made
        n = sampling.n if sampling.temperature > 0 else 1
        samples = self._sample(rendered, sampling, n, uniform_numbers(groups, sampling, n, seed))
        tokens, logprobs = samples.tokens.tolist(), samples.logprobs.tolist()
        lengths = samples.lengths.tolist()
        responses = [self._response(tokens[row][:length], logprobs[row][:length]) for row, length in enumerate(lengths)]
        copies = sampling.n // n
        return [
            replace(group, responses=tuple(responses[index * n : (index + 1) * n]) * copies)
            for index, group in enumerate(groups)
        ]

    def _response(self, tokens: list[int], logprobs: list[float]) -> Response:
        return Response(
            text=self.tokenizer.decode(tokens, skip_special_tokens=True).strip(),
            tokens=tuple(tokens),
            rollout_logprobs=tuple(logprobs),
            finish_reason="stop" if tokens[-1] in self.ends else "length",
        )

    def _sample(
        self,
        groups: Sequence[RenderedGroup],
        sampling: SamplingSpec,
        n: int,
        uniform: Tensor,
        on_tokens: Callable[[Tensor], None] | None = None,
    ) -> _Samples:
        """The decoding loop. ``uniform`` [rows, max_new_tokens], rows prompt-major; ``on_tokens`` gets the next token
        of every row that is left."""
        device = self.policy.device
        forbidden, ends = (torch.tensor(ids, dtype=torch.long, device=device) for ids in (self.forbidden, self.ends))
        uniform = uniform.to(device)
        samples = _Samples.empty(uniform.shape[0], sampling.max_new_tokens, device)
        branches, logits, positions = self.prefill(groups, n)
        logits, positions = logits.repeat_interleave(n, 0), positions.repeat_interleave(n, -1)
        row = torch.arange(uniform.shape[0], device=device)
        for index in range(sampling.max_new_tokens):
            tokens, logprobs = _next(logits.float(), uniform[row, index], sampling, forbidden)
            ended = samples.note(row, index, tokens, logprobs, ends)
            if on_tokens is not None:
                on_tokens(tokens)
            if index + 1 == sampling.max_new_tokens or bool(ended.all()):
                break
            kept = compact(branches, ended)
            if kept is not None:
                row, tokens, positions = row[kept], tokens[kept], positions[..., kept]
            logits = self.step(branches, tokens, positions)
            positions = positions + 1
        return samples

    def prefill(self, groups: Sequence[RenderedGroup], n: int) -> tuple[Branches | RowBranches, Tensor, Tensor]:
        """The prompts, each computed once, inside ``decoding``; see ``models.branches.prefill``."""
        return (prefill if self.policy.family.branches else prefill_rows)(self.policy, groups, n)

    def step(self, branches: Branches | RowBranches, tokens: Tensor, positions: Tensor) -> Tensor:
        """One more token for every branch; see ``models.branches.step``."""
        if isinstance(branches, Branches):
            return step(self.policy, branches, tokens, positions)
        return step_rows(self.policy, branches, tokens, positions)

    def _check_length(self, groups: Sequence[RenderedGroup], sampling: SamplingSpec) -> None:
        for group in groups:
            check_room(group, sampling, self.longest)


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


@dataclass(frozen=True, eq=False)
class _Samples:
    """Answers as they grow, by row."""

    tokens: Tensor
    """[rows, max_new_tokens]; what stands behind the length means nothing."""
    logprobs: Tensor
    lengths: Tensor
    """[rows]: tokens of the answer, ``max_new_tokens`` as long as it has not ended."""

    @classmethod
    def empty(cls, rows: int, limit: int, device: torch.device) -> _Samples:
        return cls(
            torch.zeros(rows, limit, dtype=torch.long, device=device),
            torch.zeros(rows, limit, device=device),
            torch.full((rows,), limit, device=device),
        )

    def note(self, row: Tensor, index: int, tokens: Tensor, logprobs: Tensor, ends: Tensor) -> Tensor:
        """Writes token ``index`` of rows ``row``; which of them have ended, now or before."""
        self.tokens[row, index], self.logprobs[row, index] = tokens, logprobs
        here = torch.where(torch.isin(tokens, ends), index + 1, self.tokens.shape[1])
        self.lengths[row] = torch.minimum(self.lengths[row], here)
        return self.lengths[row] <= index + 1


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


def _next(logits: Tensor, uniform: Tensor, sampling: SamplingSpec, forbidden: Tensor) -> tuple[Tensor, Tensor]:
    """Next token [R] of each row and its log-probability under the policy itself, from logits [R,V]."""
    allowed = logits.index_fill(1, forbidden, -torch.inf)
    if sampling.temperature == 0:
        tokens = allowed.argmax(-1)
    else:
        tokens = draw(sampling_probabilities(allowed, sampling.temperature, sampling.top_k, sampling.top_p), uniform)
    return tokens, logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(-1)


def compact(branches: Branches | RowBranches, ended: Tensor) -> Tensor | None:
    """Lets answers [R] that have ended leave the branches; the rows that stay, None if all do.

    Every prompt keeps as many answers as the one with the most has left, ended ones filling up.
    """
    going = ~ended.view(branches.prompts, branches.n)
    left = going.sum(1)
    most = int(left.max())
    prompts = left.nonzero()[:, 0]
    if prompts.shape[0] * most > COMPACT_BELOW * ended.shape[0]:
        return None
    answers = going[prompts].to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
    kept = (prompts[:, None] * branches.n + answers).flatten()
    branches.select(prompts, answers)
    return kept


def uniform_numbers(groups: Sequence[Group], sampling: SamplingSpec, n: int, seed: int) -> Tensor:
    """[P * n, max_new_tokens] in [0,1): the random numbers of each answer, its own stream."""
    rows = []
    for group in groups:
        for sample in range(n):
            digest = hashlib.sha256(f"{seed}/{group.id}/{sample}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
            rows.append(torch.rand(sampling.max_new_tokens, generator=generator))
    return torch.stack(rows)
