"""What a service takes, keeps and waits for at most. Imports no web framework."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Annotated

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from sightline.errors import RecipeError
from sightline.recipes.load import nearest

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
_MEGA = 1 << 20

Count = Annotated[int, Field(ge=1, le=1 << 40)]
Seconds = Annotated[float, Field(gt=0, le=1e6)]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Bounds:
    """Limits of a service. What is beyond one is refused with the status that stands behind it, never cut."""

    batch: Count = 8
    """Requests that are worked on together."""
    company: Annotated[float, Field(ge=0, le=10)] = 0.01
    """Seconds that a request waits for others to be worked on with it."""
    queue: Count = 64
    """Requests that wait; one more is answered 429."""
    seconds: Seconds = 120.0
    """Of a request, its time in the queue included; then it is answered 504."""
    upload: Seconds = 30.0
    """Until the whole body is there (408)."""
    body: Count = 32 * _MEGA
    """Bytes of a body (413)."""
    held: Count = 256 * _MEGA
    """Bytes of all bodies that are being received or worked on (429)."""
    connections: Count = 1000
    """Open ones (503)."""
    pictures: Count = 16
    """Of a request (422)."""
    picture: Count = 16 * _MEGA
    """Bytes of a picture (422)."""
    pixels: Count = 40_000_000
    """Of a picture (422)."""


def read_bounds(options: Sequence[str]) -> Bounds:
    """Bounds from ``name=value`` texts.

    >>> read_bounds(["queue=8"]).queue
    8

    Raises:
        RecipeError: An unknown name, or a value that cannot be meant.
    """
    names = [one.name for one in fields(Bounds)]
    given: dict[str, str] = {}
    for option in options:
        name, equals, value = option.partition("=")
        if name not in names:
            raise RecipeError(f"--limit {option}: there is no limit {name!r}. {nearest(name, names)}")
        if not equals:
            raise RecipeError(f"--limit {option}: there is no '='. Write --limit {name}=NUMBER.")
        given[name] = value
    try:
        return TypeAdapter(Bounds).validate_python(given)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise RecipeError(f"--limit {name}={given[name]}: {first['msg']}. Give another number.") from error
