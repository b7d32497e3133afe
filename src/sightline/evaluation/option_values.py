"""Values of a benchmark's options, of the wanted type or an error that names the option."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sightline.errors import DataError


def text_option(bench: str, options: Mapping[str, Any], name: str, default: str, known: Sequence[str] = ()) -> str:
    """A text.

    Args:
        bench: For the error.
        options: As given.
        name: Of the option.
        default: Where it is not given.
        known: What it may be; empty: anything.

    Raises:
        DataError: It is empty, no text, or none of ``known``.
    """
    value = options.get(name, default)
    wanted = f"Choose {' or '.join(known)}" if known else "Give a text"
    if not isinstance(value, str) or not value or (known and value not in known):
        raise DataError(f"{name} is {value!r}", source=bench, remedy=wanted)
    return value


def number_option(
    bench: str, options: Mapping[str, Any], name: str, default: float, *, least: float, most: float
) -> float:
    """A number from ``least`` to ``most``.

    Raises:
        DataError: It is none.
    """
    value = options.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise DataError(f"{name} is {value!r}", source=bench, remedy=f"Give a number from {least:g} to {most:g}")
    return value


def count_option(bench: str, options: Mapping[str, Any], name: str, default: int) -> int:
    """A whole number above 0.

    Raises:
        DataError: It is none.
    """
    value = options.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise DataError(f"{name} is {value!r}", source=bench, remedy="Give a whole number, at least 1")
    return value


def names_option(bench: str, options: Mapping[str, Any], name: str) -> list[str] | None:
    """Names as a list or as a text with commas; None where the option is not given.

    Raises:
        DataError: Something else, or no name.
    """
    value = options.get(name)
    if value is None:
        return None
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(isinstance(one, str) and one.strip() for one in names):
        raise DataError(f"{name} is {value!r}", source=bench, remedy="Give names, separated by commas")
    return [one.strip() for one in names]
