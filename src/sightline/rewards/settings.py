"""What changes the numbers of a reward, and what it reads: whoever adds to kept scores compares these before."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from sightline.recipes.source import dotted
from sightline.recipes.terms import AnyTerm
from sightline.rewards.base import BUILT_IN

FREE_OPTIONS: Final = ("url", "timeout", "tries", "workers", "batch_size", "price_prompt", "price_completion")
"""Options of a model that is asked which change none of its replies."""
FREE_TERMS: Final[Mapping[str, tuple[str, ...]]] = {
    "service": ("url", "timeout", "patience", "workers"),
    "judge": ("cache", *(f"options.{name}" for name in FREE_OPTIONS)),
    "model": ("batch_tokens",),
    "clip": ("batch_size",),
    "iris": ("layout", "batch_tokens"),
}
"""The same of the terms of a reward, by kind: a service may come back at another address."""


_PLACES: Final = frozenset(("name", "reward", "path", "reference", "judge", "model", "template", "data", "similarity"))
"""Last words of settings that may name a file, a folder or a program; all others are words, whatever lies around."""


def reward_settings(reward: str | Mapping[str, AnyTerm]) -> dict[str, Any]:
    """Dotted settings of a reward that change its numbers: ``{"clip.path": ..., "clip.unit": ...}``."""
    if isinstance(reward, str):
        return {"name": reward}
    free = {f"{name}.{field}" for name, term in reward.items() for field in FREE_TERMS.get(term.kind, ())}
    values = dotted({name: dataclasses.asdict(term) for name, term in reward.items()})
    return {name: value for name, value in values.items() if name not in free}


def inputs_of(reward: str | Mapping[str, AnyTerm]) -> tuple[list[Path], dict[str, Any]]:
    """Files and folders that a reward reads, and what else changes its numbers."""
    return split_files(reward_settings(reward))


def split_files(settings: Mapping[str, Any]) -> tuple[list[Path], dict[str, Any]]:
    """The files and folders of this machine that settings name, and the settings that name none: of a file counts what
    it holds, not where it lies. The file of a program of one's own (``package.module:Name``) is one of them."""
    files: list[Path] = []
    rest: dict[str, Any] = {}
    for name, value in settings.items():
        named = value if name.rpartition(".")[2] in _PLACES and ".options." not in name else None
        path = _path(named)
        files += _programs(named) if path is None else [path]
        rest |= {name: value} if path is None else {}
    return files, rest


def _path(value: Any) -> Path | None:
    """The file or folder that an option names: ``runs/reward``, ``local:models/judge``."""
    if not isinstance(value, str) or value in BUILT_IN:
        return None
    return next((Path(word) for word in (value, value.partition(":")[2]) if word and Path(word).exists()), None)


def _programs(value: Any) -> list[Path]:
    named = re.fullmatch(r"([A-Za-z_][\w.]*):\w+", value) if isinstance(value, str) else None
    try:
        found = importlib.util.find_spec(named[1]) if named else None
    except (ImportError, ValueError):  # told where the reward is built
        found = None
    return [Path(found.origin)] if found is not None and found.origin is not None else []
