"""What ``sightline data check`` does: reads rows as training would, looks at all they have, and forecasts the run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sightline.algorithms.registry import build_algorithm
from sightline.data.augment import Reader, resolved
from sightline.data.encode import too_long
from sightline.data.inspect.answers import AnswerCounter
from sightline.data.inspect.checked import Checked, SourceFigures, bad_rows, unread_columns
from sightline.data.inspect.figures import Finding
from sightline.data.inspect.leaks import Asked, Leak, asked_of, leak
from sightline.data.inspect.pictures import Look, PictureFigures, look_at_all, picture_figures
from sightline.data.inspect.tokens import layout_seen, layout_tokens, scored_tokens, token_figures
from sightline.data.load import Account, load_groups, load_prompts
from sightline.data.readers.layouts import recognised
from sightline.data.readers.sources import read_rows
from sightline.data.sampler import Sampler
from sightline.data.shown import ShownRow, shown_row
from sightline.data.validate import Checks, DataReport, Needs, Part
from sightline.errors import DataError, SightlineError
from sightline.negatives.relate import visual_relation
from sightline.progress import Progress
from sightline.recipes.schema import DatasetSpec, DataSpec, ReadsSpec, Recipe
from sightline.relations.options import FACTS as OPTION_FACTS
from sightline.types import Algorithm, Group

if TYPE_CHECKING:
    from sightline.data.render import Lengths, Renderer
    from sightline.models.forecast import Forecast, Speed
    from sightline.models.outline import Card, Outline

MADE: Final = 256
"""Rows of a source whose comparisons of pictures are made: enough to know what they cost."""
_RENDERED: Final = 16
"""Rows that are rendered to learn how many patches the tower takes of a picture."""


@dataclass(frozen=True, kw_only=True)
class Asks:
    """What is asked for beside the rows."""

    title: str
    rows: int = 2
    """Of each source, how many are shown as the model sees them."""
    decode: bool = True
    """False: pictures are opened for their sizes alone."""
    against: tuple[tuple[str, tuple[Asked, ...]], ...] = ()
    """Benchmarks: a name, and what it asks."""
    shown: bool = True
    """Progress."""
    speed: Callable[[Outline], Speed] | None = None
    """Of the device that the run is forecast for; None: no forecast."""
    processes: int = 1


@dataclass(kw_only=True)
class Rows:
    """The rows of one part of the data."""

    part: Part
    groups: list[Group] = field(default_factory=list)
    """As the data have them."""
    first: list[Group] = field(default_factory=list)
    """The first of each source, as they are trained: with comparisons of pictures, as a reward model reads them."""
    cost: list[Lengths] = field(default_factory=list)
    """Of groups as they are trained: of all, or where comparisons of pictures are made of the first of each source."""
    lengths: list[Lengths] = field(default_factory=list)
    """Of all rows that could be measured."""
    of_groups: list[Lengths] = field(default_factory=list)
    """Of each of ``groups``; empty without a model."""
    sources: list[SourceFigures] = field(default_factory=list)
    too_long: Finding = field(default_factory=Finding)


class Check:
    """One check under way. Holds lengths and digests of the rows, and no picture."""

    def __init__(
        self, dataset: DatasetSpec, asks: Asks, *, card: Card | None, recipe: Recipe | None, folder: Path
    ) -> None:
        """
        Args:
            dataset: the rows.
            asks: what else.
            card: of the model; None: nothing is tokenized.
            recipe: that would be run; None: rows alone.
            folder: of temporary files: pictures that live inside rows, and made ones.
        """
        self.dataset, self.asks, self.card, self.recipe, self.folder = dataset, asks, card, recipe, folder
        self.algorithm: Algorithm | None = None if recipe is None else build_algorithm(recipe.algorithm)
        self.renderer = None if card is None else _renderer(card, dataset)
        self.reads = resolved(dataset.reads or ReadsSpec())
        self.read = Reader(self.reads)
        self.notes: list[str] = []
        if recipe is not None and recipe.mix is not None:
            self.notes.append("Rows under mix are not looked at. Check them with --data")
        self._shared = Account()  # pictures that were looked at and ids in use, over all sources

    def run(self) -> Checked:
        """All figures."""
        train, held_out = self._load("train", self._train_sources()), self._load("eval", self.dataset.eval)
        looks = self._looks([*train.groups, *held_out.groups])
        answers = AnswerCounter("words" if self.renderer is None else "tokens")
        for place, group in enumerate(train.groups):
            counts = [count for _, count in train.of_groups[place].answers] if train.of_groups else None
            answers.add(group, counts)
        shown = list(self._shown([*train.first, *([] if train.first else held_out.first)]))
        most = self.dataset.max_length if self.dataset.max_length < sys.maxsize else None
        return Checked(
            title=self.asks.title,
            sources=tuple(train.sources + held_out.sources),
            pictures=self._pictures(train, held_out, looks),
            tokens=token_figures(train.lengths, max_length=most, too_long=train.too_long.found()),
            answers=answers.figures(),
            split=self._split(train, held_out, looks),
            leaks=tuple(self._leak(train, looks, name, asked) for name, asked in self.asks.against),
            first=tuple(shown),
            forecast=self._forecast(train),
            notes=tuple(self.notes),
        )

    # --- rows ---

    def _train_sources(self) -> tuple[DataSpec, ...]:
        online = None if self.recipe is None else self.recipe.online
        return self.dataset.train if online is None else (online.prompts,)

    def _load(self, part: Part, specs: Sequence[DataSpec]) -> Rows:
        rows = Rows(part=part)
        for spec in specs:
            report = DataReport()
            measured: dict[str, Lengths] = {}
            with Progress(f"rows of {Path(spec.path).name}:", None, shown=self.asks.shown) as bar:
                groups = self._groups(spec, part, self._account(part, report, self._measure(measured, bar)))
            related = self._related(spec, groups)
            rows.groups += groups
            rows.first += related[: self.asks.rows]
            if self.renderer is not None:
                own = [measured.get(group.source) or self._lengths(group) for group in groups]
                measured |= {group.source: found for group, found in zip(groups, own, strict=True)}
                rows.lengths += measured.values()
                rows.of_groups += own
                rows.cost += own if spec.visual is None else [self._lengths(group) for group in related]
            for bad in report.bad:
                if bad.reason == "too long":
                    rows.too_long.add(f"{bad.file}:{bad.row}")
            rows.sources.append(self._figures(spec, part, report, groups))
        return rows

    def _account(self, part: Part, report: DataReport, measure: Callable[[Group], int]) -> Account:
        prompts_only = self.recipe is not None and self.recipe.online is not None and part == "train"
        return Account(
            checks=Checks(
                answers=self.recipe is not None and not prompts_only,
                max_length=self.dataset.max_length,
                num_tokens=measure,
            ),
            on_bad_row="skip",
            cache_dir=self.folder / "images",
            seed=0 if self.recipe is None else self.recipe.seed,
            prompts_only=prompts_only,
            needs=None if prompts_only else self._needs(),
            report=report,
            files=self._shared.files,
            ids=self._shared.ids,
        )

    def _groups(self, spec: DataSpec, part: Part, account: Account) -> list[Group]:
        """The rows that can be used; a source without any is a finding, one without rows a mistake."""
        try:
            load = load_prompts if account.prompts_only else load_groups
            return list(load(replace(spec, visual=None), account))
        except DataError:
            if not account.report.read:
                raise
            return []

    def _measure(self, measured: dict[str, Lengths], bar: Progress) -> Callable[[Group], int]:
        """Counts the tokens of each row as training does, and keeps them."""
        seen: set[str] = set()

        def measure(group: Group) -> int:
            seen.add(group.source)
            bar.update(len(seen))
            if self.renderer is None:
                return 0
            lengths = measured[group.source] = self._lengths(group)
            longest = lengths.longest + self._sampled()
            if longest > self.renderer.limits.context:  # max_length is checked by who asks
                raise too_long(longest, self.renderer.limits.context)
            return longest

        return measure

    def _lengths(self, group: Group) -> Lengths:
        assert self.renderer is not None
        return self.renderer.lengths(self.read(group))

    def _sampled(self) -> int:
        """Tokens that an online run may add to a prompt."""
        online = None if self.recipe is None else self.recipe.online
        return 0 if online is None else online.sampling.max_new_tokens

    def _needs(self) -> Needs | None:
        if self.recipe is None or self.algorithm is None:
            return None
        return Needs(
            algorithm=self.recipe.algorithm["name"],
            comparisons=self.algorithm.compares,
            rewards="rewards" in self.algorithm.needs,
            labels="labels" in self.algorithm.needs,
        )

    def _related(self, spec: DataSpec, groups: list[Group]) -> list[Group]:
        """The groups as they are trained; comparisons of pictures are made of the first of them alone."""
        if spec.visual is None or not groups:
            return groups
        seed = 0 if self.recipe is None else self.recipe.seed
        relate = visual_relation(spec.visual, groups, folder=self.folder / "negatives", seed=seed)
        made = []
        for group in groups[:MADE]:
            try:
                made.append(relate(group))
            except DataError as error:
                self.notes.append(f"{group.source}: no comparison of pictures can be made ({error.found})")
        if len(groups) > MADE:
            self.notes.append(f"{spec.path}: comparisons of pictures were made of the first {MADE} rows alone")
        return made

    def _figures(self, spec: DataSpec, part: Part, report: DataReport, groups: Sequence[Group]) -> SourceFigures:
        return SourceFigures(
            part=part,
            path=spec.path if spec.entry is None else f"{spec.path}, entry {spec.entry}",
            read=report.read,
            kept=len(groups),
            with_pictures=sum(any(prompt.images for prompt in group.prompts) for group in groups),
            bad=bad_rows(report.bad),
            columns={} if _is_group_file(spec) else unread_columns(groups, self._facts_read(spec)),
            notes=tuple(report.notes),
        )

    def _facts_read(self, spec: DataSpec) -> set[str]:
        captions = [self.reads.captions] if self.reads.images == "caption" else []
        return {*self.reads.facts, *captions, *(OPTION_FACTS if spec.relation == "options" else ())}

    # --- pictures ---

    def _looks(self, groups: Sequence[Group]) -> dict[str, Look]:
        own = (path for group in groups for prompt in group.prompts for path in prompt.images)
        theirs = (path for _, asked in self.asks.against for one in asked for path in one.pictures)
        paths = dict.fromkeys([*own, *theirs])
        with Progress("pictures", len(paths), shown=self.asks.shown) as bar:
            return {look.path: look for look in look_at_all(paths, bar.update, decode=self.asks.decode)}

    def _pictures(self, train: Rows, held_out: Rows, looks: dict[str, Look]) -> PictureFigures:
        """Of the rows to train on, but that broken pictures of held-out rows count as well."""
        inside = str(self.folder)
        own = {path: looks[path] for group in train.groups for prompt in group.prompts for path in prompt.images}
        others = {path: looks[path] for group in held_out.groups for prompt in group.prompts for path in prompt.images}
        used = {path for path in (*own, *others) if not path.startswith(inside)}
        figures = picture_figures(train.groups, own, used=used, decoded=self.asks.decode)
        if not others:
            return figures
        broken = picture_figures(held_out.groups, others, used=(), decoded=self.asks.decode).broken
        whole = replace(broken, count=broken.count + figures.broken.count, rows=figures.broken.rows + broken.rows)
        return replace(figures, broken=whole)

    def _split(self, train: Rows, held_out: Rows, looks: dict[str, Look]) -> Leak | None:
        if not held_out.groups:
            return None
        asked = [asked_of(prompt) for group in held_out.groups for prompt in group.prompts]
        return leak(train.groups, looks, "data.eval", asked)

    def _leak(self, train: Rows, looks: dict[str, Look], name: str, asked: Sequence[Asked]) -> Leak:
        found = leak(train.groups, looks, name, asked)
        if found.unread and found.unread == found.pictures:
            first = next(looks[path].fault for one in asked for path in one.pictures)
            raise DataError(
                f"none of its {found.pictures} pictures can be read, so nothing can be compared with them ({first})",
                source=f"--against {name}",
                remedy="Put its pictures there, or leave it out",
            )
        return found

    # --- the model ---

    def _shown(self, groups: Iterable[Group]) -> Iterator[ShownRow]:
        if self.renderer is None:
            return
        scores = self.algorithm is not None and "logprobs" not in self.algorithm.heads
        for group in groups:
            try:
                yield shown_row(self.renderer.render(self.read(group)), self.renderer.tokenizer, scores=scores)
            except DataError as error:
                self.notes.append(f"{group.source} cannot be rendered: {error.found}")

    def _forecast(self, train: Rows) -> Forecast | None:
        if self.recipe is None or self.algorithm is None or self.card is None or self.asks.speed is None:
            return None
        if self.recipe.online is not None:
            self.notes.append("No forecast: sampling takes most of the time of an online run, and is not modelled")
            return None
        if not train.cost or not any(one.answers for one in train.cost):
            return None
        from sightline.models.forecast import Work, forecast
        from sightline.models.outline import outline

        sizes = outline(self.card, head="logprobs" in self.algorithm.heads)
        cost, count = train.cost, len(train.cost)
        image_tokens = sum(sum(one.pictures) for one in cost) / count
        tokens, seen = [layout_tokens(one) for one in cost], [layout_seen(one) for one in cost]
        work = Work(
            tokens={name: sum(one[name] for one in tokens) / count for name in tokens[0]},
            largest={name: max(one[name] for one in tokens) for name in tokens[0]},
            seen={name: sum(one[name] for one in seen) / count for name in seen[0]},
            scored=sum(map(scored_tokens, cost)) / count if "logprobs" in self.algorithm.heads else 0.0,
            image_tokens=image_tokens,
            patches=image_tokens * self._patches_per_token(train.groups),
        )
        spec = self.recipe.train
        sampler = Sampler(size=max(1, len(train.groups)), batch_size=spec.batch_size)
        return forecast(
            sizes,
            self.recipe,
            work,
            spec.max_steps or sampler.steps(spec.epochs),
            self.asks.speed(sizes),
            processes=self.asks.processes,
            forwards=int("old_logprobs" in self.algorithm.needs),
        )

    def _patches_per_token(self, groups: Sequence[Group]) -> float:
        from sightline.models.outline import patches_of

        assert self.renderer is not None and self.card is not None
        some = {path for group in groups[:_RENDERED] for prompt in group.prompts for path in prompt.images}
        images = []
        for path in sorted(some)[:_RENDERED]:
            try:
                images.append(self.renderer.image(path))
            except DataError:
                continue
        tokens = sum(image.num_tokens for image in images)
        return sum(patches_of(image, self.card.config) for image in images) / tokens if tokens else 0.0


def check(
    dataset: DatasetSpec, asks: Asks, folder: Path, *, card: Card | None = None, recipe: Recipe | None = None
) -> Checked:
    """Reads all rows and looks at all pictures.

    Args:
        dataset: the rows.
        asks: what else.
        folder: gets pictures that live inside rows, and made ones; shown rows may name them.
        card: of the model; None: lengths are in words, and no row is shown.
        recipe: that would be run.

    Raises:
        DataError, RecipeError: rows that are not there, or in no known layout; single bad rows are findings. Or none of
            a benchmark's pictures can be read.
    """
    return Check(dataset, asks, card=card, recipe=recipe, folder=folder).run()


def _renderer(card: Card, dataset: DatasetSpec) -> Renderer:
    from sightline.data.render import Renderer
    from sightline.models.limits import Limits

    limits = Limits.of(card.config)
    return Renderer(
        card.processor, card.family, limits=limits, max_length=dataset.max_length, segments=dataset.segments
    )


def _is_group_file(spec: DataSpec) -> bool:
    """Whether facts of the rows were put there as facts."""
    if spec.format != "auto" or spec.entry is not None:
        return spec.format == "groups"
    try:
        return recognised(next(iter(read_rows(spec.path, split=spec.split, limit=1))).record()) == "groups"
    except (SightlineError, StopIteration):
        return False
