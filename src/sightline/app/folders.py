"""What lies in the folders that the app was started with, and nothing outside of them."""

from __future__ import annotations

import functools
import html
import json
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sightline.errors import DataError, RecipeError
from sightline.evaluation.results import RESULTS, graded_path

_DEPTH: Final = 8
_MOST: Final = 50_000
"""Files that are looked at: a home folder has millions."""
_PASSED: Final = frozenset({"checkpoints", "node_modules", "__pycache__", "reference", "rollout_adapters", "trackers"})
_HEAD: Final = 1 << 16
_GROUP: Final = re.compile(rb'\s*\{\s*"prompts"\s*:\s*\[')
_OURS: Final = b"default-src 'none'; img-src data:"
"""In the head of every page that Sightline writes."""
_TITLE: Final = re.compile(r"<title>(.*?)</title>", re.DOTALL)
_CHECK: Final = "Data check:"


@dataclass(frozen=True, kw_only=True)
class Found:
    """Files of the folders by what they are, sorted by name."""

    groups: tuple[Path, ...] = ()
    """Group files."""
    checks: tuple[Path, ...] = ()
    """Pages of `sightline data check`."""
    pages: tuple[Path, ...] = ()
    """All other pages that Sightline wrote."""
    runs: tuple[Path, ...] = ()
    """Run directories, the last that logged first."""
    results: tuple[Path, ...] = ()
    """Results files with their graded answers."""
    whole: bool = True
    """False: there were more files than are looked at."""


@dataclass(frozen=True, kw_only=True)
class Folders:
    """The folders named on the command line: nothing outside of them is read or written."""

    roots: tuple[Path, ...]
    """Their real places."""

    @classmethod
    def of(cls, named: Sequence[Path]) -> Folders:
        """
        Raises:
            RecipeError: one of them is no folder.
        """
        for path in named:
            if not path.is_dir():
                raise RecipeError(f"{path} is no folder. Name folders with data, runs or results, or make it first")
        return cls(roots=tuple(dict.fromkeys(path.resolve() for path in named)))

    def holds(self, path: str | Path) -> bool:
        """Whether the real place of a path, which need not be there, is in one of the folders."""
        try:
            real = Path(path).resolve()
            real.exists()
        except (OSError, ValueError, RuntimeError):  # a circle of links, a NUL, half a character, too long a name
            return False
        return any(real == root or root in real.parents for root in self.roots)

    def inside(self, path: str | Path) -> Path:
        """The real place of a path.

        Raises:
            DataError: it is outside.
        """
        if not self.holds(path):
            raise DataError(
                "lies outside of the folders of the app",
                source=str(path),
                remedy="Start sightline app with its folder too",
            )
        return Path(path).resolve()

    def name_of(self, path: Path) -> str:
        """For people: from its folder on, which is named where there are several."""
        for root in self.roots:
            if path == root or root in path.parents:
                short = path.relative_to(root)
                return str(root.name / short) if len(self.roots) > 1 or path == root else str(short)
        return str(path)

    def look(self) -> Found:
        """What there is now."""
        groups: list[Path] = []
        pages: dict[Path, str] = {}
        runs: list[Path] = []
        results: list[Path] = []
        count = 0
        for path in self._files():
            count += 1
            if count > _MOST:
                break
            if path.name == "metrics.jsonl" and (path.parent / "recipe.yaml").is_file():
                runs.append(path.parent)
            elif path.suffix == ".jsonl" and _is_group_file(path):
                groups.append(path)
            elif path.suffix == ".html" and (title := page_title(path)) is not None:
                pages[path] = title
            elif path.name.startswith("results") and path.suffix == ".json" and graded_path(path).is_file():
                results.append(path)
        return Found(
            groups=tuple(sorted(groups)),
            checks=tuple(sorted(path for path, title in pages.items() if title.startswith(_CHECK))),
            pages=tuple(sorted(path for path, title in pages.items() if not title.startswith(_CHECK))),
            runs=tuple(sorted(runs, key=lambda run: -(run / "metrics.jsonl").stat().st_mtime)),
            results=tuple(sorted(results)),
            whole=count <= _MOST,
        )

    def _files(self) -> Iterator[Path]:
        for root in self.roots:
            for folder, below, names in os.walk(root):
                depth = len(Path(folder).relative_to(root).parts)
                below[:] = sorted(n for n in below if n not in _PASSED and n[0] != "." and depth < _DEPTH)
                paths = [Path(folder) / name for name in sorted(names)]
                yield from (path for path in paths if not path.is_symlink() or self.holds(path))


def page_title(path: Path) -> str | None:
    """The title of a page that Sightline wrote; None: it is another page."""
    head = _head(path)
    if _OURS not in head:
        return None
    found = _TITLE.search(head.decode("utf-8", "replace"))
    return html.unescape(found[1]).strip() if found else ""


def is_evaluation(path: Path) -> bool:
    """Whether a folder holds results of several benchmarks, a folder each."""
    return path.is_dir() and any(path.glob(f"*/{RESULTS}"))


def has_choice(path: Path) -> bool:
    """Whether the first row of a Group file has several answers and no comparison yet: such files are for labelling."""
    try:
        with path.open("rb") as file:
            row = json.loads(file.readline())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(row, dict) and len(row.get("responses") or ()) > 1 and not row.get("edges")


def _is_group_file(path: Path) -> bool:
    head = _head(path)
    if _GROUP.match(head):
        return True
    line, end, _ = head.lstrip().partition(b"\n")
    try:
        row = json.loads(line) if end else None
    except (ValueError, RecursionError):
        return False
    return isinstance(row, dict) and isinstance(row.get("prompts"), list)


def _head(path: Path) -> bytes:
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for
            return b""
        return _head_of(path, found.st_mtime_ns, found.st_size)
    except OSError:
        return b""


@functools.lru_cache(maxsize=1024)
def _head_of(path: Path, changed: int, size: int) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD)
