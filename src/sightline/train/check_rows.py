"""The rows that ``sightline data check`` looks at: read and held out as training would, and measured on the way."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sightline.algorithms.registry import build_algorithm
from sightline.data.augment import Reader, resolved
from sightline.data.encode import too_long
from sightline.data.inspect.checked import SourceFigures, bad_rows, unread_columns
from sightline.data.inspect.figures import Finding
from sightline.data.load import Account
from sightline.data.readers.layouts import recognised
from sightline.data.readers.sources import read_rows
from sightline.data.split import held_out_places
from sightline.data.store import Storing, load_part
from sightline.data.stored import JoinedGroups, at_places
from sightline.data.validate import Checks, Needs, Part
from sightline.errors import DataError, SightlineError
from sightline.negatives.relate import visual_relation
from sightline.progress import Progress
from sightline.recipes.schema import DatasetSpec, DataSpec, ReadsSpec, Recipe, VisualSpec
from sightline.relations.options import FACTS as OPTION_FACTS
from sightline.types import Group

if TYPE_CHECKING:
    from sightline.data.render import Lengths, Renderer

MADE: Final = 256
"""Rows of a source whose comparisons of pictures are made: enough to know what they cost."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """The rows of one source that can be used; all sequences in the same order."""

    spec: DataSpec
    groups: Sequence[Group] = ()
    """As the data have them."""
    trained: Sequence[Group] = ()
    """As they are trained: with comparisons of pictures, which only the first of a source get."""
    lengths: Sequence[Lengths] = ()
    """Of ``groups``; empty without a model."""
    costs: Sequence[Lengths | None] = ()
    """Of ``trained``; None: its comparisons of pictures are not made."""
    keys: Callable[[], Sequence[tuple[bytes, ...]]] = tuple
    """For each, digests of its pictures, or of its question."""

    def only(self, places: Sequence[int]) -> Source:
        """The rows at some places."""
        return replace(
            self,
            groups=at_places(self.groups, places),
            trained=at_places(self.trained, places),
            lengths=[self.lengths[place] for place in places] if self.lengths else (),
            costs=[self.costs[place] for place in places] if self.costs else (),
        )


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The rows of one part of the data."""

    sources: Sequence[Source] = ()
    figures: Sequence[SourceFigures] = ()
    measured: Sequence[Lengths] = ()
    """Of all rows that could be measured, those that are too long included."""
    too_long: Finding = field(default_factory=Finding)

    @property
    def groups(self) -> Sequence[Group]:
        """As the data have them."""
        return JoinedGroups(*(source.groups for source in self.sources))

    @property
    def lengths(self) -> Iterator[Lengths]:
        """Of ``groups``."""
        return itertools.chain.from_iterable(source.lengths for source in self.sources)

    def first(self, count: int) -> Iterator[Group]:
        """Of every source the first so many, as they are trained."""
        return itertools.chain.from_iterable(source.trained[:count] for source in self.sources)

    def split(self, share: float, seed: int) -> tuple[Rows, Rows]:
        """What is trained and what is held out (``data.validation``).

        Raises:
            DataError: One side is empty.
        """
        keys = [source.keys() for source in self.sources]
        left = iter(held_out_places(list(itertools.chain.from_iterable(keys)), share, seed))
        sides: tuple[list[Source], list[Source]] = ([], [])
        for source in self.sources:
            held = list(itertools.islice(left, len(source.groups)))
            for side, wanted in zip(sides, (False, True), strict=True):
                side.append(source.only([place for place, one in enumerate(held) if one is wanted]))
        return replace(self, sources=sides[0]), Rows(sources=sides[1])


class RowReader:
    """Reads sources row by row in this process; groups lie on disk, their lengths in memory."""

    def __init__(
        self, dataset: DatasetSpec, renderer: Renderer | None, recipe: Recipe | None, folder: Path, *, shown: bool
    ) -> None:
        """
        Args:
            dataset: the rows.
            renderer: of the model; None: nothing is measured.
            recipe: that would be run; None: rows alone.
            folder: of temporary files.
            shown: progress.
        """
        self.dataset, self.renderer, self.recipe, self.folder, self.shown = dataset, renderer, recipe, folder, shown
        self.reads = resolved(dataset.reads or ReadsSpec())
        self.read = Reader(self.reads)
        self.notes: list[str] = []
        self._ids: set[str] = set()
        self._count = 0

    def part(self, part: Part, specs: Sequence[DataSpec]) -> Rows:
        """
        Raises:
            DataError, RecipeError: rows that are not there, or in no known layout; single bad rows are findings.
        """
        sources, figures, late = [], [], Finding()
        measured: list[Lengths] = []
        for spec in specs:
            account, lengths = self._account(part), _Measured(self)
            account.checks = replace(account.checks, num_tokens=lengths.count)
            if spec.visual is not None:
                account.visual = lengths.relate
            sources.append(self._source(spec, account, lengths))
            measured += lengths.own.values()
            for bad in account.report.bad:
                if bad.reason == "too long":
                    late.add(f"{bad.file}:{bad.row}")
            figures.append(self._figures(spec, part, account, sources[-1].groups))
        return Rows(sources=sources, figures=figures, measured=measured, too_long=late)

    def lengths(self, group: Group) -> Lengths:
        """Tokens of a group as it is read."""
        assert self.renderer is not None
        return self.renderer.lengths(self.read(group))

    def _source(self, spec: DataSpec, account: Account, lengths: _Measured) -> Source:
        """The rows that can be used; a source without any is a finding, one without rows a mistake."""
        self._count += 1
        with Progress(f"rows of {Path(spec.path).name}:", None, shown=self.shown) as bar:
            storing = Storing(
                folder=self.folder / f"rows-{self._count}",  # a file that is named twice is read twice
                always=True,
                visual=str(self.folder),
                shown=lambda rows, pictures: bar.update(rows),
                workers=1,  # lengths are kept by this process
            )
            try:
                loaded = load_part([spec], account, storing)
            except DataError:
                if not account.report.read:
                    raise
                return Source(spec=spec)
        if len(loaded.groups) > MADE and spec.visual is not None:
            self.notes.append(f"{spec.path}: comparisons of pictures were made of the first {MADE} rows alone")
        if self.renderer is None:
            return Source(spec=spec, groups=loaded.compared, trained=loaded.groups, keys=loaded.keys)
        own = [lengths.of(group) for group in loaded.compared]
        costs = own if spec.visual is None else [lengths.related.get(group.source) for group in loaded.compared]
        return Source(
            spec=spec, groups=loaded.compared, trained=loaded.groups, lengths=own, costs=costs, keys=loaded.keys
        )

    def _account(self, part: Part) -> Account:
        prompts_only = self.recipe is not None and self.recipe.online is not None and part == "train"
        return Account(
            checks=Checks(answers=self.recipe is not None and not prompts_only, max_length=self.dataset.max_length),
            on_bad_row="skip",
            cache_dir=self.folder / "images",
            seed=self._seed,
            prompts_only=prompts_only,
            needs=None if prompts_only else self._needs(),
            ids=self._ids,
        )

    @property
    def _seed(self) -> int:
        return 0 if self.recipe is None else self.recipe.seed

    @property
    def sampled(self) -> int:
        """Tokens that an online run may add to a prompt."""
        online = None if self.recipe is None else self.recipe.online
        return 0 if online is None else online.sampling.max_new_tokens

    def visual(self, spec: VisualSpec, groups: Sequence[Group]) -> Callable[[Group], Group]:
        """The visual relation of a source."""
        return visual_relation(spec, groups, folder=self.folder / "negatives", seed=self._seed)

    def _needs(self) -> Needs | None:
        if self.recipe is None:
            return None
        algorithm = build_algorithm(self.recipe.algorithm)
        return Needs(
            algorithm=self.recipe.algorithm["name"],
            comparisons=algorithm.compares,
            rewards="rewards" in algorithm.needs,
            labels="labels" in algorithm.needs,
        )

    def _figures(self, spec: DataSpec, part: Part, account: Account, groups: Sequence[Group]) -> SourceFigures:
        report = account.report
        return SourceFigures(
            part=part,
            path=spec.path if spec.entry is None else f"{spec.path}, entry {spec.entry}",
            read=report.read,
            kept=report.kept,
            with_pictures=report.with_pictures,
            bad=bad_rows(report.bad),
            columns={} if _is_group_file(spec) else unread_columns(groups, self._facts_read(spec)),
            notes=tuple(report.notes),
        )

    def _facts_read(self, spec: DataSpec) -> set[str]:
        captions = [self.reads.captions] if self.reads.images == "caption" else []
        return {*self.reads.facts, *captions, *(OPTION_FACTS if spec.relation == "options" else ())}


class _Measured:
    """Tokens of the rows of one source, by ``file:row``: counted as training does, and kept."""

    def __init__(self, reader: RowReader) -> None:
        self._reader = reader
        self._few: set[str] | None = None
        """Rows whose comparisons of pictures are made, once all are read."""
        self.own: dict[str, Lengths] = {}
        self.related: dict[str, Lengths] = {}

    def of(self, group: Group) -> Lengths:
        """Of a row as the data have it."""
        if group.source not in self.own:
            self.own[group.source] = self._reader.lengths(group)
        return self.own[group.source]

    def count(self, group: Group) -> int:
        """Of the longest answer with its prompt.

        Raises:
            DataError: more than the model's context; ``max_length`` is checked by who asks.
        """
        renderer = self._reader.renderer
        if renderer is None:
            return 0
        if self._few is None:
            found = self.own[group.source] = self._reader.lengths(group)
        elif group.source in self._few:
            found = self.related[group.source] = self._reader.lengths(group)
        else:
            found = self.of(group)
        longest = found.longest + self._reader.sampled
        if longest > renderer.limits.context:
            raise too_long(longest, renderer.limits.context)
        return longest

    def relate(self, spec: VisualSpec, groups: Sequence[Group]) -> Callable[[Group], Group]:
        """The visual relation of the first rows; the others stay as they are."""
        relate = self._reader.visual(spec, groups)
        few = self._few = {group.source for group in groups[:MADE]}
        return lambda group: relate(group) if group.source in few else group


def _is_group_file(spec: DataSpec) -> bool:
    """Whether facts of the rows were put there as facts."""
    if spec.format != "auto" or spec.entry is not None:
        return spec.format == "groups"
    try:
        return recognised(next(iter(read_rows(spec.path, split=spec.split, limit=1))).record()) == "groups"
    except (SightlineError, StopIteration):
        return False
