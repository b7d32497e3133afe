"""A recipe as YAML with what each key means above it, taken from the docstrings of the fields."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from sightline.recipes.source import Dumper


def describe_recipe(recipe: Any, algorithm_docs: Mapping[str, str]) -> str:
    """YAML that :func:`~sightline.recipes.load.load_recipe` reads back, with comments.

    Args:
        recipe: A resolved recipe, of a training or of a loop.
        algorithm_docs: What each field of its algorithm means, from :func:`field_docs`.
    """
    return "\n".join(_described(recipe, field_docs(type(recipe)), 0, {"algorithm": algorithm_docs})) + "\n"


def field_docs(kind: type) -> dict[str, str]:
    """The docstring under each field of a dataclass, those it inherits included; a field without one is left out."""
    docs: dict[str, str] = {}
    for base in reversed([one for one in kind.__mro__ if dataclasses.is_dataclass(one)]):
        docs |= _own_docs(base)
    return docs


def _own_docs(kind: type) -> dict[str, str]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(tree, ast.ClassDef)
    docs = {}
    for field, text in zip(tree.body, tree.body[1:], strict=False):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str):
            docs[field.target.id] = " ".join(text.value.value.split())
    return docs


def _described(
    values: Any, docs: Mapping[str, str], indent: int, inside: Mapping[str, Mapping[str, str]]
) -> Iterator[str]:
    """Lines of one mapping; ``inside`` documents mappings that are plain dictionaries."""
    pad = " " * indent
    names = [field.name for field in dataclasses.fields(values)] if dataclasses.is_dataclass(values) else list(values)
    for name in names:
        value = vars(values)[name] if dataclasses.is_dataclass(values) else values[name]
        yield from (f"{pad}# {line}" for line in textwrap.wrap(docs.get(name, ""), 96 - indent))
        if dataclasses.is_dataclass(value) or (name in inside and value):
            nested = field_docs(type(value)) if dataclasses.is_dataclass(value) else inside[name]
            yield f"{pad}{name}:"
            yield from _described(value, nested, indent + 2, {})
        elif isinstance(value, dict) and value and all(map(dataclasses.is_dataclass, value.values())):
            yield f"{pad}{name}:"
            for key, item in value.items():
                yield f"{pad}  {key}:"
                yield from _described(item, field_docs(type(item)), indent + 4, {})
        elif isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
            yield f"{pad}{name}:"
            for item in value:
                yield f"{pad}  -"
                yield from _described(item, field_docs(type(item)), indent + 4, {})
        else:
            text = yaml.dump({name: value}, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=10_000)
            yield from (f"{pad}{line}" for line in text.splitlines())
