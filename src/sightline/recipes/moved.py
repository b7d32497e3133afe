"""Runs whose folder was moved or copied: their recipe names files in it by where it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

_NAME, _BESIDE, _ROWS = "recipe.yaml", "environment.json", "rows"
"""Of a run: its resolved recipe, what stands beside it in no other folder, and rows that were given in memory."""
_LOOP = "loop.yaml"
"""In the folder of a loop, two above those of its trainings, which move with it."""


def at_home(values: dict[str, Any], file: Path) -> dict[str, Any]:
    """The values of a recipe. That of a run is the recipe of the folder that it lies in: where ``output_dir`` names
    another one, it and all paths below it are those of this folder, whatever is where it was. So are paths in the
    folder of the loop that it is a training of.

    Args:
        values: as they stand in the file.
        file: the recipe.
    """
    was, home = values.get("output_dir"), file.parent
    if file.name != _NAME or not isinstance(was, str) or _is_same(was, home) or not _holds_run(home):
        return values
    home = Path.cwd() if home == Path() else home  # '.' is another folder elsewhere
    moved: dict[str, Any] = _rebased(values, was, str(home), home)
    root, old = home.absolute().parents[1], Path(was).parent.parent
    if (root / _LOOP).is_file() and home.absolute() == root / Path(was).relative_to(old):
        moved = _rebased(moved, str(old), str(root), root)
    return moved | {"output_dir": str(home)}


def where_it_was(file: Path) -> str:
    """``output_dir`` as it stands in the recipe of a run."""
    return str(yaml.safe_load(file.read_text(encoding="utf-8"))["output_dir"])


def from_run(value: Any, output_dir: str) -> Any:
    """A path below the folder of a run as it is seen from there; anything else as it is."""
    return _rebased(value, output_dir, ".", Path(output_dir))


def _is_same(folder: str, home: Path) -> bool:
    try:
        return Path(folder).samefile(home)
    except (OSError, ValueError):
        return False


def _holds_run(folder: Path) -> bool:
    """Whether Sightline wrote down there what it ran on."""
    try:
        return bool(json.loads((folder / _BESIDE).read_text(encoding="utf-8"))["packages"]["sightline"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _rebased(value: Any, was: str, now: str, home: Path) -> Any:
    if isinstance(value, dict):
        return {key: _rebased(inner, was, now, home) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_rebased(inner, was, now, home) for inner in value]
    inside = _inside(value, was, home) if isinstance(value, str) else None
    return value if inside is None else str(Path(now) / inside)


def _inside(text: str, was: str, home: Path) -> Path | None:
    """A path below a folder as it is seen from there; None: something else. An algorithm or a model on the hub may be
    called as a folder is (``dpo``, ``Qwen/...``), so the path must be that of rows, or be there."""
    try:
        inside = Path(text).relative_to(was)
        if inside.parts[:1] == (_ROWS,):
            return inside
        return inside if inside.parts and Path(was) != Path() and (home / inside).exists() else None
    except (OSError, ValueError):  # a text is too long to be a path
        return None
