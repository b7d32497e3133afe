"""Runs whose folder was moved: their recipe names files in it by where it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

_NAME, _BESIDE = "recipe.yaml", "environment.json"
"""Of a run: its resolved recipe, and what stands beside it in no other folder."""


def at_home(values: dict[str, Any], file: Path) -> dict[str, Any]:
    """The values of a recipe. Where it is that of a run whose folder is not where it was written, and no run is there,
    ``output_dir`` and all paths below it are those of the folder that it lies in now.

    Args:
        values: as they stand in the file.
        file: the recipe.
    """
    was = values.get("output_dir")
    if file.name != _NAME or not isinstance(was, str) or not (file.parent / _BESIDE).is_file():
        return values
    if (Path(was) / _NAME).exists():  # it never moved, or this is a copy
        return values
    moved: dict[str, Any] = _rebased(values, was, str(file.parent))
    return moved


def where_it_was(file: Path) -> str:
    """``output_dir`` as it stands in the recipe of a run."""
    return str(yaml.safe_load(file.read_text(encoding="utf-8"))["output_dir"])


def from_run(value: Any, output_dir: str) -> Any:
    """A path below the folder of a run as it is seen from there; anything else as it is."""
    return _rebased(value, output_dir, ".")


def _rebased(value: Any, was: str, now: str) -> Any:
    if isinstance(value, dict):
        return {key: _rebased(inner, was, now) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_rebased(inner, was, now) for inner in value]
    if not isinstance(value, str):
        return value
    if value == was:
        return now
    start = f"{Path(was)}/"
    return str(Path(now) / value.removeprefix(start)) if value.startswith(start) else value
