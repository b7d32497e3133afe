"""The recipes of the repository: of trainings, and of loops, which have a method."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parents[1] / "recipes"
_EVERY = sorted(FOLDER.glob("*.yaml"))
LOOPS = [path for path in _EVERY if "\nmethod:" in path.read_text(encoding="utf-8")]
TRAININGS = [path for path in _EVERY if path not in LOOPS]
