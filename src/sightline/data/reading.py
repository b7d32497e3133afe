"""One source of rows, row by row: from what a file holds to checked Groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from sightline.data.picture_files import PictureFiles
from sightline.data.readers.conversation import Reading
from sightline.data.readers.factory import Entry
from sightline.data.readers.layouts import LAYOUTS, recognised
from sightline.data.readers.pictures import Pictures
from sightline.data.readers.rows import Row, RowError
from sightline.data.readers.sources import folder_of
from sightline.data.readers.unread import check_unread
from sightline.data.schema import group_from_json
from sightline.data.stored import StoredGroups
from sightline.data.validate import Checks, DataReport, Needs, as_bad_row, check_group, check_needs
from sightline.errors import DataError, RecipeError, shortened
from sightline.recipes.load import nearest
from sightline.recipes.schema import DataSpec, VisualSpec
from sightline.relations.mismatched import mismatched
from sightline.relations.options import option_pair
from sightline.relations.scores import extremes
from sightline.types import Group

OnBadRow = Literal["error", "skip"]
Item = TypeVar("Item")
MakeVisual = Callable[[VisualSpec, Sequence[Group]], Callable[[Group], Group]]
"""From a ``visual`` section and all groups of its source to what turns each of them into comparisons of pictures
(``negatives.relate.visual_relation``)."""


@dataclass(kw_only=True)
class Account:
    """What several sources are read with, and into."""

    checks: Checks = field(default_factory=Checks)
    on_bad_row: OnBadRow = "error"
    cache_dir: Path | None = None
    """Folder that pictures which live in memory are written to."""
    fetched: Callable[[str], str] | None = None
    """Path of the picture at an http or https address; None: addresses are refused."""
    unfetched: Mapping[str, str] = field(default_factory=dict)
    """Why the picture at an address could not be fetched."""
    seed: int = 0
    """Draws the wrong option for ``relation: options``, and the answer for ``mismatched``."""
    prompts_only: bool = False
    """Responses are left out."""
    visual: MakeVisual | None = None
    """For sources with ``visual``; None: such a source is refused."""
    needs: Needs | None = None
    """What an algorithm needs of every row; None: nothing."""
    report: DataReport = field(default_factory=DataReport)
    files: PictureFiles = field(default_factory=PictureFiles)
    ids: set[str] = field(default_factory=set)
    """Ids in use, over all sources."""
    before: dict[str, Group] = field(default_factory=dict)
    """By id, the groups of sources with ``visual`` as their rows compare answers."""


def each(
    make: Callable[[Item], Group], items: Iterable[tuple[Row, Item]], account: Account
) -> Iterator[tuple[Row, Group]]:
    """What ``make`` makes of each row's item; a bad row stops everything or is reported, as the account says."""
    for row, item in items:
        try:
            yield row, make(item)
        except DataError as error:
            refuse(row, error, account)


def refuse(row: Row, error: DataError, account: Account) -> None:
    """Reports a bad row.

    Raises:
        RowError: The account asks for an end.
    """
    if account.on_bad_row == "error":
        where = f"{row.file}, row {row.number} (counted from 1)"
        reason = error.reason if isinstance(error, RowError) else "malformed"
        raise RowError(reason, error.found, source=where, remedy=error.remedy) from error
    account.report.bad.append(as_bad_row(row.file, row.number, error))


class SourceReader:
    """One source while it is read: its layout is settled by its first readable row."""

    def __init__(self, spec: DataSpec, account: Account, entry: Entry | None) -> None:
        self.spec, self.account, self.entry = spec, account, entry
        self.pictures = Pictures(
            image_dir=spec.image_dir,
            data_dir=folder_of(spec.path),
            cache_dir=account.cache_dir,
            must_exist=account.checks.images,
            fetched=account.fetched,
            unfetched=account.unfetched,
        )
        self.format: str | None = None
        self.left_out: Counter[str] = Counter()

    def group(self, row: Row) -> Group:
        """The checked Group of one row."""
        record = row.record()
        if self.format is None:
            self._check_rename(record)
        for old, new in self.spec.rename.items():
            if new in record and old in record:
                raise RowError("malformed", f"rename turns '{old}' into '{new}', which is there already")
            if old in record:
                record[new] = record.pop(old)
        if self.entry is not None:
            record, self.format = self.entry.row(record), self.entry.layout
        elif self.format is None:
            self.format = _layout(record, self.spec)
        else:
            self._check_layout(record)
        group = self._unique(self._read(record, row), row)
        check_group(group, self.account.checks, self.account.files)
        self.account.ids.add(group.id)
        return group

    def copy(self, account: Account) -> SourceReader:
        """The same source for another account, its layout settled."""
        made = SourceReader(self.spec, account, self.entry)
        made.format = self.format
        return made

    def relations(self) -> list[Callable[[Sequence[Group]], Callable[[Group], Group]]]:
        """Relations that need the whole source: from all of its groups to what relates one of them."""
        found: list[Callable[[Sequence[Group]], Callable[[Group], Group]]] = []
        if self.spec.relation == "mismatched":
            found.append(self._mismatched)
        if self.spec.visual is not None:
            found.append(self._visual)
        return found

    def _mismatched(self, groups: Sequence[Group]) -> Callable[[Group], Group]:
        counts = groups.responses() if isinstance(groups, StoredGroups) else None
        return mismatched(groups, seed=self.account.seed, counts=counts)

    def _visual(self, groups: Sequence[Group]) -> Callable[[Group], Group]:
        assert self.spec.visual is not None
        if self.account.visual is None:
            raise RecipeError(f"{self.spec.path}: visual is made by a training run, and rows are only read here.")
        return self.account.visual(self.spec.visual, groups)

    def checked(self, relate: Callable[[Group], Group]) -> Callable[[Group], Group]:
        """Checks what was related again: other pictures and other answers may take more tokens."""

        def related(group: Group) -> Group:
            made = relate(group)
            check_group(made, self.account.checks, self.account.files)
            return made

        return related

    def complete(self, group: Group) -> Group:
        """The group, if it has what the algorithm needs."""
        if self.account.needs is not None:
            check_needs(group, self.account.needs)
        return group

    def notes(self) -> list[str]:
        """What a person should know."""
        told = [f"{self.spec.path}: {count} {what} left out" for what, count in self.left_out.items() if count]
        by_name = self.pictures.found_by_name
        if by_name:
            file, given = next(iter(by_name.items()))
            told.append(f"{self.spec.path}: {len(by_name)} pictures found by their bare name ('{given}' as {file})")
        return told

    def _read(self, record: dict[str, Any], row: Row) -> Group:
        relation = self.spec.relation
        if self.format == "groups":
            if relation == "best_worst":
                remedy = "Run `sightline pairs --relation best_worst` on it and train on what that writes."
                raise RecipeError(f"{self.spec.path}: relation: best_worst is for rows, found a Group file. {remedy}")
            group = group_from_json(record, self.pictures.path)
            group = group if relation != "none" else replace(group, edges=())
        else:
            reading = Reading(
                pictures=self.pictures,
                id=_id_of(record, row),
                train_history=self.spec.train_on == "all" and relation != "options" and not self.account.prompts_only,
                relate=relation in ("text", "best_worst", "mismatched"),
                left_out=self.left_out,
            )
            assert self.format is not None
            read = LAYOUTS[self.format].read
            assert read is not None
            group = read(record, reading)
            facts = group.prompts[0].facts
            left = {name: value for name, value in record.items() if name in facts and name != "facts"}
            check_unread(left, pictures=sum(len(prompt.images) for prompt in group.prompts))
        if self.account.prompts_only:
            # rows are asked about their own picture; the prompts of a Group file are all questions
            prompts = group.prompts if self.format == "groups" else group.prompts[:1]
            group = replace(group, prompts=prompts, responses=(), edges=())
        elif relation == "options":
            group = _option_pair(group, self.account.seed)
        elif relation == "best_worst":
            group = extremes(group)
        return replace(group, source=row.source)

    def _unique(self, group: Group, row: Row) -> Group:
        """The group under an id that no other has: a second row of the same id gets its number added."""
        suffix = self.suffix(group.id, row)
        if not suffix:
            return group
        return renamed(group, suffix)

    def suffix(self, id: str, row: Row) -> str:
        """What makes an id one that no other row has; mostly empty."""
        if id not in self.account.ids:
            return ""
        suffix = f"#{row.number}"
        while f"{id}{suffix}" in self.account.ids:
            suffix += "+"
        return suffix

    def _check_layout(self, record: Mapping[str, Any]) -> None:
        """A row that is recognised as of another layout is not merely malformed."""
        found = recognised(record)
        if self.spec.format == "auto" and found not in (None, self.format):
            remedy = "Put rows of another layout into a file of their own, and name it as a source of its own"
            raise RowError(
                "malformed", f"the row has the layout {found}, the rows before it {self.format}", remedy=remedy
            )

    def _check_rename(self, record: dict[str, Any]) -> None:
        for old in self.spec.rename:
            if old not in record:
                raise RecipeError(f"{self.spec.path}: rename: found no column '{old}'. {nearest(old, list(record))}")


def renamed(group: Group, suffix: str) -> Group:
    """The group with a suffix to the ids of its prompts."""
    return replace(group, prompts=tuple(replace(prompt, id=f"{prompt.id}{suffix}") for prompt in group.prompts))


def _option_pair(group: Group, seed: int) -> Group:
    try:
        return option_pair(group, seed=seed)
    except DataError as error:
        raise RowError("options", error.found, remedy=error.remedy) from error


def _layout(record: dict[str, Any], spec: DataSpec) -> str:
    if spec.format != "auto":
        return spec.format
    found = recognised(record)
    if found is not None:
        return found
    known = "; ".join(layout.told for layout in LAYOUTS.values())
    raise RecipeError(
        f"{spec.path}: found the columns {shortened(', '.join(record), 300) or '(none)'}, which are no known layout. "
        f"Expected one of: {known}. "
        "Rename columns with rename, or set format."
    )


def _id_of(record: Mapping[str, Any], row: Row) -> str:
    given = record.get("id")
    return str(given) if isinstance(given, str | int) and str(given) else f"{Path(row.file).stem}-{row.number}"
