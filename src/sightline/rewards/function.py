"""A Python function as a term, called as TRL calls its reward functions."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sightline.errors import DataError, RecipeError
from sightline.recipes.terms import FunctionSpec
from sightline.rewards.terms import Failure, Value
from sightline.types import Group


@dataclass(frozen=True, kw_only=True)
class FunctionTerm:
    """``f(prompts, completions, completion_ids, images, **facts)``: lists with an entry for each answer.

    Further columns are the facts of the prompts, by their keys; None for a prompt that lacks one. A function that
    takes no ``**`` is given what it names alone.
    """

    spec: FunctionSpec
    function: Callable[..., Any]
    remote: bool = False

    def check(self, groups: Sequence[Group]) -> None:
        """What a function reads is its own affair."""

    def values(self, groups: Sequence[Group]) -> list[list[Value]]:
        flat = [(group, response) for group in groups for response in group.responses]
        if not flat:
            return [[] for _ in groups]
        found = iter(self._called(self._columns(groups), len(flat)))
        return [list(islice(found, len(group.responses))) for group in groups]

    def give_up(self) -> None:
        """It never waits."""

    def _columns(self, groups: Sequence[Group]) -> dict[str, list[Any]]:
        prompts = [group.prompts[response.prompt] for group in groups for response in group.responses]
        responses = [response for group in groups for response in group.responses]
        told = [r.text for r in responses]
        as_messages = self.spec.completions == "messages"
        keys = dict.fromkeys(key for prompt in prompts for key in prompt.facts)
        columns: dict[str, list[Any]] = {key: [prompt.facts.get(key) for prompt in prompts] for key in keys}
        return columns | {
            "prompts": [[dict(message) for message in prompt.messages] for prompt in prompts],
            "completions": [[{"role": "assistant", "content": text}] for text in told] if as_messages else told,
            "completion_ids": [None if r.tokens is None else list(r.tokens) for r in responses],
            "images": [list(prompt.images) for prompt in prompts],
        }

    def _called(self, columns: Mapping[str, list[Any]], size: int) -> list[Value]:
        parameters = inspect.signature(self.function).parameters.values()
        takes_all = any(one.kind is one.VAR_KEYWORD for one in parameters)
        named = {one.name for one in parameters}
        lacking = [
            one.name
            for one in parameters
            if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
            and one.default is one.empty
            and one.name not in columns
        ]
        if lacking:
            raise DataError(
                f"the function {self.spec.path} wants '{lacking[0]}', and no prompt has such a fact; "
                f"there are {', '.join(columns)}",
                remedy="Add it to the rows, or give the argument a default",
            )
        made = self.function(**{name: value for name, value in columns.items() if takes_all or name in named})
        if not isinstance(made, Sequence) or isinstance(made, str) or len(made) != size:
            shown = (
                f"{len(made)} values"
                if isinstance(made, Sequence) and not isinstance(made, str)
                else type(made).__name__
            )
            raise DataError(
                f"the function {self.spec.path} gave {shown} for {size} answers",
                remedy="Return a list with a number or None for each answer",
            )
        return [self._value(one) for one in made]

    def _value(self, made: object) -> Value:
        if made is None:
            return Failure(reason="it gave None")
        if isinstance(made, int | float):
            return float(made)
        raise DataError(
            f"the function {self.spec.path} gave {made!r:.60} ({type(made).__name__})",
            remedy="Return plain numbers, or None where an answer cannot be judged",
        )


def function(spec: FunctionSpec) -> FunctionTerm:
    """The function that ``module:function`` names.

    Raises:
        RecipeError: There is none, or what is there cannot be called in this way.
    """
    module, _, name = spec.path.partition(":")
    try:
        found = vars(importlib.import_module(module))[name]
    except ModuleNotFoundError as error:
        raise RecipeError(
            f"the reward function is {spec.path!r}, but {error.name!r} cannot be imported. Install it, or run where it "
            "is found."
        ) from error
    except KeyError as error:
        raise RecipeError(f"the reward function is {spec.path!r}, but {module} defines no {name}.") from error
    if not callable(found) or isinstance(found, type) or inspect.iscoroutinefunction(found):
        raise RecipeError(
            f"{spec.path} is {'a class' if isinstance(found, type) else type(found).__name__}, expected a function "
            "f(prompts, completions, **columns) that returns a list of numbers. A class with a method reward(group) "
            "is named as it is: reward: module:Name."
        )
    return FunctionTerm(spec=spec, function=found)
