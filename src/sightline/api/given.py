"""What a call was given, looked at before anything is done with it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sightline.errors import DataError, RecipeError
from sightline.recipes.schema import Recipe
from sightline.types import Group


def check_word(value: Any, name: str, words: Sequence[str]) -> None:
    """
    Raises:
        RecipeError: it is none of the words.
    """
    if value not in words:
        raise RecipeError(
            f"{name} is {value!r:.40}, expected one of {', '.join(filter(None, words))}. Write one of these."
        )


def check_kind(value: Any, name: str, kind: type) -> None:
    """
    Raises:
        RecipeError: it is of another class, and not None.
    """
    if not isinstance(value, kind | None):
        made = f"sl.{kind.__name__}"
        raise RecipeError(f"{name} is {value!r:.40}, expected {made}. Write {name}={made}(...), or leave it out.")


def check_least(value: Any, name: str, least: float) -> None:
    """
    Raises:
        RecipeError: it is no finite number, or a smaller one.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < least:
        raise RecipeError(f"{name} is {value!r:.40}, expected a number of at least {least:g}. Correct it.")


def check_path(value: Any, name: str) -> None:
    """
    Raises:
        RecipeError: it is no path.
    """
    if not isinstance(value, str | Path):
        raise RecipeError(f"{name} is {value!r:.60}, expected a path. Give a text or a pathlib.Path.")


def path_of(value: Any, name: str) -> Path:
    """
    Raises:
        RecipeError: it is no path.
    """
    check_path(value, name)
    return Path(value)


def path_to_write(value: Any, name: str) -> Path:
    """
    Raises:
        RecipeError: it is no path, or a folder, where a file is to be written.
    """
    path = path_of(value, name)
    if path.is_dir():
        raise RecipeError(f"{name} is {str(value)!r:.60}, a folder, expected a file to write. Name one in it.")
    return path


def check_answers(answers: Mapping[Any, Any]) -> None:
    """
    Raises:
        DataError: an id or an answer is no text.
    """
    for id, text in answers.items():
        if not isinstance(id, str) or not isinstance(text, str):
            found = f"the answer to {id!r:.60} is {text!r:.60}, expected a text to the id of a question"
            raise DataError(found, source="answers", remedy="Write an empty text where there is none")


def groups_of(given: Any) -> list[Group]:
    """
    Raises:
        DataError: they are no Groups.
    """
    single = isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable)
    listed: list[Any] = [given] if single else list(given)
    if wrong := [one for one in listed if not isinstance(one, Group)]:
        remedy = "Read rows first: sl.read_rows(rows)"
        raise DataError(f"found {wrong[0]!r:.60}, expected Groups", source="groups", remedy=remedy)
    return listed


def check_recipe(value: Any) -> None:
    """
    Raises:
        RecipeError: it is none.
    """
    if not isinstance(value, Recipe):
        raise RecipeError(f"found {value!r:.60}, expected a recipe. Give its file, or what sl.load_recipe returns.")
