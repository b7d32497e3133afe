"""A term of a reward: what it is given and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from sightline.errors import DataError
from sightline.types import Group, Prompt, Response


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An answer that a term could not judge. Never a zero: what failed must not look like a bad answer."""

    reason: str


Value = float | Failure


class Term(Protocol):
    """Judges the answers of groups. Sees prompts, pictures, facts and all answers, so that it may compare them."""

    @property
    def remote(self) -> bool:
        """Whether it waits for something outside this process, so that other terms may work meanwhile."""
        ...

    def check(self, groups: Sequence[Group]) -> None:
        """Raises:
        DataError: A prompt lacks what the term reads.
        """
        ...

    def values(self, groups: Sequence[Group]) -> list[list[Value]]:
        """For each group the value of each of its answers, higher is better.

        Raises:
            DataError: A prompt lacks what the term reads, and no other try would help.
        """
        ...

    def give_up(self) -> None:
        """Called from another thread where the work is given up: ``values`` waits for nothing more."""
        ...


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A term that judges each answer by itself."""

    judge: Callable[[Prompt, Response], Value]
    reads: Callable[[Prompt], object]
    """Reads what ``judge`` needs of a prompt, and raises ``DataError`` where it is not there."""
    remote: bool = False

    def check(self, groups: Sequence[Group]) -> None:
        for group in groups:
            for prompt in group.prompts:
                within(group, self.reads, prompt)

    def values(self, groups: Sequence[Group]) -> list[list[Value]]:
        return [
            [within(group, self.judge, group.prompts[response.prompt], response) for response in group.responses]
            for group in groups
        ]

    def give_up(self) -> None:
        """It never waits."""


def within(group: Group, work: Callable[..., Any], *arguments: Any) -> Any:
    """``work(*arguments)``, its data errors with the place of the group."""
    try:
        return work(*arguments)
    except DataError as error:
        if error.source or not group.source:
            raise
        raise replace_source(error, group.source) from error


def replace_source(error: DataError, source: str) -> DataError:
    return type(error)(error.found, source=source, remedy=error.remedy)


def fact(prompt: Prompt, key: str, expected: str) -> Any:
    """A fact of a prompt.

    Args:
        prompt: The prompt.
        key: Of ``Prompt.facts``.
        expected: What stands there, for the message.

    Raises:
        DataError: There is none.
    """
    if prompt.facts.get(key) is None:
        raise DataError(
            f"prompt {prompt.id!r} has no fact {key!r}; it has {', '.join(map(str, prompt.facts)) or 'none'}",
            remedy=f"Add it ({expected}), name another key under 'fact', or say under 'where' which prompts are judged",
        )
    return prompt.facts[key]


def wrong_fact(prompt: Prompt, key: str, expected: str) -> DataError:
    """The error of a fact that is something else than it should be."""
    return DataError(
        f"fact {key!r} of prompt {prompt.id!r} is {prompt.facts[key]!r:.100}", remedy=f"Expected {expected}"
    )


def answers_alone(group: Group, keep: Sequence[int]) -> Group:
    """The group with some of its answers, in order, without edges."""
    return replace(group, responses=tuple(group.responses[index] for index in keep), edges=())
