"""Strict YAML: plain values, the line of every key, and dotted overrides on top.

Read by the YAML 1.2 core rules, which say what people mean: ``1e-5`` is a number and ``no`` is a
string (YAML 1.1, PyYAML's default, has both the other way round). A key given twice is an error,
and so are anchors, aliases and tags: a recipe is read top to bottom. Numbers are finite and fit in 64 bits.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sightline.errors import RecipeError
from sightline.recipes.moved import at_home

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


_DEEPEST = 32
"""Levels of mappings and lists in one another."""
_LARGEST_FILE = 250_000
"""Bytes of a recipe."""
_LONGEST = 160
"""Characters of a value that a message shows."""
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
"""NUL and halves of characters: no path, no file and no tokenizer takes them."""


class _Refused(yaml.MarkedYAMLError):
    """YAML that is valid and not allowed in a recipe."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe parser with the scalar rules above, and without aliases, anchors, tags and endless nesting."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise _Refused(
                problem="anchors and aliases are not allowed: write the value out", problem_mark=event.start_mark
            )
        if event.tag is not None:
            text = f"found the tag {shortened(event.tag)!r}, expected a plain value. Remove the tag"
            raise _Refused(problem=text, problem_mark=event.start_mark)
        if self._depth == _DEEPEST:
            text = f"found lists or mappings more than {_DEEPEST} deep in one another. Write them flatter"
            raise _Refused(problem=text, problem_mark=event.start_mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


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
    source = _parse(_text(path), _named(path))
    if not isinstance(source.values, dict):
        raise RecipeError(f"{_named(path)}: found {describe(source.values)}, expected keys and values (`name: ...`).")
    source.values = at_home(source.values, path)
    for override in overrides:
        _override(source, override)
    return source


def dotted(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings, and lists of mappings, as one mapping with keys as overrides write them: ``data.train.0.path``.

    >>> dotted({"data": {"train": [{"path": "a"}]}, "seed": 1})
    {'data.train.0.path': 'a', 'seed': 1}
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        listed = isinstance(value, list | tuple) and any(isinstance(one, dict) for one in value)
        inner = dict(enumerate(value)) if listed else value
        if isinstance(inner, dict) and inner:
            flat |= dotted(inner, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _text(path: Path) -> str:
    try:
        if not path.is_file():
            raise RecipeError(f"{_named(path)}: no such recipe file. Expected the path of a YAML file.")
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, RecipeError):
            raise
        found = error.strerror if isinstance(error, OSError) else error
        raise RecipeError(f"{_named(path)}: cannot be read ({found}). Correct the path.") from None
    if len(content) > _LARGEST_FILE:
        raise RecipeError(
            f"{_named(path)}: found more than {_LARGEST_FILE:,} bytes, expected a recipe. Correct the path."
        )
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        found = f"byte 0x{content[error.start]:02x} at {error.start}"
        raise RecipeError(f"{_named(path)}:{line}: not UTF-8 text ({found}). Store the file as UTF-8.") from None


def _named(path: Path) -> str:
    """A path as a terminal can show it."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def shortened(text: str) -> str:
    """A text of any length and of any characters, as a message shows it."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}... ({len(text):,} characters)"


def describe(value: Any) -> str:
    """A value as an error message names it."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, dict):
        return f"a mapping with {len(value)} keys"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    kinds = {bool: "true/false", int: "whole number", float: "number", str: "string"}
    kind = kinds.get(type(value), type(value).__name__)
    if isinstance(value, str):
        return f"{shortened(value)!r} ({kind})"
    return f"{str(value).lower() if isinstance(value, bool) else shortened(repr(value))} ({kind})"


def _parse(text: str, name: str) -> Source:
    """Values and origins of one YAML text; ``name`` stands before the line numbers."""
    try:
        node = _node(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = _line(name, mark.line) if mark else name
        found = shortened(error.problem or error.context or "")
        kind = "" if isinstance(error, _Refused) else "not valid YAML: "
        raise RecipeError(f"{where}: {kind}{found}.") from None
    except yaml.reader.ReaderError as error:
        where = _line(name, text.count("\n", 0, error.position))
        raise RecipeError(f"{where}: not valid YAML: unacceptable character #x{error.character:04x}.") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # an escape beyond Unicode is a ValueError of PyYAML
        raise RecipeError(f"{name}: not valid YAML: {shortened(str(error))}.") from None
    source = Source(None)
    source.values = _value(node, (), name, source) if node else None
    return source


def _line(name: str, line: int) -> str:
    """Where something stands: the line of a file, counted from 0 here and from 1 there; an override has no lines."""
    return name if name.startswith("override '") else f"{name}:{line + 1}"


def _node(text: str) -> yaml.Node | None:
    loader = _Loader(text)  # refuses characters that YAML has not
    try:
        return loader.get_single_node()
    finally:
        loader.dispose()


def _value(node: yaml.Node, path: KeyPath, name: str, source: Source) -> Any:
    """The plain value of a node; records the origin of everything in it."""
    source.origins.setdefault(path, _line(name, node.start_mark.line))
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*path, index), name, source) for index, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, name, source)
    return _scalar(node, name)


def _mapping(node: yaml.MappingNode, path: KeyPath, name: str, source: Source) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        where = _line(name, key_node.start_mark.line)
        if not isinstance(key_node, yaml.ScalarNode):
            raise RecipeError(f"{where}: found a {key_node.id} as a key, expected a word.")
        key = _string(key_node.value, where)
        if key in values:
            first = source.origin((*path, key))
            raise RecipeError(f"{where}: key '{shortened(key)}' is given twice (first at {first}). Keep one.")
        source.origins[(*path, key)] = where
        values[key] = _value(value_node, (*path, key), name, source)
    return values


def _scalar(node: yaml.Node, name: str) -> Any:
    text, where = str(node.value), _line(name, node.start_mark.line)
    kind = node.tag.rpartition(":")[2]
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int":
        if len(text) > 20 or not -(2**63) <= int(text) < 2**63:
            raise RecipeError(f"{where}: found {shortened(text)}, expected a whole number of 64 bits.")
        return int(text)
    if kind == "float":
        value = math.inf if text[-1:].isalpha() else float(text)  # .inf and .nan are refused as 1e999 is
        if not math.isfinite(value):
            raise RecipeError(f"{where}: found {shortened(text)}, expected a finite number.")
        return value
    return _string(text, where)


def _string(text: str, where: str) -> str:
    if odd := _NO_TEXT.search(text):
        raise RecipeError(f"{where}: found the character U+{ord(odd[0]):04X} in a text, which no file can hold.")
    return text


def _override(source: Source, override: str) -> None:
    """Set one dotted path to a YAML value; containers on the way are made where they are missing."""
    dotted, equals, text = override.partition("=")
    name = f"override '{shortened(override)}'"
    if not equals or not dotted or "" in dotted.split("."):
        raise RecipeError(f"{name}: expected key.key=value, for example train.learning_rate=1e-4.")
    keys = [_string(key, name) for key in dotted.split(".")]
    if len(keys) > _DEEPEST:
        raise RecipeError(f"{name}: found {len(keys)} keys in one another, expected {_DEEPEST} at most. Shorten it.")
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
    where = shortened(".".join(map(str, path))) or "the recipe"
    if isinstance(holder, dict):
        return key
    if not isinstance(holder, list):
        raise RecipeError(f"{name}: {where} is {describe(holder)}, it holds no key '{shortened(key)}'.")
    if not key.isdecimal() or len(key) > 9 or int(key) > len(holder):
        last = f"0 to {len(holder)} ({len(holder)} appends)"
        raise RecipeError(
            f"{name}: {where} is a list of {len(holder)}; expected an index {last}, found '{shortened(key)}'."
        )
    return int(key)


def _store(holder: Any, place: str | int, value: Any) -> None:
    if isinstance(holder, list) and place == len(holder):
        holder.append(value)
    else:
        holder[place] = value
