"""What ``sightline data check`` does: reads rows as training would, looks at all they have, and forecasts the run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sightline.algorithms.registry import build_algorithm
from sightline.data.inspect.answers import AnswerCounter, AnswerFigures
from sightline.data.inspect.checked import Checked
from sightline.data.inspect.leaks import Asked, Leak, asked_of, leak
from sightline.data.inspect.pictures import Look, PictureFigures, look_at_all, picture_figures
from sightline.data.inspect.tokens import layout_seen, layout_tokens, scored_tokens, token_figures
from sightline.data.sampler import Sampler, mixture_of
from sightline.data.shown import ShownRow, shown_row
from sightline.errors import DataError, RecipeError
from sightline.progress import Progress
from sightline.recipes.schema import DatasetSpec, DataSpec, Recipe
from sightline.train.check_rows import RowReader, Rows
from sightline.types import Algorithm, Group

if TYPE_CHECKING:
    from sightline.data.render import Lengths, Renderer
    from sightline.models.forecast import Forecast, Speed
    from sightline.models.outline import Card, Outline

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
        self.rows = RowReader(dataset, self.renderer, recipe, folder, shown=asks.shown)
        self.notes = self.rows.notes
        if recipe is not None and recipe.mix is not None:
            self.notes.append("Rows under mix are not looked at. Check them with --data")

    def run(self) -> Checked:
        """All figures."""
        train, held_out = self._load()
        looks = self._looks(train.groups, held_out.groups)
        shown = list(self._shown(train.first(self.asks.rows)) or self._shown(held_out.first(self.asks.rows)))
        most = self.dataset.max_length if self.dataset.max_length < sys.maxsize else None
        return Checked(
            title=self.asks.title,
            sources=(*train.figures, *held_out.figures),
            held_out=len(held_out.groups) if self.dataset.validation else 0,
            pictures=self._pictures(train, held_out, looks),
            tokens=token_figures(train.measured, max_length=most, too_long=train.too_long.found()),
            answers=self._answers(train),
            split=self._split(train, held_out, looks),
            leaks=tuple(self._leak(train, looks, name, asked) for name, asked in self.asks.against),
            first=tuple(shown),
            forecast=self._forecast(train),
            notes=tuple(self.notes),
        )

    # --- rows ---

    def _load(self) -> tuple[Rows, Rows]:
        """The rows that are trained and those that are held out."""
        train = self.rows.part("train", self._train_sources())
        if not self.dataset.validation or not len(train.groups):
            return train, self.rows.part("eval", self.dataset.eval)
        assert self.recipe is not None
        sides = train.split(self.dataset.validation, self.recipe.seed)
        used = [place for place, source in enumerate(train.sources) if len(source.groups)]
        left = [sides[0].sources[place] for place in used]
        mixture_of([source.spec for source in left], [len(source.groups) for source in left])  # refuses, as a run does
        return sides

    def _train_sources(self) -> tuple[DataSpec, ...]:
        online = None if self.recipe is None else self.recipe.online
        return self.dataset.train if online is None else (online.prompts,)

    def _answers(self, train: Rows) -> AnswerFigures:
        """Of the rows that are trained."""
        if self.renderer is None:
            answers = AnswerCounter("words")
            for group in train.groups:
                answers.add(group)
            return answers.figures()
        answers = AnswerCounter("tokens")
        for group, lengths in zip(train.groups, train.lengths, strict=True):
            answers.add(group, self._answer_tokens(group, lengths))
        return answers.figures()

    def _answer_tokens(self, group: Group, lengths: Lengths) -> list[int]:
        """Of each answer itself: by criteria it is judged inside a prompt, and what follows is the same for all."""
        if self.rows.reads.criteria is None:
            return [count for _, count in lengths.answers]
        assert self.renderer is not None
        answer = self.renderer.encoder.answer
        return [len(answer(group.prompts[one.prompt].messages, one.text)) for one in group.responses]

    # --- pictures ---

    def _looks(self, *parts: Sequence[Group]) -> dict[str, Look]:
        own = (path for groups in parts for path in _paths(groups))
        theirs = (path for _, asked in self.asks.against for one in asked for path in one.pictures)
        paths = dict.fromkeys([*own, *theirs])
        with Progress("pictures", len(paths), shown=self.asks.shown) as bar:
            return {look.path: look for look in look_at_all(paths, bar.update, decode=self.asks.decode)}

    def _pictures(self, train: Rows, held_out: Rows, looks: dict[str, Look]) -> PictureFigures:
        """Of the rows to train on, but that broken pictures of held-out rows count as well."""
        inside = str(self.folder)
        own = {path: looks[path] for path in _paths(train.groups)}
        others = {path: looks[path] for path in _paths(held_out.groups)}
        used = {path for path in (*own, *others) if not path.startswith(inside)}
        figures = picture_figures(train.groups, own, used=used, decoded=self.asks.decode)
        if not others:
            return figures
        broken = picture_figures(held_out.groups, others, used=(), decoded=self.asks.decode).broken
        whole = replace(broken, count=broken.count + figures.broken.count, rows=figures.broken.rows + broken.rows)
        return replace(figures, broken=whole)

    def _split(self, train: Rows, held_out: Rows, looks: dict[str, Look]) -> Leak | None:
        if not len(held_out.groups):
            return None
        name = "data.validation" if self.dataset.validation else "data.eval"
        if not self.asks.decode:
            self.notes.append(f"{name} is not compared with what is trained: that takes pixels")
            return None
        asked = [asked_of(prompt) for group in held_out.groups for prompt in group.prompts]
        return leak(train.groups, looks, name, asked)

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
                yield shown_row(self.renderer.render(self.rows.read(group)), self.renderer.tokenizer, scores=scores)
            except DataError as error:
                self.notes.append(f"{group.source} cannot be rendered: {error.found}")

    def _forecast(self, train: Rows) -> Forecast | None:
        if self.recipe is None or self.algorithm is None or self.card is None or self.asks.speed is None:
            return None
        if self.recipe.online is not None:
            self.notes.append("No forecast: sampling takes most of the time of an online run, and is not modelled")
            return None
        sources = [source for source in train.sources if len(source.groups)]
        shares = mixture_of([source.spec for source in sources], [len(source.groups) for source in sources])
        costs = [[one for one in source.costs if one is not None] for source in sources]
        weighed = [
            (one, share.taken / len(some)) for share, some in zip(shares, costs, strict=True) for one in some
        ]  # an epoch takes more of one source than of another
        if not any(one.answers for one, _ in weighed):
            return None
        from sightline.models.forecast import Work, forecast
        from sightline.models.outline import outline

        sizes = outline(self.card, head="logprobs" in self.algorithm.heads)
        image_tokens = _mean([(sum(one.pictures), weight) for one, weight in weighed])
        scored = _mean([(scored_tokens(one), weight) for one, weight in weighed])
        work = Work(
            tokens=_means([(layout_tokens(one), weight) for one, weight in weighed]),
            largest=_most([layout_tokens(one) for one, _ in weighed]),
            seen=_means([(layout_seen(one), weight) for one, weight in weighed]),
            scored=scored if "logprobs" in self.algorithm.heads else 0.0,
            image_tokens=image_tokens,
            patches=image_tokens * self._patches_per_token(train.groups),
        )
        spec = self.recipe.train
        sampler = Sampler(size=len(train.groups), batch_size=spec.batch_size, mixture=shares)
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


def _paths(groups: Iterable[Group]) -> Iterator[str]:
    """Of all pictures of some rows."""
    return (path for group in groups for prompt in group.prompts for path in prompt.images)


def _mean(values: Sequence[tuple[float, float]]) -> float:
    """Of values with their weights."""
    return sum(value * weight for value, weight in values) / sum(weight for _, weight in values)


def _means(values: Sequence[tuple[Mapping[str, float], float]]) -> dict[str, float]:
    return {name: _mean([(one[name], weight) for one, weight in values]) for name in values[0][0]}


def _most(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: max(one[name] for one in values) for name in values[0]}


def card_of(recipe: Recipe | None, model: str | None) -> Card | None:
    """Of the recipe's model, or of the one that --model names."""
    if recipe is None and model is None:
        return None
    from sightline.models.outline import read_card, read_model_card

    if recipe is None:
        return read_model_card(str(model))
    return read_card(recipe.model, max_length=None if recipe.data is None else recipe.data.max_length)


def speed_of(recipe: Recipe, device: str | None, mfu: float | None, sizes: Outline) -> Speed:
    """How fast a device is, by its name, or the one that is here."""
    from sightline.models.forecast import computes_in, measured_speed, named_speed

    dtype = computes_in(recipe)
    return measured_speed(sizes, dtype, mfu=mfu) if device is None else named_speed(device, dtype, mfu)


def asked_by(name: str) -> tuple[Asked, ...]:
    """What ``--against`` names.

    Raises:
        RecipeError: nothing of that name, or nothing in it.
    """
    from sightline.data.inspect.leaks import Asked, asked_of
    from sightline.data.inspect.pictures import SUFFIXES

    bench, equals, folder = name.partition("=")
    path = Path(name)
    if equals and not path.exists():
        from sightline.evaluation.benches import load_bench

        questions = load_bench(bench).questions(Path(folder))
        return tuple(asked_of(one.prompt, *one.meta.get("prompts", {}).values()) for one in questions)
    if not path.exists():
        raise RecipeError(f"--against {name}: there is no such file or folder. Correct it, or write BENCH=FOLDER.")
    if path.is_dir():
        files = sorted(str(file) for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
        if not files:
            raise RecipeError(f"--against {name}: found no picture in this folder. Name one with pictures.")
        return tuple(Asked(pictures=(file,)) for file in files)
    if path.suffix.lower() in SUFFIXES:
        return (Asked(pictures=(str(path),)),)
    from sightline.data.load import Account, load_prompts
    from sightline.data.validate import Checks

    account = Account(checks=Checks(images=False), on_bad_row="skip")
    groups = load_prompts(DataSpec(path=name), account)
    return tuple(asked_of(prompt) for group in groups for prompt in group.prompts)


def check_measured(
    limits: Iterable[str],
    recipe: Recipe | None,
    dataset: DatasetSpec,
    *,
    against: bool,
    pixels: bool,
    device: str | None,
) -> None:
    """What is to fail a check must be looked at.

    Args:
        limits: kinds of problems that were asked for.
        recipe: that would be run; None: rows alone.
        dataset: the rows.
        against: whether there is something that must not be trained on.
        pixels: whether pictures are decoded.
        device: that the run is forecast for.

    Raises:
        RecipeError: one of them is not looked at.
    """
    bench = "" if against else "Name a benchmark with --against"
    decoded = "" if pixels else "Leave --no-pixels out"
    held_out = "" if dataset.eval or dataset.validation else "Name held-out rows under data.eval"
    forecast = recipe is not None and recipe.online is None and (device or has_gpu())
    lacking = {
        "leak": bench,
        "similar": bench,
        "split": held_out or decoded,
        "copies": decoded,
        "memory": "" if forecast else "Name a recipe that is not online, and --device",
    }
    for kind in limits:
        if remedy := lacking.get(kind):
            raise RecipeError(f"--fail-on {kind} would never fail, for nothing of it is looked at. {remedy}.")


def has_gpu() -> bool:
    """Whether this machine has one."""
    import torch

    return torch.cuda.is_available()
