"""What samples answers: the contract that every rollout engine keeps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from sightline.errors import DataError, DivergenceError
from sightline.recipes.schema import SamplingSpec
from sightline.rendered import RenderedGroup
from sightline.types import Group, Response

Progress = Callable[[int, int], None]
"""Called with (prompts done, prompts in all)."""


@dataclass(frozen=True, kw_only=True)
class FirstWord:
    """The next-token distribution at the end of a prompt, as far as it was asked for."""

    text: str
    """The likeliest token."""
    probabilities: dict[str, float]
    """Of each word that was asked for, over all tokens that spell it."""


@dataclass(frozen=True, kw_only=True)
class ToldToken:
    """A token of an answer, as the model itself rates it: temperature 1, whole vocabulary."""

    text: str
    logprob: float
    likeliest: tuple[tuple[str, float], ...]
    """The likeliest tokens at its place with their log-probabilities, the likeliest first."""


ToldAnswer = tuple[Response, tuple[ToldToken, ...]]
"""An answer and each of its tokens, the end of turn included where it was reached."""


class RolloutEngine(Protocol):
    """Samples answers from a policy."""

    def generate(
        self, groups: Sequence[Group], sampling: SamplingSpec, *, seed: int, on_progress: Progress | None = None
    ) -> list[Group]:
        """Answers to the prompt of each group.

        The answers to a prompt depend on ``seed``, on the id of the prompt and on the policy, and not on
        what else is in the call, its order or its batches.

        Args:
            groups: each with exactly one prompt. Its responses and edges are ignored.
            sampling: how many, and how.
            seed: any integer; another one gives other answers.
            on_progress: told as prompts are finished.

        Returns:
            As many groups, in the same order, with the same prompts and ``sampling.n`` responses. Each has
            ``text``; ``tokens`` as sampled, end of turn included where it was reached; ``rollout_logprobs``,
            the log-probability of each token under the policy itself (temperature 1, whole vocabulary), which
            is what ``Policy`` scores; and a ``finish_reason``, ``stop`` or ``length``. No edges.

        Raises:
            DataError: a group with more or less than one prompt, or one that cannot be rendered.
        """
        ...


class ReadEngine(RolloutEngine, Protocol):
    """An engine that tells how it reads a prompt."""

    def read(self, group: Group) -> tuple[int, ...]:
        """Token ids of the group's prompt as the engine computes it, every picture at its full length."""
        ...


class AskedEngine(ReadEngine, Protocol):
    """An engine that also tells how likely tokens were: what a local judge is asked with."""

    def first_words(self, groups: Sequence[Group], words: Sequence[str]) -> list[FirstWord]:
        """One for each group: the likeliest first token of the answer to its prompt, and the probabilities of words.

        Raises:
            RecipeError: a word that no single token spells.
            DataError: a group that cannot be rendered.
        """
        ...

    def told(self, groups: Sequence[Group], sampling: SamplingSpec, *, seed: int, likeliest: int) -> list[ToldAnswer]:
        """One answer to the prompt of each group, as ``generate`` gives it with ``n`` 1, and its tokens.

        Args:
            groups: as of ``generate``.
            sampling: as of ``generate``.
            seed: as of ``generate``.
            likeliest: tokens that are told of at each place, >= 0.

        Raises:
            DataError: as of ``generate``.
        """
        ...


class CheckedEngine(ReadEngine, Protocol):
    """An engine whose reading can be checked against the trainer (``check``)."""

    def update(self, version: int) -> None:
        """From now on answers come from the policy as it is now, which is called ``version``. Every rank calls."""
        ...

    def close(self) -> None:
        """Gives back what it holds outside of this process. It is not asked again."""
        ...


def check_one_prompt(group: Group) -> None:
    """
    Raises:
        DataError: a group with more or less than one prompt.
    """
    if len(group.prompts) != 1:
        raise DataError(
            f"group {group.id!r} has {len(group.prompts)} prompts, and answers are sampled for one",
            source=group.source,
            remedy="Make a group of each prompt",
        )


def check_room(
    rendered: RenderedGroup, sampling: SamplingSpec, limit: int, key: str = "sampling.max_new_tokens"
) -> None:
    """Whether a prompt and its longest answer, as ``key`` of the recipe says, fit into so many tokens.

    Raises:
        DataError: they do not.
    """
    group, length = rendered.group, len(rendered.prompts[0].tokens)
    if length + sampling.max_new_tokens > limit:
        raise DataError(
            f"prompt {group.id!r} has {length} tokens; with {sampling.max_new_tokens} new ones it exceeds the model's "
            f"{limit}",
            source=group.source,
            remedy=f"Lower {key} or model.image_size, or leave the row out",
        )


def check_finite(numbers: Iterable[float]) -> None:
    """Whether what a model says of tokens are numbers: of others any token would do.

    Raises:
        DivergenceError: they are not.
    """
    wrong = next((number for number in numbers if not math.isfinite(number)), None)
    if wrong is not None:
        raise DivergenceError(
            f"the model gives {wrong} where log-probabilities were expected: its weights are damaged, diverged in "
            "training, or overflow in model.dtype. Look at the training that made them, load the checkpoint before, "
            "or set dtype: float32."
        )


def same_pictures_together(groups: Sequence[Group]) -> list[int]:
    """Indices of the groups, those with the same pictures next to each other: each is computed once in a batch."""
    first: dict[tuple[str, ...], int] = {}
    for index, group in enumerate(groups):
        first.setdefault(group.prompts[0].images, index)
    return sorted(range(len(groups)), key=lambda index: first[groups[index].prompts[0].images])
