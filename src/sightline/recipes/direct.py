"""Parts of recipes that are made by a call: what is wrong with it is said as it is of a recipe."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import ValidationError

from sightline.errors import RecipeError
from sightline.recipes.refusals import refusal
from sightline.recipes.source import Source

Spec = TypeVar("Spec")


def said_plainly(kind: type[Spec]) -> type[Spec]:
    """A dataclass of pydantic whose call raises ``RecipeError``, a line for each fault. Reading a recipe makes no such
    call: what is wrong there is said with its place.

    Raises:
        RecipeError: of the call: a value without a name, an unknown key, a value of the wrong type or out of its range.
    """
    checked: Callable[..., None] = kind.__init__

    @functools.wraps(checked)
    def made(self: Spec, *given: Any, **values: Any) -> None:
        if given:  # pydantic takes them in the order of the fields, whatever the signature says
            found = f"sl.{kind.__name__}: found {given[0]!r:.60} without a name, expected name=value"
            raise RecipeError(f"{found}. Write {next(iter(inspect.signature(kind).parameters))}=..., or another name.")
        try:
            checked(self, **values)
        except ValidationError as error:
            raise refusal(Source(values, {(): f"sl.{kind.__name__}"}), error, kind) from None

    kind.__init__ = made  # type: ignore[method-assign, assignment]
    return kind
