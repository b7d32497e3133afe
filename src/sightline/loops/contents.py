"""Short names for what files and folders hold: a stage is done again when what it reads has another one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sightline.data.identity import pictures_of
from sightline.data.schema import group_to_json
from sightline.evaluation.weights import fingerprint_files
from sightline.models.locate import is_run, model_folder
from sightline.types import Group

_BLOCK = 1 << 20
_LENGTH = 16
"""Digits of a digest."""


class Contents:
    """Digests as things are now; of what was removed on purpose, as it was."""

    def __init__(self, root: Path, released: Mapping[str, str]) -> None:
        """
        Args:
            root: folder of the loop.
            released: digests of what was removed, by its place below ``root``.
        """
        self._root, self._released = root, released
        self._prompts: dict[Path, str] = {}
        self._read: dict[str, str] = {}

    def add_prompts(self, file: Path, groups: Sequence[Group]) -> None:
        """From now on a file of prompts is what its groups ask and show, wherever their rows and pictures lie."""
        for path in dict.fromkeys(path for group in groups for path in pictures_of(group)):
            if path not in self._read:
                self._read[path] = _bytes_digest(Path(path))
        shown = [[[self._read[path] for path in prompt.images] for prompt in group.prompts] for group in groups]
        self._prompts[file] = digest_of([shown, *(group_to_json(_placeless(group)) for group in groups)])

    def place(self, path: Path) -> str:
        """A path as the state names it: below the folder of the loop relative to it."""
        full = path.absolute()
        root = self._root.absolute()
        return full.relative_to(root).as_posix() if full.is_relative_to(root) else str(path)

    def is_released(self, path: Path) -> bool:
        """Whether it was removed on purpose."""
        return not path.exists() and self.place(path) in self._released

    def is_thinned(self, folder: Path) -> bool:
        """Whether something in it was removed on purpose."""
        return any(place.startswith(f"{self.place(folder)}/") for place in self._released)

    def of(self, path: Path) -> str | None:
        """Digest of a file or folder; None: there is nothing, though there should be."""
        if path.exists():
            return (
                _of_folder(path) if path.is_dir() else self._prompts.get(path) or digest_of([_bytes_digest(path), None])
            )
        place = self.place(path)
        if place in self._released:
            return self._released[place]
        return None if path.absolute().is_relative_to(self._root.absolute()) else place  # a name of the hub


def _placeless(group: Group) -> Group:
    return replace(group, source="", prompts=tuple(replace(prompt, images=()) for prompt in group.prompts))


def digest_of(value: Any) -> str:
    """Of plain JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:_LENGTH]


def digests(paths: Iterable[Path]) -> dict[str, str]:
    """Of files and folders that are there, by their names."""
    return {str(path): _of_folder(path) if path.is_dir() else _bytes_digest(path) for path in paths}


def pictures_digest(groups: Iterable[Group]) -> str:
    """Of all pictures that groups show, each read once."""
    paths = dict.fromkeys(path for group in groups for path in pictures_of(group))
    return digest_of([_bytes_digest(Path(path)) for path in paths])


def _of_folder(folder: Path) -> str:
    if is_run(folder) and (folder / "model").is_dir():
        folder = model_folder(folder)
    if any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        return fingerprint_files(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".tmp")
    return digest_of([[path.relative_to(folder).as_posix(), _bytes_digest(path)] for path in files])


def _bytes_digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
