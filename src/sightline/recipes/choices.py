"""What a key may hold where that is one of a few words, read from the types of the fields."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from sightline.recipes.field_docs import field_docs


def notes(kind: type, named: Mapping[str, Sequence[str]] | None = None) -> dict[str, str]:
    """What each field of a dataclass means, and its choices on a line of their own.

    Args:
        kind: the dataclass.
        named: choices that its types do not tell, by field.

    >>> from sightline.recipes.schema import TrainSpec
    >>> notes(TrainSpec)["mixed_precision"].splitlines()[-1]
    'One of: no, bf16.'
    """
    docs = field_docs(kind)
    types, known = hints(kind), dict(named or {})
    told = {name: _told(types.get(name, Any), known.get(name)) for name in {**types, **known}}
    return {name: "\n".join(filter(None, (docs.get(name), words))) for name, words in told.items()}


def _told(hint: Any, named: Sequence[str] | None) -> str:
    several = get_origin(hint) in (tuple, list)
    words = named or choices(get_args(hint)[0] if several else hint)
    return f"{'Any' if several else 'One'} of: {', '.join(words)}." if len(words) > 1 else ""


def hints(kind: type) -> Mapping[str, Any]:
    """The type of each field."""
    known = get_type_hints(kind, include_extras=True)
    return {field.name: known[field.name] for field in dataclasses.fields(kind)}


def choices(hint: Any) -> list[str]:
    """The words that a type allows, as they are written in YAML; empty where it allows anything else too."""
    if hint is bool:
        return ["true", "false"]
    if get_origin(hint) is Literal:
        return [str(word) for word in get_args(hint)]
    if get_origin(hint) is Annotated:
        return choices(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        parts = [["null"] if part is type(None) else choices(part) for part in get_args(hint)]
        words = list(dict.fromkeys(functools.reduce(operator.add, parts)))
        return words if all(parts) and words != ["null"] else []
    return []


def kinds(hint: Any) -> list[type]:
    """The dataclasses that a value of a type may be."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return [hint]
    return [kind for part in get_args(hint) if part is not Literal for kind in kinds(part)]


def named_kinds(hint: Any) -> dict[str, list[str]]:
    """Where a value is one of several dataclasses: the field that says which, and its words."""
    found: dict[str, list[str]] = {}
    for kind in kinds(hint):
        for name, own in hints(kind).items():
            if get_origin(own) is Literal and len(get_args(own)) == 1:
                found.setdefault(name, []).extend(choices(own))
    return {name: words for name, words in found.items() if len(words) > 1}


def dotted_keys(kind: type) -> list[str]:
    """Every key of a recipe as an override writes it: ``train.learning_rate``, ``data.train.0.path``.

    >>> from sightline.recipes.schema import Recipe
    >>> [key for key in dotted_keys(Recipe) if key.startswith("model.lora.r")]
    ['model.lora.r', 'model.lora.rslora']
    """
    found: list[str] = []
    for name, hint in hints(kind).items():
        inside = [] if any(get_origin(part) in (dict, Mapping) for part in (hint, *get_args(hint))) else kinds(hint)
        several = any(get_origin(part) is tuple for part in (hint, *get_args(hint)))
        below = [key for one in inside for key in dotted_keys(one)]
        found += [f"{name}.0.{key}" if several else f"{name}.{key}" for key in below] or [name]
    return list(dict.fromkeys(found))
