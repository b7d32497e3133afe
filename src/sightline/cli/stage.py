"""A stage that reads groups, works on them and appends them to a Group file; killed, it goes on where it was."""

from __future__ import annotations

import glob
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sightline.cli.console import say
from sightline.data.schema import append_groups, complete_lines, read_groups
from sightline.errors import CheckpointError, DataError, RecipeError
from sightline.files import read_settings, replace_file
from sightline.progress import Progress
from sightline.types import Group

Work = Callable[[Sequence[Group]], list[Group]]
"""Some groups in, as many out, in the same order, under the same ids."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The output of one stage."""

    out: Path
    """The Group file. Beside it stands ``<out>.settings.json``: what it was made with."""
    settings: dict[str, Any]
    """All that changes the output. Going on with other settings would mix two outputs, and is refused."""

    def run(self, groups: Sequence[Group], work: Work, *, chunk: int, title: str, overwrite: bool = False) -> int:
        """Work on the groups whose id the file does not hold yet, a chunk at a time.

        Returns:
            How many groups were worked on.

        Raises:
            CheckpointError: The file was made with other settings.
            DataError: Two groups have the same id, so that what is done could not be told from what is left.
        """
        _check_ids(groups)
        done = self._done(overwrite)
        left = [group for group in groups if group.id not in done]
        replace_file(self._settings_file, json.dumps(self.settings, indent=2) + "\n")
        if len(left) < len(groups):
            say(f"{len(groups) - len(left)} of {len(groups)} are in {self.out} already, {len(left)} are left.")
        there = len(groups) - len(left)
        try:
            with Progress(title, len(groups), done=there) as bar:
                for start in range(0, len(left), chunk):
                    some = left[start : start + chunk]
                    append_groups(self.out, work(some))
                    bar.update(there + start + len(some))
        except KeyboardInterrupt:
            say(f"Stopped. The same command goes on after what is in {self.out}.")
            raise
        return len(left)

    @property
    def _settings_file(self) -> Path:
        return self.out.with_name(f"{self.out.name}.settings.json")

    def _done(self, overwrite: bool) -> set[str]:
        """Ids that the file holds; a half-written last line is removed."""
        if self.out.is_dir():
            raise CheckpointError(f"{self.out} is a folder. Give --out the name of a file, such as groups.jsonl.")
        if overwrite:
            self.out.unlink(missing_ok=True)
        if not self.out.exists():
            return set()
        self._check_settings()
        complete_lines(self.out)
        return {group.id for group in read_groups(self.out)}

    def _check_settings(self) -> None:
        remedy = "Choose another --out, or pass --overwrite."
        if not self._settings_file.exists():
            raise CheckpointError(f"{self.out} exists, and {self._settings_file.name} beside it does not. {remedy}")
        there = read_settings(self._settings_file)
        here = json.loads(json.dumps(self.settings))
        names = [name for name in {**there, **here} if there.get(name) != here.get(name)]
        if names:
            changes = "; ".join(f"{name}: {there.get(name)} there, {here.get(name)} here" for name in names)
            raise CheckpointError(f"{self.out} was made with other settings ({changes}). {remedy}")


def check_apart(out: Path, *read: str | Path) -> None:
    """
    Args:
        out: the file to write.
        read: files that are read, patterns of such, or names of other sources.

    Raises:
        RecipeError: one of them is the file to write.
    """
    for path in read:
        files = [path, *glob.iglob(str(path), recursive=True)]  # noqa: PTH207
        if any(Path(file).resolve() == out.resolve() for file in files):
            raise RecipeError(f"--out is {out}, which is read here. Choose another file, so that no row is lost.")


def _check_ids(groups: Sequence[Group]) -> None:
    seen: set[str] = set()
    for group in groups:
        if group.id in seen:
            raise DataError(f"the id {group.id!r} stands twice", source=group.source, remedy="Give each group its own")
        seen.add(group.id)
