"""The rows of a recipe: read by one process and found by the others, split, and told about."""

from __future__ import annotations

import bisect
import itertools
import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from sightline.algorithms.registry import build_algorithm
from sightline.data.augment import Reader
from sightline.data.fits import Fits
from sightline.data.reading import Account
from sightline.data.render import Renderer
from sightline.data.render_key import render_key
from sightline.data.sampler import SourceShare, mixture_of
from sightline.data.split import held_out_places
from sightline.data.store import Storing, default_folder, is_stored, load_part
from sightline.data.stored import StoredGroups, at_places
from sightline.data.validate import BAD_ROWS, Checks, DataReport, Needs, Part, write_bad_rows
from sightline.negatives.relate import VisualRelation, visual_relation
from sightline.progress import Progress
from sightline.recipes.schema import DatasetSpec, DataSpec, OnlineSpec, ReadsSpec, Recipe, VisualSpec
from sightline.train.run_folder import RunDirectory
from sightline.train.runtime import Runtime
from sightline.types import Group

_log = logging.getLogger(__name__)

_LONGEST = sys.maxsize
_BEAT = 60.0
"""Seconds after which processes that wait for the main one hear from it."""
_READ = "read"


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What the data sections of a recipe give."""

    train: Sequence[Group]
    """Groups to train on, or prompts to sample for."""
    held_out: Sequence[Group]
    account: dict[str, str]
    """Per part, how many rows were kept, and why not the others."""
    compared: Sequence[Group]
    """Held-out groups, or else those to train on, as the data compare their answers: before comparisons of pictures
    are made of them, and as no reward model reads them."""
    mixture: tuple[SourceShare, ...] = ()
    """The sources of ``train``, whose groups follow each other."""


@dataclass(frozen=True, kw_only=True)
class _Half:
    """One side of a split."""

    groups: Sequence[Group]
    compared: Sequence[Group]
    sizes: tuple[int, ...]
    """Groups of each source."""
    keys: Callable[[], Sequence[tuple[bytes, ...]]] = tuple
    """For each group, digests of its pictures, or of its question."""

    def only(self, places: Sequence[int]) -> _Half:
        """The groups at some places, which ascend."""
        ends = list(itertools.accumulate(self.sizes))
        before = [bisect.bisect_left(places, end) for end in (0, *ends)]
        return _Half(
            groups=at_places(self.groups, places),
            compared=at_places(self.compared, places),
            sizes=tuple(end - start for start, end in itertools.pairwise(before)),
        )


_NONE = _Half(groups=(), compared=(), sizes=())


def load_rows(
    recipe: Recipe, runtime: Runtime, renderer: Renderer, reads: ReadsSpec | None = None, *, quiet: bool = True
) -> Rows:
    """All rows of a recipe, for a reward model as it ``reads`` them. Where reading writes files (stores, pictures that
    the rows embed, negatives), the main process reads first."""
    loading = _Loading(recipe=recipe, runtime=runtime, renderer=renderer, reads=reads, quiet=quiet)
    loading.wait()
    account: dict[str, str] = {}
    train, held_out = _NONE, _NONE
    data, online = recipe.data, recipe.online
    if data is not None:
        train = loading.part(data, "train", account)
        if data.validation:
            train, held_out = loading.split(train, data.validation, account)
        else:
            held_out = loading.part(data, "eval", account)
    if online is not None:
        train = loading.prompts(online, account)
    loading.done()
    mixture = () if data is None or online is not None else mixture_of(data.train, train.sizes)
    if len(mixture) > 1:
        account["mixture"] = "; ".join(f"{one.name}: {one.taken} of {one.size} groups an epoch" for one in mixture)
        loading.tell(logging.INFO, f"mixture: {account['mixture']}")
    return Rows(
        train=train.groups,
        held_out=held_out.groups,
        account=account,
        compared=held_out.compared or (train.compared if online is None else ()),
        mixture=mixture,
    )


def holds_out(recipe: Recipe) -> bool:
    """Whether a recipe has rows that are not trained."""
    return recipe.data is not None and bool(recipe.data.eval or recipe.data.validation)


@dataclass(kw_only=True)
class _Loading:
    """The reading of all parts of a recipe by one process."""

    recipe: Recipe
    runtime: Runtime
    renderer: Renderer
    reads: ReadsSpec | None
    quiet: bool
    _beat: float = 0.0

    def __post_init__(self) -> None:
        self.folder = Path(self.recipe.output_dir)
        self.key = render_key(self.renderer, self.recipe.model)
        self.dataset = self.recipe.data or DatasetSpec(max_length=_LONGEST)
        self.in_turn = self.runtime.size > 1 and (_reading_writes(self.recipe) or self._stores())
        self._beat = time.monotonic()

    def part(self, dataset: DatasetSpec, part: Part, account: dict[str, str]) -> _Half:
        """One list of sources."""
        read = Reader(self.reads)
        count, fits = read.counting(self.renderer.num_tokens), Fits(self.renderer)
        checks = Checks(
            answers=True,
            max_length=dataset.max_length,
            num_tokens=count,
            fits=lambda group, most: fits(read(group), most),
        )
        reader = Account(
            checks=checks,
            on_bad_row=dataset.on_bad_row,
            cache_dir=self.folder / "images",
            seed=self.recipe.seed,
            visual=_Visual(folder=self._negatives, seed=self.recipe.seed),
            needs=_needs(self.recipe),
        )
        specs = dataset.train if part == "train" else dataset.eval
        loaded = self._load(specs, reader, part, f"checking {part} rows:", None if self.reads is None else read)
        account[part] = _told(part, reader.report, self.folder, self.runtime)
        return loaded

    def prompts(self, online: OnlineSpec, account: dict[str, str]) -> _Half:
        """The prompts that are sampled for; the longest answer that may come is counted as well. Where there is
        ``data``, its ``on_bad_row`` and ``max_length`` hold for them."""
        new = online.sampling.max_new_tokens
        reader = Account(
            checks=Checks(max_length=self.dataset.max_length, num_tokens=partial(self.renderer.num_tokens, new=new)),
            on_bad_row=self.dataset.on_bad_row,
            cache_dir=self.folder / "images",
            prompts_only=True,
        )
        loaded = self._load([online.prompts], reader, "train", "checking prompts:", None, f"{new} new")
        account["train"] = _told("train", reader.report, self.folder, self.runtime)
        return loaded

    def split(self, train: _Half, share: float, account: dict[str, str]) -> tuple[_Half, _Half]:
        """What is trained and what is held out."""
        out = held_out_places(train.keys(), share, self.recipe.seed)
        held = [place for place, held in enumerate(out) if held]
        account["validation"] = f"{len(held)} of {len(out)} groups held out, with all that share a picture with them"
        self.tell(logging.INFO, f"validation: {account['validation']}")
        return train.only([place for place, held in enumerate(out) if not held]), train.only(held)

    def _load(
        self, specs: Sequence[DataSpec], reader: Account, part: Part, title: str, read: Reader | None, more: str = ""
    ) -> _Half:
        with Progress(title, None, shown=self.runtime.is_main and not self.quiet) as bar:

            def shown(rows: int, pictures: int) -> None:
                bar.update(rows, figures=f"{pictures} pictures" if pictures else "")
                self._stir()

            storing = replace(
                self._storing(),
                decided_by=json.dumps([self.key, more, None if self.reads is None else asdict(self.reads)]),
                visual=str(self._negatives.absolute()),
                read=read,
                shown=shown,
            )
            try:
                loaded = load_part(specs, reader, storing)
            finally:  # the list helps most where no row is left
                if reader.on_bad_row == "skip":
                    write_bad_rows(self.folder, part, reader.report)
        sizes = tuple(one.kept for one in reader.report.sources)
        return _Half(groups=loaded.groups, compared=loaded.compared, sizes=sizes, keys=loaded.keys)

    @property
    def _negatives(self) -> Path:
        return RunDirectory(path=self.folder).negatives

    def _storing(self) -> Storing:
        given = self.dataset.cache_dir
        return Storing(folder=default_folder() if given is None else Path(given), always=given is not None)

    def _stores(self) -> bool:
        prompts = [] if self.recipe.online is None else [self.recipe.online.prompts]
        parts = (self.dataset.train, self.dataset.eval, prompts)
        return any(is_stored(specs, self._storing()) for specs in parts)

    def tell(self, level: int, text: str) -> None:
        """By the main process alone."""
        if self.runtime.is_main:
            _log.log(level, text)

    # --- one process first ---

    def wait(self) -> None:
        """All but the main process wait here until it has read, where reading writes files."""
        while self.in_turn and not self.runtime.is_main and self.runtime.gather_objects("")[0] != _READ:
            pass

    def done(self) -> None:
        """Lets the others go on."""
        if self.in_turn and self.runtime.is_main:
            self.runtime.gather_objects(_READ)

    def _stir(self) -> None:
        """Tells those that wait that they are to wait: no wait is longer than process groups allow."""
        if self.in_turn and self.runtime.is_main and time.monotonic() - self._beat > _BEAT:
            self.runtime.gather_objects("")
            self._beat = time.monotonic()


def _reading_writes(recipe: Recipe) -> bool:
    """Whether reading may write files, so that processes must not do it at once: all but plain Group files may."""
    data = recipe.data or DatasetSpec()
    sources = [*data.train, *data.eval, *([] if recipe.online is None else [recipe.online.prompts])]
    plain = all(
        spec.format == "groups" and spec.visual is None and Path(spec.path).suffix in (".json", ".jsonl")
        for spec in sources
    )
    return not plain or data.on_bad_row == "skip"


def _needs(recipe: Recipe) -> Needs:
    """What the recipe's algorithm asks of every row."""
    algorithm = build_algorithm(recipe.algorithm)
    return Needs(
        algorithm=recipe.algorithm["name"],
        comparisons=algorithm.compares,
        rewards="rewards" in algorithm.needs,
        labels="labels" in algorithm.needs,
    )


@dataclass(frozen=True, kw_only=True)
class _Visual:
    """Makes the visual relation of each source."""

    folder: Path
    seed: int

    def __call__(self, spec: VisualSpec, groups: Sequence[Group]) -> VisualRelation:
        relation = visual_relation(spec, groups, folder=self.folder, seed=self.seed)
        if not isinstance(groups, StoredGroups):  # whose pictures are made by the processes that check them
            relation.make_ahead(groups)
        return relation


def _told(part: Part, report: DataReport, folder: Path, runtime: Runtime) -> str:
    """The account of a part. The main process also tells it: as a warning where rows were left out or guessed."""
    account = "; ".join((report.summary(), *report.notes))
    where = f". Those left out are listed in {folder / BAD_ROWS}" if report.bad else ""
    if runtime.is_main and report.read:
        _log.log(logging.WARNING if report.bad or report.notes else logging.INFO, "%s: %s%s", part, account, where)
    return account
