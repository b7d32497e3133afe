"""The recipes of the repository: those of one training, and those of loops."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parents[1] / "recipes"
LOOPS = sorted(path for path in FOLDER.glob("*.yaml") if "\nmethod:" in path.read_text())
TRAININGS = sorted(set(FOLDER.glob("*.yaml")) - set(LOOPS))
