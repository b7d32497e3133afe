"""The recipes of the repository: of trainings, and of loops, which have a method; those of papers and of one T4."""

from __future__ import annotations

import re
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "recipes"
_EVERY = sorted(FOLDER.rglob("*.yaml"))
LOOPS = [path for path in _EVERY if "\nmethod:" in path.read_text(encoding="utf-8")]
TRAININGS = [path for path in _EVERY if path not in LOOPS]
PAPERS = sorted((FOLDER / "papers").glob("*.yaml"))
T4 = sorted((FOLDER / "t4").glob("*.yaml"))
STARTS = [path for path in TRAININGS if path.parent == FOLDER]
"""Trainings to start from, of no paper."""

_KEYS = "Paper|Data|Published|Differs|Run"


def head_of(path: Path) -> dict[str, list[str]]:
    """What the comments at the head of a recipe say, by key, each text in one line; ``Run`` has the command lines.

    A key is a word with a colon, its text goes on in lines that begin with ``#   ``, and it may stand several times.
    """
    found: dict[str, list[str]] = {}
    key = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        begun = re.match(rf"# ({_KEYS}):\s*(.*)", line)
        if begun:
            key = begun[1]
            found.setdefault(key, []).extend([begun[2]] if begun[2] else [])
        elif key and line.startswith("#   "):
            found[key] = [*found[key], line[4:]] if key == "Run" else [*found[key][:-1], f"{found[key][-1]} {line[4:]}"]
        elif line.startswith("#"):
            key = ""
        else:
            return found
    return found
