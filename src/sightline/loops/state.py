"""How far a loop is: one small file, replaced as a whole at every change."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from sightline.errors import CheckpointError, shortened
from sightline.files import read_settings, replace_file
from sightline.loops.stages import Stage
from sightline.recipes.source import dotted

_FORMAT = 1
STATE = "state.json"


_WHOLE = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True)
class Best:
    """The best round so far, by the exam."""

    __pydantic_config__ = _WHOLE

    round: int
    figure: str
    """``exam.best``."""
    value: float | None
    """None: undefined."""


@dataclass(kw_only=True)
class Entry:
    """One stage that was begun."""

    __pydantic_config__ = _WHOLE

    status: Literal["clearing", "running", "done", "no pair"]
    """``clearing``: what an earlier run of it left is being removed; ``no pair``: it found nothing to learn from, which
    ended the loop."""
    settings: dict[str, Any]
    """As :func:`settled` has them."""
    reads: dict[str, str | None]
    """Place of what it reads to its digest."""
    out: str = ""
    """Place of what it leaves."""
    made: str | None = None
    """Digest of that."""
    why: str = ""
    """Of ``no pair``: the reasons."""
    seconds: float = 0.0
    """By the clock on the wall, over all calls that ended by themselves."""
    cpu_seconds: float = 0.0
    """The same on processors, over all threads and processes."""
    gpu_seconds: float = 0.0
    """The same, times the GPUs in use."""
    starts: int = 1
    """How often it was begun or gone on with."""


@dataclass(kw_only=True)
class State:
    """``state.json``."""

    __pydantic_config__ = _WHOLE

    path: Path
    entries: dict[str, Entry] = field(default_factory=dict)
    """``round-1/sample`` to how far it is."""
    released: dict[str, str] = field(default_factory=dict)
    """What was removed to save room, and its digest."""
    best: Best | None = None
    ended: str | None = None
    """Why there are no more rounds; None: there are."""

    @classmethod
    def read(cls, folder: Path) -> State:
        """The state of a loop; an empty one where there is none.

        Raises:
            CheckpointError: The file is damaged, or of another version.
        """
        path = folder / STATE
        if not path.exists():
            return cls(path=path)
        values = read_settings(path)
        try:
            if values.pop("format") != _FORMAT:
                raise CheckpointError(
                    f"{path} was written by another version of Sightline. Choose another output_dir, or "
                    "pass --overwrite (in Python overwrite=True)."
                )
            return TypeAdapter(cls).validate_python({"path": path, "entries": values.pop("stages"), **values})
        except (AttributeError, KeyError, TypeError, ValidationError) as error:
            found = f"{type(error).__name__} ({error})"
            if isinstance(error, ValidationError):
                first = error.errors(include_url=False)[0]
                found = f"{shortened(repr(first['input']), 60)} as {'.'.join(map(str, first['loc']))}"
            raise CheckpointError(
                f"{path} is damaged: found {found}, expected what sightline loop wrote. Remove it, and what is there "
                "is made again."
            ) from error

    def write(self) -> None:
        values = {
            "format": _FORMAT,
            "stages": {name: asdict(entry) for name, entry in self.entries.items()},
            "released": self.released,
            "best": None if self.best is None else asdict(self.best),
            "ended": self.ended,
        }
        replace_file(self.path, json.dumps(values, indent=1) + "\n")


def changes(entry: Entry, stage: Stage, reads: Mapping[str, str | None]) -> list[str]:
    """What is not as it was when a stage was begun, in words; files count by what they hold, not by where they lie."""
    old, new = entry.settings, settled(stage.settings)
    eased = [name for name in stage.eased if entry.status == "running" and old.get(name) == "stop"]
    names = [name for name in [*old, *(name for name in new if name not in old)] if name not in eased]
    told = [f"{n}: {_shown(old.get(n))} there, {_shown(new.get(n))} here" for n in names if old.get(n) != new.get(n)]
    before, after = list(entry.reads.values()), list(reads.values())
    if before == after:
        return told
    if len(before) != len(after):
        return [*told, f"it reads {', '.join(reads) or 'nothing'}, and read {', '.join(entry.reads) or 'nothing'}"]
    pairs = zip(reads.items(), before, strict=True)
    return [*told, *(f"{place} is not what it was" for (place, now), was in pairs if now != was)]


def settled(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as the state keeps them: plain JSON under dotted keys, without what is empty."""
    values = dotted(json.loads(json.dumps(settings)))
    return {name: value for name, value in values.items() if value not in (None, [], {})}


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
