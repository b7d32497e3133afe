"""From a recipe's data sections to lists of Groups, with an account of every row."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sightline.data.readers.factory import Entry, read_entry
from sightline.data.readers.rows import Row, rows_of
from sightline.data.readers.sources import read_rows
from sightline.data.readers.where import taken
from sightline.data.reading import Account, MakeVisual, OnBadRow, SourceReader, each
from sightline.data.validate import Checks, DataReport, Needs, Part, SourceCount, write_bad_rows
from sightline.errors import DataError, RecipeError
from sightline.recipes.schema import DatasetSpec, DataSpec
from sightline.types import Group

__all__ = [
    "Account",
    "MakeVisual",
    "OnBadRow",
    "groups_from_records",
    "load_dataset_spec",
    "load_groups",
    "load_prompts",
]


def load_dataset_spec(
    dataset: DatasetSpec,
    part: Part,
    run_dir: Path | None = None,
    num_tokens: Callable[[Group], int] | None = None,
    *,
    seed: int = 0,
    visual: MakeVisual | None = None,
    needs: Needs | None = None,
) -> tuple[list[Group], DataReport]:
    """All rows of one part of a recipe's data, ready to train on.

    Args:
        dataset: The recipe's ``data``.
        part: Which of its lists of sources.
        run_dir: Gets ``bad_rows.jsonl`` where rows were skipped, and in ``images`` pictures that parquet
            files or datasets embed.
        num_tokens: Tokens of a group's longest prompt plus response; None: ``max_length`` is not checked.
        seed: For relations that draw.
        visual: For sources that ask for comparisons of pictures.
        needs: What the algorithm needs of every row.

    Returns:
        The groups, in the order of the sources, and the account of all rows. No sources: no groups.

    Raises:
        DataError: A bad row (``on_bad_row: error``), with file, row and remedy; or no usable row at all.
        RecipeError: The layout of the rows is not recognised, or ``rename`` names a column that is not there.
    """
    specs = dataset.train if part == "train" else dataset.eval
    account = Account(
        checks=Checks(answers=True, max_length=dataset.max_length, num_tokens=num_tokens),
        on_bad_row=dataset.on_bad_row,
        cache_dir=None if run_dir is None else run_dir / "images",
        seed=seed,
        visual=visual,
        needs=needs,
    )
    try:
        groups = [group for spec in specs for group in load_groups(spec, account)]
    finally:  # the list helps most where no row is left
        if run_dir is not None and dataset.on_bad_row == "skip":
            write_bad_rows(run_dir, part, account.report)
    return groups, account.report


def load_prompts(spec: DataSpec, account: Account | None = None) -> list[Group]:
    """The prompts of a source, for sampling: groups without responses, which rows may lack or leave empty."""
    account = account or Account()
    return load_groups(spec, replace(account, prompts_only=True, checks=replace(account.checks, answers=False)))


def load_groups(spec: DataSpec, account: Account | None = None) -> list[Group]:
    """The Groups of one source.

    Args:
        spec: Where the rows are and how they are laid out.
        account: Checks, and what to do about bad rows; its report is added to.

    Raises:
        DataError: A bad row (``on_bad_row: error``), with file, row and remedy; or no usable row at all.
        RecipeError: The layout of the rows is not recognised, or ``rename`` names a column that is not there.
    """
    source = open_source(spec)
    return _load(source.spec, source.rows, account or Account(), source.entry)


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A source whose rows can be taken."""

    spec: DataSpec
    """With the path of the rows, where an entry of a ``dataset_info.json`` names them."""
    entry: Entry | None
    rows: Iterator[Row]


def open_source(spec: DataSpec) -> Opened:
    """The rows of a source that are taken.

    Raises:
        DataError: Nothing readable is there.
        RecipeError: An entry of another layout, or ``where`` with a column that is not there.
    """
    spec, entry = settled(spec)
    rows = read_rows(spec.path, split=spec.split, limit=None if spec.where else spec.limit)
    if spec.where:
        rows = itertools.islice(taken(rows, spec.where, spec.path), spec.limit)
    return Opened(spec=spec, entry=entry, rows=rows)


def settled(spec: DataSpec) -> tuple[DataSpec, Entry | None]:
    """The source with the path of its rows, and the entry of a ``dataset_info.json`` that named it."""
    entry = None if spec.entry is None else read_entry(spec.path, spec.entry)
    if entry is None:
        return spec, None
    if spec.format not in ("auto", entry.layout):
        found = f"{spec.path}: entry '{spec.entry}' has the layout {entry.layout}, and format is {spec.format}"
        raise RecipeError(f"{found}. Remove format.")
    return replace(spec, path=entry.path), entry


def groups_from_records(
    records: Iterable[Mapping[str, Any]], spec: DataSpec, account: Account | None = None
) -> list[Group]:
    """The same for rows that are already in memory (a list, a datasets.Dataset); ``spec.path`` names them in messages.

    Pictures may be PIL images; ``account.cache_dir`` is where they are written.
    """
    return _load(spec, rows_of(records, spec.path), account or Account())


def _load(spec: DataSpec, rows: Iterator[Row], account: Account, entry: Entry | None = None) -> list[Group]:
    report = account.report
    source = SourceReader(spec, account, entry)
    begun = Begun.of(report)
    kept = list(each(source.group, ((replace(row, content=b""), row) for row in counted(rows, report)), account))
    if not account.prompts_only:
        for relation in source.relations():
            groups = [group for _, group in kept]
            if spec.visual is not None:
                account.before |= {group.id: group for group in groups}
            kept = list(each(source.checked(relation(groups)), kept, account))
    kept = list(each(source.complete, kept, account))
    close_source(source, begun, [_shows(group) for _, group in kept], account)
    return [group for _, group in kept]


def _shows(group: Group) -> bool:
    return any(prompt.images for prompt in group.prompts)


@dataclass(frozen=True, kw_only=True)
class Begun:
    """How far the account was when a source was begun."""

    read: int
    bad: int

    @classmethod
    def of(cls, report: DataReport) -> Begun:
        return cls(read=report.read, bad=len(report.bad))


def close_source(source: SourceReader, begun: Begun, pictured: list[bool], account: Account) -> None:
    """Adds a source to the account.

    Args:
        source: that was read.
        begun: how the account stood before.
        pictured: of every row that is kept, whether it has pictures.
        account: of all sources.

    Raises:
        DataError: It has no rows, or none that can be used.
    """
    report, path = account.report, source.spec.path
    read = report.read - begun.read
    if not read:
        raise DataError("there are no rows", source=path, remedy="Name a file or a split that has some")
    if not pictured:
        bad = report.bad[begun.bad :]
        first = f"; the first, row {bad[0].row}: {bad[0].error}" if bad else ""
        found = f"none of {read} rows can be used{first}"
        raise DataError(found, source=path, remedy="Correct the rows, or name another source")
    report.kept += len(pictured)
    report.with_pictures += sum(pictured)
    report.notes += source.notes()
    report.sources.append(SourceCount(path=path, read=read, kept=len(pictured)))


def counted(rows: Iterator[Row], report: DataReport) -> Iterator[Row]:
    """The rows, counted as read."""
    for row in rows:
        report.read += 1
        yield row
