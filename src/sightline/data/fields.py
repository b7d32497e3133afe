"""What each field of a Group file may hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, get_args

from sightline.data.readers.rows import is_finite
from sightline.errors import DataError
from sightline.recipes.load import nearest
from sightline.types import Edge, EdgeKind, FinishReason, Group, Prompt, Response

_Test = Callable[[Any], bool]
COLUMNS = ("ref_logprobs", "old_logprobs", "advantages", "returns", "values", "dependence")
"""Keys of ``Response.columns``: what is computed for a round before its first step."""


def _exactly(kind: type) -> _Test:
    return lambda value: type(value) is kind


def _list_of(kind: type) -> _Test:
    return lambda value: type(value) is list and all(type(item) is kind for item in value)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and is_finite(value)


def _is_weight(value: Any) -> bool:
    return _is_number(value) and value >= 0


def _are_weights(value: Any) -> bool:
    return type(value) is list and all(map(_is_weight, value))


def _is_index(value: Any) -> bool:
    return type(value) is int and value >= 0


def _are_tokens(value: Any) -> bool:
    return type(value) is list and bool(value) and all(map(_is_index, value))


def _are_numbers(value: Any) -> bool:
    return type(value) is list and all(map(_is_number, value))


def _are_named_numbers(value: Any) -> bool:
    return type(value) is dict and all(map(_is_number, value.values()))


def _are_columns(value: Any) -> bool:
    return type(value) is dict and all(key in COLUMNS and _are_numbers(numbers) for key, numbers in value.items())


_OBJECTS = (_list_of(dict), "a list of objects")
_STRING = (_exactly(str), "a string")
_INDEX = (_is_index, "a whole number, 0 or more")
_NUMBER = (_is_number, "a finite number")
_NUMBERS = (_are_numbers, "a list of finite numbers")
_FIELDS: dict[type, dict[str, tuple[_Test, str]]] = {
    Group: {"prompts": _OBJECTS, "responses": _OBJECTS, "edges": _OBJECTS, "source": _STRING},
    Prompt: {
        "id": (lambda value: type(value) is str and bool(value), "a string that is not empty"),
        "messages": _OBJECTS,
        "images": (_list_of(str), "a list of paths"),
        "facts": (_exactly(dict), "an object"),
    },
    Response: {
        "text": _STRING,
        "prompt": _INDEX,
        "tokens": (_are_tokens, "a list of whole numbers, at least one, none below 0"),
        "trained": (_list_of(bool), "a list of true and false"),
        "weights": (_are_weights, "a list of finite numbers, each 0 or more"),
        "rollout_logprobs": _NUMBERS,
        "reward": _NUMBER,
        "rewards": (_are_named_numbers, "an object of finite numbers"),
        "reward_error": _STRING,
        "label": (_exactly(bool), "true or false"),
        "finish_reason": (lambda value: value in get_args(FinishReason), f"one of {get_args(FinishReason)}"),
        "distorted": _INDEX,
        "policy_version": _INDEX,
        "weight_versions": (_are_tokens, "a list of whole numbers, at least one, none below 0"),
        "greedy": (_exactly(bool), "true or false"),
        "columns": (_are_columns, f"an object of lists of finite numbers, with keys of {', '.join(COLUMNS)}"),
    },
    Edge: {
        "winner": _INDEX,
        "loser": _INDEX,
        "kind": (lambda value: value in get_args(EdgeKind), f"one of {get_args(EdgeKind)}"),
        "weight": (_is_weight, "a finite number, 0 or more"),
    },
}
_REQUIRED = {Group: ("prompts",), Prompt: ("id", "messages"), Response: ("text",), Edge: ("winner", "loser")}


def checked(row: Any, kind: type, where: str) -> dict[str, Any]:
    """The fields of ``row``, each known and of its type; lists become tuples, null counts as absent."""
    place = f"{where}." if where else ""
    if type(row) is not dict:
        raise DataError(f"{where or 'the row'} is {shown(row)}, expected an object")
    valid = _FIELDS[kind]
    for key, value in row.items():
        if key not in valid:
            raise DataError(f"unknown key '{place}{key}'", remedy=nearest(key, list(valid)))
        holds, expected = valid[key]
        if not holds(value) and not (value is None and key not in _REQUIRED[kind]):
            raise DataError(f"'{place}{key}' is {shown(value)}, expected {expected}")
    for key in _REQUIRED[kind]:
        if key not in row:
            raise DataError(f"missing key '{place}{key}'", remedy=f"Add it; found {', '.join(row) or 'no keys'}")
    return {key: tuple(value) if type(value) is list else value for key, value in row.items() if value is not None}


def shown(value: Any) -> str:
    """A value as an error message names it."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=repr)
    except (TypeError, ValueError):  # keys that are no text, or a list in itself
        text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
