"""Work on groups that is appended to a Group file as it is done; killed, it goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sightline.data.schema import append_groups, complete_lines, read_groups
from sightline.errors import CheckpointError, DataError
from sightline.files import read_settings, replace_file
from sightline.progress import Progress


class Item(Protocol):
    """A group, or what is made of one."""

    @property
    def id(self) -> str: ...

    @property
    def source(self) -> str: ...


Work = Callable[[Any], Sequence[Item]]
"""Some groups in, as many out, in the same order, under the same ids."""
_REMEDY = "Choose another --out, or pass --overwrite (in Python overwrite=True)."


def _nothing(item: Any) -> str:
    return ""


@dataclass(frozen=True, kw_only=True)
class StagedGroups:
    """A Group file that is made piece by piece."""

    out: Path
    """The Group file."""
    settings: Mapping[str, Any] | None
    """All that changes the output, kept in ``<out>.settings.json``. Going on with other settings would mix two outputs,
    and is refused. None: whoever calls sees to that."""
    tell: Callable[[str], None]
    """Gets what a person should know."""
    read: Callable[[Path], Iterable[Item]] = read_groups
    append: Callable[[Path, Any], object] = append_groups
    """How the file is read and added to, where its lines are no Groups but made of one each (``data.trees``)."""
    made_from: Callable[[Any], str] = _nothing
    """Digest of what an item was made from, told of those in the file and of those to work on: where it differs the
    file holds the work on another one, and going on is refused."""

    def run(self, groups: Sequence[Item], work: Work, *, chunk: int, title: str, overwrite: bool = False) -> int:
        """Work on the groups whose id the file does not hold yet, a chunk at a time.

        Where a chunk ends does not depend on what is there: one that a kill cut is worked on again as a whole, so that
        answers are computed together with the same others, and the rest of it is added.

        Returns:
            How many groups were missing.

        Raises:
            CheckpointError: The file was made with other settings, or from other groups under the same ids.
            DataError: Two groups have the same id, so that what is done could not be told from what is left.
        """
        _check_ids(groups)
        done = self._done(overwrite)
        self._check_same(groups, done)
        there = sum(group.id in done for group in groups)
        if self.settings is not None:
            replace_file(self._settings_file, json.dumps(self.settings, indent=2) + "\n")
        if there:
            self.tell(f"{there} of {len(groups)} are in {self.out} already, {len(groups) - there} are left.")
        starts = range(0, len(groups), chunk)
        chunks = [some for some in (groups[start : start + chunk] for start in starts) if not _all_in(done, some)]
        try:
            with Progress(title, len(groups), done=there) as bar:
                for some in chunks:
                    made = [one for group, one in zip(some, work(some), strict=True) if group.id not in done]
                    self.append(self.out, made)
                    there += len(made)
                    bar.update(there)
        except KeyboardInterrupt:
            self.tell(f"Stopped. The same command goes on after what is in {self.out}.")
            raise
        return len(groups) - len(done.keys() & {group.id for group in groups})

    @property
    def _settings_file(self) -> Path:
        return self.out.with_name(f"{self.out.name}.settings.json")

    def _done(self, overwrite: bool) -> dict[str, str]:
        """Ids that the file holds, with what each was made from; a half-written last line is removed."""
        if self.out.is_dir():
            raise CheckpointError(f"{self.out} is a folder. Give --out the name of a file, such as groups.jsonl.")
        if overwrite:
            self.out.unlink(missing_ok=True)
        if not self.out.exists():
            return {}
        if self.settings is not None:
            self._check_settings(self.settings)
        complete_lines(self.out)
        return {group.id: self.made_from(group) for group in self.read(self.out)}

    def _check_same(self, groups: Sequence[Item], done: Mapping[str, str]) -> None:
        for group in groups:
            if group.id in done and self.made_from(group) != done[group.id]:
                raise CheckpointError(
                    f"{self.out} holds {group.id!r} made from other texts, pictures, facts or answers than it has now. "
                    f"{_REMEDY}"
                )

    def _check_settings(self, settings: Mapping[str, Any]) -> None:
        if not self._settings_file.exists():
            raise CheckpointError(f"{self.out} exists, and {self._settings_file.name} beside it does not. {_REMEDY}")
        there = read_settings(self._settings_file)
        here = json.loads(json.dumps(settings))
        names = [name for name in {**there, **here} if there.get(name) != here.get(name)]
        if names:
            changes = "; ".join(f"{name}: {there.get(name)} there, {here.get(name)} here" for name in names)
            raise CheckpointError(f"{self.out} was made with other settings ({changes}). {_REMEDY}")


def _all_in(done: Mapping[str, str], groups: Sequence[Item]) -> bool:
    return all(group.id in done for group in groups)


def _check_ids(groups: Sequence[Item]) -> None:
    seen: set[str] = set()
    for group in groups:
        if group.id in seen:
            raise DataError(f"the id {group.id!r} stands twice", source=group.source, remedy="Give each group its own")
        seen.add(group.id)
