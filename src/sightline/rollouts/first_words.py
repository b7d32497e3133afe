"""How likely a model is to begin its answer with one of a few words: a verdict without sampling.

Questions about the same pictures are one tree: pictures and common beginnings are computed once for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from sightline.data.render import Renderer
from sightline.errors import RecipeError
from sightline.models.decoding import decoding
from sightline.models.layout import lay_out
from sightline.models.policy import Policy
from sightline.rendered import RenderedGroup, RenderedResponse
from sightline.rollouts.engine import FirstWord, check_finite, check_one_prompt
from sightline.types import Group, LayoutName, Prompt, Response

PASS_TOKENS: Final = 8192
"""Most tokens of one forward pass, common beginnings counted once; one question is always allowed."""


def spellings(tokenizer: Any, word: str, size: int, *, name: str = "") -> tuple[int, ...]:
    """The tokens that spell ``word`` by themselves, in whatever case and with or without a blank: ``Yes``, `` yes``.

    Args:
        tokenizer: Of transformers.
        word: Letters of ASCII, in lower case.
        size: Of the model's distribution: tokens beyond it have no probability.
        name: Of the model, for the error.

    Raises:
        RecipeError: There is none: the word takes several tokens, whose probability the next one does not tell.
    """
    special = set(tokenizer.all_special_ids)
    # a tokenizer writes letters of ASCII as they are, so that only few tokens need be decoded
    near = (id for token, id in tokenizer.get_vocab().items() if word in token.lower() and id < size)
    found = sorted(id for id in near if id not in special and tokenizer.decode([id]).strip().lower() == word)
    if not found:
        pieces = tokenizer.tokenize(word)
        raise RecipeError(
            f"{name or 'the model'} has no token that spells {word!r} (its tokenizer writes it as {pieces}), expected "
            "one, whose probability is the verdict. Take another model, or ask this one for replies in words."
        )
    return tuple(found)


class FirstWords:
    """Asks a policy; see :class:`FirstWord`. Does nothing at random, and knows nothing of what else is asked."""

    def __init__(self, policy: Policy, renderer: Renderer, *, pass_tokens: int = PASS_TOKENS) -> None:
        self._policy, self._renderer, self._budget = policy, renderer, pass_tokens
        self._layout: LayoutName = "tree" if "tree" in policy.family.layouts else "rows"

    def of(self, groups: Sequence[Group], words: Sequence[str]) -> list[FirstWord]:
        """One for each group, whose prompt is the question; its answers are not read.

        Raises:
            RecipeError: A word takes more than one token.
            DataError: A group of several prompts, a picture that cannot be read, or a prompt longer than the model's
                context.
        """
        for group in groups:
            check_one_prompt(group)
        policy = self._policy
        size = policy.base.get_output_embeddings().weight.shape[0]
        ids = [spellings(self._renderer.tokenizer, word, size, name=policy.config.name_or_path) for word in words]
        together: dict[tuple[str, ...], list[int]] = {}
        for index, group in enumerate(groups):
            together.setdefault(group.prompts[0].images, []).append(index)
        found: dict[int, FirstWord] = {}
        trees = [tree for indices in together.values() for tree in self._trees(groups, indices)]
        with decoding(policy):
            for some in _filled([tree.tokens for tree in trees], self._budget):
                indices = [index for place in some for index in trees[place].indices]
                told = self._pass([trees[place].group for place in some], words, ids)
                found.update(zip(indices, told, strict=True))
        return [found[index] for index in range(len(groups))]

    def _trees(self, groups: Sequence[Group], indices: Sequence[int]) -> Iterator[_Tree]:
        """Questions about the same pictures, as many together as a pass takes."""
        prompts = tuple(_bare(groups[index].prompts[0]) for index in indices)
        whole = self._renderer.render(Group(prompts=prompts, source=groups[indices[0]].source))
        tokens = [prompt.tokens for prompt in whole.prompts]
        shared = _shared(tokens)
        for members in _filled([len(one) - shared for one in tokens], self._budget - shared):
            own = sum(len(tokens[member]) - shared for member in members)
            yield _Tree(_asked(whole, members), [indices[member] for member in members], shared + own)

    def _pass(
        self, groups: Sequence[RenderedGroup], words: Sequence[str], ids: Sequence[tuple[int, ...]]
    ) -> list[FirstWord]:
        policy = self._policy
        batch = lay_out(groups, self._layout, policy.family, policy.config).to(policy.device)
        logits = policy.logits(policy.hidden(batch)[batch.source])
        logprobs = logits.float().log_softmax(-1)
        told = torch.stack([_summed(logprobs, some) for some in ids], dim=-1).tolist()
        check_finite(number for row in told for number in row)
        texts = [self._renderer.tokenizer.decode([token]).strip() for token in logprobs.argmax(-1).tolist()]
        return [
            FirstWord(text=text, probabilities=dict(zip(words, row, strict=True)))
            for text, row in zip(texts, told, strict=True)
        ]


def _summed(logprobs: Tensor, ids: Sequence[int]) -> Tensor:
    """[Q]: probability of all of ``ids`` together, from [Q,V]."""
    return logprobs[:, torch.tensor(ids, device=logprobs.device)].exp().sum(-1)


class _Tree(NamedTuple):
    group: RenderedGroup
    indices: list[int]
    """Which questions its answers belong to."""
    tokens: int
    """What it brings into a pass."""


def _filled(costs: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Places that go through the model together, in order; what is above the budget goes alone."""
    members, total = list[int](), 0
    for place, cost in enumerate(costs):
        if members and total + cost > budget:
            yield members
            members, total = [], 0
        members.append(place)
        total += cost
    if members:
        yield members


def _shared(prompts: Sequence[tuple[int, ...]]) -> int:
    """Length of the common beginning."""
    first, last = min(prompts), max(prompts)
    return next((n for n, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first))


def _asked(whole: RenderedGroup, members: Sequence[int]) -> RenderedGroup:
    """Some of the prompts, each with an answer of one token that nothing reads: its place is where an answer begins."""
    count = range(len(members))
    return replace(
        whole,
        group=Group(
            prompts=tuple(whole.group.prompts[index] for index in members),
            responses=tuple(Response(text="", prompt=place) for place in count),
        ),
        prompts=tuple(replace(whole.prompts[index], trained=()) for index in members),
        responses=tuple(RenderedResponse(prompt=place, tokens=(0,), trained=(True,)) for place in count),
    )


def _bare(prompt: Prompt) -> Prompt:
    """Without weights of earlier turns, which nothing trains here."""
    messages = tuple({key: value for key, value in message.items() if key != "weight"} for message in prompt.messages)
    return replace(prompt, messages=messages)
