"""A recipe as YAML with what each key means above it, and what it may be: from docstrings and types of the fields."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from sightline.recipes.choices import hints, named_kinds, notes
from sightline.recipes.source import Dumper


def describe_recipe(recipe: Any, algorithm_notes: Mapping[str, str]) -> str:
    """YAML that :func:`~sightline.recipes.load.load_recipe` reads back, with comments.

    Args:
        recipe: A resolved recipe, of a training or of a loop.
        algorithm_notes: What each field of its algorithm means, from :func:`~sightline.recipes.choices.notes`.
    """
    return "\n".join(_described(recipe, notes(type(recipe)), 0, {"algorithm": algorithm_notes})) + "\n"


def _described(
    values: Any, docs: Mapping[str, str], indent: int, inside: Mapping[str, Mapping[str, str]]
) -> Iterator[str]:
    """Lines of one mapping; ``inside`` documents mappings that are plain dictionaries."""
    pad = " " * indent
    types = hints(type(values)) if dataclasses.is_dataclass(values) else {}
    names = list(types or values)
    for name in names:
        value = vars(values)[name] if dataclasses.is_dataclass(values) else values[name]
        for text in docs.get(name, "").splitlines():
            yield from (f"{pad}# {line}" for line in textwrap.wrap(text, 96 - indent))
        if dataclasses.is_dataclass(value) or (name in inside and value):
            named = named_kinds(types.get(name))
            nested = notes(type(value), named) if dataclasses.is_dataclass(value) else inside[name]
            yield f"{pad}{name}:"
            yield from _described(value, nested, indent + 2, {})
        elif isinstance(value, dict) and value and all(map(dataclasses.is_dataclass, value.values())):
            yield f"{pad}{name}:"
            for key, item in value.items():
                yield f"{pad}  {key}:"
                yield from _described(item, notes(type(item), named_kinds(types.get(name))), indent + 4, {})
        elif isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
            yield f"{pad}{name}:"
            for item in value:
                yield f"{pad}  -"
                yield from _described(item, notes(type(item), named_kinds(types.get(name))), indent + 4, {})
        else:
            text = yaml.dump({name: value}, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=10_000)
            yield from (f"{pad}{line}" for line in text.splitlines())
