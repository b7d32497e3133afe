"""Entries of LLaMA-Factory's ``dataset_info.json``: where the rows are, and what their columns and tags mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sightline.data.readers.rows import RowError, parse_json
from sightline.errors import DataError, RecipeError, shortened
from sightline.recipes.load import nearest

_ALPACA = {"prompt": "instruction", "query": "input", "response": "output"}
_SHARED = ("system", "images", "chosen", "rejected", "history")
_DEFAULT_TAGS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "system_tag": "system",
}
_READ = {"file_name", "formatting", "ranking", "columns", "tags", "split", "hf_hub_url", "num_samples"}
_REMEDY = "Name the file of the rows itself as path, and use format and rename"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One entry, and how a row of it becomes one of the layout ``alpaca`` or ``llava``."""

    path: str
    """File, folder or datasets name of the rows."""
    layout: str
    columns: Mapping[str, str]
    """What a column is (``messages``, ``chosen``, ...): its name in the rows."""
    tags: Mapping[str, str]
    ranking: bool

    def row(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """The row with the names of its layout.

        Raises:
            RowError: A column that the entry names is not there, or a message has other tags.
        """
        row = dict(record)
        found = {kind: row.pop(name) for kind, name in self.columns.items() if name in row}
        needed = {"messages"} if self.layout == "llava" else {"prompt"}
        needed |= {"chosen", "rejected"} if self.ranking else set()
        for kind in sorted(needed - found.keys()):
            remedy = "Correct columns of the entry, or the row"
            raise RowError("malformed", f"missing column '{self.columns.get(kind, kind)}' ({kind})", remedy=remedy)
        if not self.ranking:  # the entry says that it compares nothing
            found.pop("chosen", None), found.pop("rejected", None)
        if "kto_tag" in found:
            row["label"] = found["kto_tag"]
        row |= {kind: found[kind] for kind in _SHARED if kind in found}
        if self.layout == "alpaca":
            return row | {
                name: found[kind]
                for kind, name in _ALPACA.items()
                if kind in found and not (self.ranking and kind == "response")
            }
        turns = found["messages"]
        if not isinstance(turns, list | tuple):
            raise RowError("malformed", f"'{self.columns['messages']}' is {turns!r:.60}, expected a list of messages")
        sides = {name: self._message(row[name]) for name in ("chosen", "rejected") if name in row}
        return row | sides | {"conversations": [self._message(turn) for turn in turns]}

    def _message(self, turn: Any) -> Any:
        if not isinstance(turn, Mapping):
            return turn  # the reader tells
        role, content = turn.get(self.tags["role_tag"]), turn.get(self.tags["content_tag"])
        roles = {self.tags["user_tag"]: "human", self.tags["assistant_tag"]: "gpt", self.tags["system_tag"]: "system"}
        if not isinstance(role, str) or role not in roles:
            found = f"a message has '{self.tags['role_tag']}' {role!r:.60}, expected one of {', '.join(roles)}"
            raise RowError("unknown role", found, remedy="Correct tags of the entry; tools are not read")
        names = (self.tags["role_tag"], self.tags["content_tag"])
        return {name: value for name, value in turn.items() if name not in names} | {
            "from": roles[role],
            "value": content,
        }


def read_entry(path: str, name: str) -> Entry:
    """The entry of a ``dataset_info.json``.

    Raises:
        DataError: The file is not there or no JSON object.
        RecipeError: It has no such entry, or one that cannot be honoured.
    """
    try:
        entries = parse_json(Path(path).read_bytes(), "dataset_info.json is one object")
    except OSError as error:
        remedy = "With entry, path names the dataset_info.json itself"
        raise DataError(f"cannot be read ({error.strerror})", source=path, remedy=remedy) from error
    except RowError as error:
        raise DataError(error.found, source=path, remedy=error.remedy) from error
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise DataError("is no object of entries", source=path, remedy="Each entry is an object with file_name")
    if name not in entries:
        raise RecipeError(f"{path}: found no entry '{name}'. {nearest(name, list(entries))}")
    entry: dict[str, Any] = entries[name]
    where = f"{path}: entry '{name}'"
    if unread := [key for key, value in entry.items() if key not in _READ and value is not None]:
        raise RecipeError(f"{where}: key '{unread[0]}' is not read. {_REMEDY}.")
    place = entry.get("file_name") or entry.get("hf_hub_url")
    if not isinstance(place, str) or not place:
        raise RecipeError(f"{where}: found neither file_name nor hf_hub_url. {_REMEDY}.")
    formatting = entry.get("formatting") or "alpaca"
    if formatting not in ("alpaca", "sharegpt"):
        raise RecipeError(f"{where}: formatting is {formatting!r:.60}, expected alpaca or sharegpt. {_REMEDY}.")
    columns = _texts(entry.get("columns"), f"{where}: columns")
    known = (*_ALPACA, *_SHARED, "messages", "kto_tag")
    if unread := [key for key in columns if key not in known]:
        raise RecipeError(f"{where}: column '{unread[0]}' is not read. Expected some of {', '.join(known)}. {_REMEDY}.")
    tags = _texts(entry.get("tags"), f"{where}: tags")
    defaults = _ALPACA if formatting == "alpaca" else {"messages": "conversations"}
    inside = "file_name" in entry and entry["file_name"]
    return Entry(
        path=str(Path(path).parent / place) if inside else place,
        layout="alpaca" if formatting == "alpaca" else "llava",
        columns={**defaults, **columns},
        tags={**_DEFAULT_TAGS, **tags},
        ranking=bool(entry.get("ranking")),
    )


def _texts(value: Any, where: str) -> dict[str, str]:
    found = {} if value is None else value
    if not isinstance(found, dict) or not all(isinstance(one, str) for one in found.values()):
        raise RecipeError(f"{where} is {shortened(repr(value), 60)}, expected names of columns. Correct the entry.")
    return found
