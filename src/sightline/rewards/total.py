"""The reward as a weighted sum of named terms."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from sightline.errors import DataError, ServiceError, SightlineError
from sightline.rewards.terms import Failure, Term, Value, answers_alone, replace_source
from sightline.types import Group, Prompt, Response

_log = logging.getLogger(__name__)
T = TypeVar("T")

TRIES: Final = 2
"""A term that raises is asked group by group, each so often at most; then its answers have no reward. Services and
judges try again by themselves, with growing pauses."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A named term of the sum."""

    name: str
    term: Term
    weight: float
    where: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Prompts that it judges; empty: all."""

    def judges(self, prompt: Prompt) -> bool:
        """Whether it judges answers to this prompt.

        Raises:
            DataError: The prompt lacks a key of ``where``.
        """
        for key, values in self.where.items():
            if key not in prompt.facts:
                raise DataError(
                    f"prompt {prompt.id!r} has no fact {key!r}, by which {self.name} chooses its prompts; it has "
                    f"{', '.join(map(str, prompt.facts)) or 'none'}",
                    remedy="Add it to every prompt, or correct 'where' of the term",
                )
            if _text(prompt.facts[key]) not in values:
                return False
        return True


Values = list[dict[int, Value]]
"""For each group the value of each answer that was judged, by its number."""


class WeightedSum:
    """``reward = sum of weight * value`` over the terms that judge the prompt. Is a ``rewards.base.BatchedReward``.

    ``Response.rewards`` keeps each value before its weight. An answer that a term could not judge has no reward, and
    ``Response.reward_error`` says why.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = tuple(parts)

    def check(self, groups: Sequence[Group]) -> None:
        """Looks for all facts before there is an answer.

        Raises:
            DataError: A prompt lacks what a term reads, or no term judges it.
        """
        for group in groups:
            for prompt in group.prompts:
                self._check_judged(group, prompt)
        for part in self.parts:
            asked = [_with_prompts(group, part) for group in groups]
            _named(part, lambda term, some: term.check(some), [group for group in asked if group.prompts])

    def reward(self, group: Group) -> Group:
        """See ``rewards.base.Reward``."""
        return self.rewards([group])[0]

    def rewards(self, groups: Sequence[Group]) -> list[Group]:
        """See ``rewards.base.BatchedReward``. Services are asked while other terms work."""
        self.check(groups)
        remote = [part for part in self.parts if part.term.remote]
        found: dict[str, Values] = {}
        with ThreadPoolExecutor(max(1, len(remote))) as pool:
            waiting = {part.name: pool.submit(_values, part, groups) for part in remote}
            try:
                found |= {part.name: _values(part, groups) for part in self.parts if not part.term.remote}
                found |= {name: future.result() for name, future in waiting.items()}
            except BaseException:  # wrong data, an interrupt: nobody waits for a service that is away
                for part in remote:
                    part.term.give_up()
                raise
        made = [
            replace(
                group,
                responses=tuple(
                    self._total(response, {part.name: found[part.name][place].get(index) for part in self.parts})
                    for index, response in enumerate(group.responses)
                ),
            )
            for place, group in enumerate(groups)
        ]
        _tell(made)
        return made

    def give_up(self) -> None:
        """Called from another thread: no term waits for anything more."""
        for part in self.parts:
            part.term.give_up()

    def _total(self, response: Response, values: Mapping[str, Value | None]) -> Response:
        if response.finish_reason == "error":
            return replace(response, reward=None, rewards={}, reward_error="there is no answer")
        told = {name: value for name, value in values.items() if isinstance(value, int | float)}
        failed = [f"{name}: {value.reason}" for name, value in values.items() if isinstance(value, Failure)]
        if failed:
            return replace(response, reward=None, rewards=told, reward_error="; ".join(failed))
        total = sum(part.weight * told[part.name] for part in self.parts if part.name in told)
        return replace(response, reward=float(total), rewards=told, reward_error=None)

    def _check_judged(self, group: Group, prompt: Prompt) -> None:
        try:
            judged = [part.judges(prompt) for part in self.parts]  # each, so that a missing key is always told
            if not any(judged):
                remedy = "Correct 'where' of the terms, leave the prompt out, or add a term for it"
                raise DataError(f"no term of the reward judges prompt {prompt.id!r}", remedy=remedy)
        except DataError as error:
            raise replace_source(error, error.source or group.source) from error


def _values(part: Part, groups: Sequence[Group]) -> Values:
    """What a part says about the answers that it judges."""
    numbers = [_judged(part, group) for group in groups]
    asked = [answers_alone(group, kept) for group, kept in zip(groups, numbers, strict=True)]
    found = _asked(part, asked)
    return [dict(zip(kept, values, strict=True)) for kept, values in zip(numbers, found, strict=True)]


def _judged(part: Part, group: Group) -> list[int]:
    judges = [part.judges(prompt) for prompt in group.prompts]
    return [i for i, one in enumerate(group.responses) if judges[one.prompt] and one.finish_reason != "error"]


def _asked(part: Part, groups: Sequence[Group]) -> list[list[Value]]:
    """The values of all groups at once; where that fails, of each by itself."""
    some = [group for group in groups if group.responses]
    made = iter(_tried(part, some) if some else [])
    return [next(made) if group.responses else [] for group in groups]


def _tried(part: Part, groups: Sequence[Group]) -> list[list[Value]]:
    error: Exception | None = None
    for _ in range(TRIES if len(groups) == 1 else 1):
        try:
            return _named(part, lambda term, some: _checked(part, some, term.values(some)), groups)
        except ServiceError as away:  # it was tried again already
            return [[Failure(reason=str(away))] * len(group.responses) for group in groups]
        except SightlineError:
            raise  # the prompts lack what the term reads: no other try would help
        except Exception as failure:  # a term is somebody else's program: its failure must not end the run
            error = failure
    if len(groups) > 1:
        return [_tried(part, [group])[0] for group in groups]
    return [[Failure(reason=f"{type(error).__name__}: {error}")] * len(groups[0].responses)]


def _checked(part: Part, groups: Sequence[Group], values: list[list[Value]]) -> list[list[Value]]:
    if [len(group.responses) for group in groups] != list(map(len, values)):
        raise DataError(f"the term gave {sum(map(len, values))} values", remedy="One for each answer is wanted")
    for group, own in zip(groups, values, strict=True):
        odd = [value for value in own if not isinstance(value, Failure) and not math.isfinite(value)]
        if odd:
            remedy = "Give None where an answer cannot be judged"
            raise DataError(f"the term gave {odd[0]}", source=group.source or group.id, remedy=remedy)
    return values


def _named(part: Part, work: Callable[[Term, Sequence[Group]], T], groups: Sequence[Group]) -> T:
    """``work``, its data errors with the name of the part."""
    try:
        return work(part.term, groups)
    except ServiceError:
        raise
    except DataError as error:
        raise DataError(f"reward {part.name}: {error.found}", source=error.source, remedy=error.remedy) from error


def _with_prompts(group: Group, part: Part) -> Group:
    """The group with the prompts alone that the part judges."""
    return replace(
        group, prompts=tuple(prompt for prompt in group.prompts if part.judges(prompt)), responses=(), edges=()
    )


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _tell(groups: Sequence[Group]) -> None:
    errors = [
        (g.id, r.reward_error) for g in groups for r in g.responses if r.reward_error and r.finish_reason != "error"
    ]
    if errors:
        total = sum(len(group.responses) for group in groups)
        _log.warning("%d of %d answers have no reward; first, of %s: %s", len(errors), total, *errors[0])
