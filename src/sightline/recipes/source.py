"""Strict YAML: plain values, the line of every key, and dotted overrides on top.

Read by the YAML 1.2 core rules, which say what people mean: ``1e-5`` is a number and ``no`` is a
string (YAML 1.1, PyYAML's default, has both the other way round). A key given twice is an error,
and so are anchors, aliases and tags: a recipe is read top to bottom.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sightline.errors import RecipeError

KeyPath = tuple[str | int, ...]
"""Where a value stands: keys and list indices from the root."""

_PLAIN = (
    ("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    ("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789")),
    (
        "tag:yaml.org,2002:float",
        re.compile(r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan)$", re.IGNORECASE),
        list("-+.0123456789"),
    ),
)


_NOT_FINITE = {".inf": "inf", "+.inf": "inf", "-.inf": "-inf", ".nan": "nan"}


class _Loader(yaml.SafeLoader):
    """PyYAML's safe parser with the scalar rules above, and without aliases."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.events.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem="aliases are not allowed: write the value out", problem_mark=mark)
        return super().compose_node(parent, index)


class Dumper(yaml.SafeDumper):
    """Writes what ``_Loader`` reads back unchanged, and what YAML 1.1 readers understand too."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _tag, _regexp, _first in _PLAIN:
    _Loader.add_implicit_resolver(_tag, _regexp, _first)
    Dumper.add_implicit_resolver(_tag, _regexp, _first)


@dataclass
class Source:
    """The values of a recipe file, and where each of them was written."""

    values: Any
    origins: dict[KeyPath, str] = field(default_factory=dict)
    """Place of a value as a user would name it: ``dpo.yaml:12`` or ``override 'seed=1'``."""

    def origin(self, path: KeyPath) -> str:
        """Place of the value at ``path``, or of the nearest value around it that was written."""
        while path and path not in self.origins:
            path = path[:-1]
        return self.origins.get(path, "recipe")


def read_source(path: str | Path, overrides: Sequence[str] = ()) -> Source:
    """Read a YAML file and lay dotted overrides over it.

    Args:
        path: The recipe.
        overrides: ``key.key.0.key=value``; the value is YAML, list items go by their index, and the
            index after the last appends.

    Raises:
        RecipeError: The file is not there or not strict YAML, or an override does not fit.
    """
    path = Path(path)
    if not path.is_file():
        raise RecipeError(f"{path}: no such recipe file. Expected the path of a YAML file.")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not UTF-8 text ({error}). Store the file as UTF-8.") from None
    source = _parse(text, str(path))
    if not isinstance(source.values, dict):
        raise RecipeError(f"{path}: found {describe(source.values)}, expected keys and values (`name: ...`).")
    for override in overrides:
        _override(source, override)
    return source


def describe(value: Any) -> str:
    """A value as an error message names it."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, dict):
        return f"a mapping with {len(value)} keys"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    kind = {bool: "true/false", int: "whole number", float: "number", str: "string"}[type(value)]
    return f"{str(value).lower() if isinstance(value, bool) else repr(value)} ({kind})"


def _parse(text: str, name: str) -> Source:
    """Values and origins of one YAML text; ``name`` stands before the line numbers."""
    try:
        node = _node(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise RecipeError(f"{name}{line}: not valid YAML: {error.problem or error.context}.") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{name}: not valid YAML: {error}.") from None
    source = Source(None)
    source.values = _value(node, (), name, source) if node else None
    return source


def _node(text: str) -> yaml.Node | None:
    loader = _Loader(text)  # refuses characters that YAML has not
    try:
        return loader.get_single_node()
    finally:
        loader.dispose()


def _value(node: yaml.Node, path: KeyPath, name: str, source: Source) -> Any:
    """The plain value of a node; records the origin of everything in it."""
    source.origins.setdefault(path, f"{name}:{node.start_mark.line + 1}")
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*path, index), name, source) for index, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, name, source)
    return _scalar(node, name)


def _mapping(node: yaml.MappingNode, path: KeyPath, name: str, source: Source) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        where = f"{name}:{key_node.start_mark.line + 1}"
        if not isinstance(key_node, yaml.ScalarNode):
            raise RecipeError(f"{where}: found a {key_node.id} as a key, expected a word.")
        key = key_node.value
        if key in values:
            raise RecipeError(
                f"{where}: key '{key}' is given twice (first at {source.origin((*path, key))}). Keep one."
            )
        source.origins[(*path, key)] = where
        values[key] = _value(value_node, (*path, key), name, source)
    return values


def _scalar(node: yaml.Node, name: str) -> Any:
    text: str = node.value
    kind = node.tag.rpartition(":")[2]
    if kind == "str":
        return text
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int":
        return int(text)
    if kind == "float":
        return float(_NOT_FINITE.get(text.lower(), text))
    line = node.start_mark.line + 1
    raise RecipeError(f"{name}:{line}: found the tag {node.tag!r}, expected a plain value. Remove the tag.")


def _override(source: Source, override: str) -> None:
    """Set one dotted path to a YAML value; containers on the way are made where they are missing."""
    dotted, equals, text = override.partition("=")
    name = f"override '{override}'"
    if not equals or not dotted or "" in dotted.split("."):
        raise RecipeError(f"{name}: expected key.key=value, for example train.learning_rate=1e-4.")
    keys = dotted.split(".")
    holder: Any = source.values
    path: KeyPath = ()
    for key, following in itertools.pairwise(keys):
        place = _place(holder, key, path, name)
        path = (*path, place)
        if _at(holder, place) is None:
            _store(holder, place, [] if following == "0" else {})
        holder = holder[place]
        source.origins.setdefault(path, name)
    place = _place(holder, keys[-1], path, name)
    path = (*path, place)
    for old in [known for known in source.origins if known[: len(path)] == path]:
        del source.origins[old]
    _store(holder, place, _parse(text, name).values)
    source.origins[path] = name


def _at(holder: Any, place: Any) -> Any:
    """Value at a place of a mapping or list; None where there is none yet."""
    return holder.get(place) if isinstance(holder, dict) else (holder[place] if place < len(holder) else None)


def _place(holder: Any, key: str, path: KeyPath, name: str) -> str | int:
    """``key`` as it indexes ``holder``: a word in a mapping, a number in a list."""
    where = ".".join(map(str, path)) or "the recipe"
    if isinstance(holder, dict):
        return key
    if not isinstance(holder, list):
        raise RecipeError(f"{name}: {where} is {describe(holder)}, it holds no key '{key}'.")
    if not key.isdecimal() or int(key) > len(holder):
        last = f"0 to {len(holder)} ({len(holder)} appends)"
        raise RecipeError(f"{name}: {where} is a list of {len(holder)}; expected an index {last}, found '{key}'.")
    return int(key)


def _store(holder: Any, place: str | int, value: Any) -> None:
    if isinstance(holder, list) and place == len(holder):
        holder.append(value)
    else:
        holder[place] = value
