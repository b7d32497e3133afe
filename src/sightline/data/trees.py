"""Tree files: the answers that a sentence search made of one prompt are one line of JSON.

A line has ``prompts`` and ``source`` of the Group (:mod:`sightline.data.schema`), and ``nodes``. A field of a node that
holds its default is left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from sightline.data.fields import shown
from sightline.data.readers.rows import is_finite, parse_json
from sightline.data.schema import Resolve, append_lines, group_from_json, group_to_json, lines_of, relative_to
from sightline.errors import DataError
from sightline.recipes.refusals import nearest
from sightline.relations.tree import Sentence, SentenceTree

_REMEDY = "Every line of a tree file is one JSON object; a killed stage leaves half a line: run it again"


def read_trees(path: str | Path) -> Iterator[SentenceTree]:
    """The trees of a file, one by one.

    Raises:
        DataError: A line is no tree; names the file, the line (counted from 1) and the key.
    """
    resolve = relative_to(Path(path).parent)
    for line, place in lines_of(path):
        try:
            yield tree_from_json(parse_json(line, _REMEDY), resolve)
        except DataError as error:
            raise DataError(error.found, source=place, remedy=error.remedy) from error


def append_trees(path: str | Path, trees: Iterable[SentenceTree], *, below: Path | None = None) -> int:
    """Adds trees to the end of a file; they are on the disk when the call returns. ``below`` as of ``group_to_json``.

    Returns:
        How many were added.
    """
    path = Path(path)
    rows = (tree_to_json(tree, path.parent, below) for tree in trees)
    return append_lines(path, [json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows])


def tree_to_json(
    tree: SentenceTree, folder: str | Path | None = None, below: str | Path | None = None
) -> dict[str, Any]:
    """A tree as plain JSON values; pictures are named as by ``group_to_json``."""
    return group_to_json(tree.group, folder, below) | {"nodes": [_row_of(node) for node in tree.nodes]}


def tree_from_json(row: Any, resolve: Resolve = str) -> SentenceTree:
    """A tree from plain JSON values.

    Raises:
        DataError: Unknown or missing key, wrong type, or a parent that is no node before. Names the key.
    """
    if not isinstance(row, dict) or not isinstance(row.get("nodes"), list) or not row["nodes"]:
        raise DataError(f"no tree but {shown(row)}: expected an object with prompts and nodes", remedy=_REMEDY)
    group = group_from_json({key: value for key, value in row.items() if key != "nodes"}, resolve)
    return SentenceTree(group=group, nodes=tuple(_node_of(item, place) for place, item in enumerate(row["nodes"])))


_DEFAULTS = {field.name: field.default for field in fields(Sentence) if field.default is not MISSING}


def _row_of(node: Sentence) -> dict[str, Any]:
    return {
        name: list(value) if type(value) is tuple else value
        for name, value in vars(node).items()
        if name not in _DEFAULTS or value != _DEFAULTS[name]
    }


def _node_of(row: Any, place: int) -> Sentence:
    where = f"nodes[{place}]"
    if type(row) is not dict:
        raise DataError(f"{where} is {shown(row)}, expected an object")
    for key, value in row.items():
        if key not in _HOLDS:
            raise DataError(f"unknown key '{where}.{key}'", remedy=nearest(key, list(_HOLDS)))
        if not _HOLDS[key](value):
            raise DataError(f"'{where}.{key}' is {shown(value)}, which such a field cannot hold")
    if row.get("id") != place:
        raise DataError(f"'{where}.id' is {shown(row.get('id'))}, expected {place}", remedy="Nodes stand in order")
    parent = row.get("parent")
    if (parent is None) != (place == 0) or (parent is not None and parent >= place):
        raise DataError(f"'{where}.parent' is {parent}, expected a node before it (none for the first alone)")
    if len(row.get("tokens", ())) != len(row.get("logprobs", ())):
        raise DataError(
            f"'{where}' has {len(row.get('tokens', ()))} tokens and {len(row.get('logprobs', ()))} logprobs"
        )
    if row.get("final") is not None and row.get("answer") is None:
        raise DataError(f"'{where}.answer' is missing, and the node is final", remedy="Make the file anew")
    values: dict[str, Any] = {key: tuple(value) if type(value) is list else value for key, value in row.items()}
    return Sentence(**values)


def _is_index(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and is_finite(value)


def _is_text(value: Any) -> bool:
    return type(value) is str


_HOLDS: Mapping[str, Any] = {
    "id": _is_index,
    "parent": _is_index,
    "tokens": lambda value: type(value) is list and all(map(_is_index, value)),
    "logprobs": lambda value: type(value) is list and all(map(_is_number, value)),
    "text": _is_text,
    "final": lambda value: value in ("stop", "length"),
    "answer": _is_text,
    "junk": _is_text,
    "clip": _is_number,
}
"""By the fields of ``Sentence``."""
