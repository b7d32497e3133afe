"""What pydantic finds wrong, in the words of a recipe: file, line, key, found, expected and the nearest valid key."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import ValidationError

from sightline.errors import RecipeError
from sightline.recipes.field_docs import field_docs
from sightline.recipes.rewards import kind_of
from sightline.recipes.source import KeyPath, Source, describe, shortened
from sightline.recipes.terms import TERMS

_MOST_FAULTS = 20
"""Findings that are told at once."""


def nearest(word: str, valid: Sequence[str]) -> str:
    """``Did you mean 'x'?`` followed by the valid words."""
    close = difflib.get_close_matches(word, valid, n=1, cutoff=0.5)
    guess = f"Did you mean '{close[0]}'? " if close else ""
    return f"{guess}Valid: {', '.join(valid)}."


def refusal(source: Source, error: ValidationError, root: Any, under: KeyPath = ()) -> RecipeError:
    """
    Args:
        source: that was validated.
        error: what pydantic found.
        root: dataclass of the whole.
        under: where in it the part stands that was validated.
    """
    faults = error.errors(include_url=False)
    told = [_fault(source, {**fault, "loc": (*under, *fault["loc"])}, root) for fault in faults[:_MOST_FAULTS]]
    more = [f"... and {len(faults) - _MOST_FAULTS} more."] if len(faults) > _MOST_FAULTS else []
    return RecipeError("\n".join(told + more))


def _fault(source: Source, fault: dict[str, Any], root: Any) -> str:
    """One finding of pydantic in the words of a recipe."""
    path: KeyPath = tuple(fault["loc"])
    where, dotted = source.origin(path), shortened(".".join(map(str, path)))
    if fault["type"] == "unexpected_keyword_argument":
        inside = ".".join(map(str, path[:-1]))
        scope = f" in {inside}" if inside else ""
        key = shortened(str(path[-1]))
        elsewhere = _elsewhere(key, root)
        remedy = elsewhere or nearest(key, _keys(path[:-1], root, source.values))
        return f"{where}: unknown key '{key}'{scope}. {remedy}"
    found = describe(fault["input"])
    if fault["type"] == "missing" and isinstance(path[-1], int):
        whole = ".".join(map(str, path[:-1]))
        return f"{where}: {whole}: found {found}, expected one of at least {path[-1] + 1}."
    if fault["type"] == "missing":
        meaning = field_docs(_schema_at(path[:-1], root, source.values)).get(str(path[-1]), "")
        return f"{where}: missing key '{dotted}'. Add it{': ' + meaning if meaning else '.'}"
    if fault["type"] == "literal_error":
        words = [str(value) for value in _choices(fault["ctx"]["expected"])]
        close = nearest(shortened(str(fault["input"])), words)
        return f"{where}: {dotted}: found {found}, expected one of the words. {close}"
    if fault["type"] == "term_kind":
        kind = shortened(fault["ctx"]["kind"])
        return f"{where}: {dotted}: found no kind of reward '{kind}'. {nearest(kind, list(TERMS))}"
    if fault["type"] == "value_error":  # of a __post_init__, which knows the whole section
        return ": ".join(filter(None, (where, dotted, f"{fault['ctx']['error']}.")))
    if fault["type"] == "conflict":
        return f"{where}: {dotted}: {fault['msg']}."
    return f"{where}: {dotted}: found {found}, expected {_expectation(fault)}."


_EXPECTED = {
    "string_type": "a string (quote it if it looks like a number)",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "dataclass_type": "a mapping",
}


def _expectation(fault: dict[str, Any]) -> str:
    bounds = {"greater_than": ("gt", ">"), "greater_than_equal": ("ge", ">="), "less_than": ("lt", "<")}
    bounds["less_than_equal"] = ("le", "<=")
    if fault["type"] == "string_too_short":
        return "a string that is not empty"
    if fault["type"] == "too_long":
        return f"at most {fault['ctx']['max_length']} values"
    if fault["type"] == "too_short":
        return f"at least {fault['ctx']['min_length']} of them"
    if fault["type"] in bounds:
        key, sign = bounds[fault["type"]]
        bound = fault["ctx"][key]
        return f"a value {sign} {bound if isinstance(bound, int) else format(bound, 'g')}"
    return _EXPECTED.get(fault["type"], fault["msg"].removeprefix("Input should be ").lower())


def _choices(expected: str) -> list[str]:
    """Words of pydantic's ``'a', 'b' or 'c'``."""
    return [part.strip(" '") for part in expected.replace(" or ", ", ").split(",")]


def _keys(path: KeyPath, root: Any, values: Any = None) -> list[str]:
    """Valid keys of the mapping at ``path`` of a recipe, or of a part of one."""
    return [field.name for field in dataclasses.fields(_schema_at(path, root, values))]


def _elsewhere(name: str, root: Any) -> str:
    """Where else a whole recipe has a key of this name, if it has one (``seed`` written under ``train``)."""
    parts = ("model", "data", "train", "online")
    if not set(parts) <= set(_keys((), root)):
        return ""
    sections = {"the top level": (), **{part: (part,) for part in parts}}
    found = [title for title, path in sections.items() if name in _keys(path, root)]
    return f"'{name}' is a key of {' and of '.join(found)}: move it there." if found else ""


def _schema_at(path: KeyPath, schema: Any, values: Any = None) -> Any:
    """The dataclass of the mapping at ``path`` of a recipe, or of a part of one; that of a term, and of what is named
    by its ``name``, depends on the values."""
    for key in path:
        values = _value(values, key)
        if isinstance(key, int):
            schema = _dataclasses_in(get_args(schema))[0]
        elif dataclasses.is_dataclass(schema):
            schema = _annotation(schema, key, values)
        else:  # a mapping of terms
            schema = TERMS[kind_of(key, values)]
    return schema


def _value(values: Any, key: str | int) -> Any:
    there = (isinstance(values, dict) and key in values) or (isinstance(values, list) and isinstance(key, int))
    return values[key] if there else None


def _annotation(schema: Any, key: str, value: Any) -> Any:
    """Type of a field: the dataclass in ``X | None``, of several the one that ``value`` names, the tuple type of a
    list, or as it stands."""
    annotation = schema.__pydantic_fields__[key].annotation
    inside = _dataclasses_in(get_args(annotation))
    is_list = any(argument is Ellipsis for argument in get_args(annotation))
    if len(inside) > 1:
        named = value.get("name") if isinstance(value, dict) else None
        return next(kind for kind in inside if named in get_args(kind.__pydantic_fields__["name"].annotation))
    return inside[0] if inside and not is_list else annotation


def _dataclasses_in(types: Sequence[Any]) -> list[Any]:
    return [kind for kind in types if dataclasses.is_dataclass(kind)]
