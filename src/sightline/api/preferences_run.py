"""How a model, or a reward model, ranks pairs: score with each model, then figures and a page."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from sightline.data.identity import made_from
from sightline.data.load import Account, load_groups
from sightline.data.schema import read_groups
from sightline.data.staged import StagedGroups
from sightline.data.validate import Checks
from sightline.errors import DataError, RecipeError
from sightline.evaluation import preferences, reward_figures
from sightline.evaluation.named_model import NamedModel, named_model, reference_of
from sightline.evaluation.results import RESULTS, Measured, measure, read_measured, write_measured
from sightline.evaluation.run import default_out
from sightline.negatives.relate import under_pictures
from sightline.recipes.schema import DataSpec, SamplingSpec
from sightline.report.preferences import write_preferences_page
from sightline.train.probe import spread
from sightline.types import Group

CHUNK: Final = 16
"""Rows between two writes."""
_SEED: Final = 0
"""Draws the other pictures of the look meter."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What both commands take."""

    out: Path | None
    data: str
    image_dir: str | None
    limit: int | None
    on_bad_row: Literal["error", "skip"]
    batch_tokens: int
    overwrite: bool
    tell: Callable[[str], None]
    """Told what a person should know."""

    def folder(self, bench: str, model: str, adapter: str | None = None) -> Path:
        """Where everything goes: beside the folders of benchmarks, so that `eval diff` finds it."""
        return (self.out or default_out(model, adapter)) / bench

    def groups(self, folder: Path, prepare: Callable[[Group], Group]) -> list[Group]:
        """The rows with a comparison of answers; others are counted and left out.

        Args:
            folder: gets pictures that the rows hold in memory.
            prepare: leaves or makes the comparisons that are evaluated.

        Raises:
            DataError: no row has one, or a row is bad.
        """
        account = Account(
            checks=Checks(answers=True), cache_dir=folder / "images", on_bad_row=self.on_bad_row, prompts_only=False
        )
        spec = DataSpec(path=self.data, image_dir=self.image_dir, limit=self.limit, train_on="last")
        read = [prepare(group) for group in load_groups(spec, account)]
        kept = [group for group in read if group.edges]
        if account.report.bad:
            self.tell(account.report.summary())
        for note in account.report.notes:
            self.tell(note)
        if not kept:
            remedy = "Give rows with chosen and rejected, or make pairs with `sightline pairs`"
            raise DataError(f"none of {len(read)} rows compares two answers", source=self.data, remedy=remedy)
        if len(kept) < len(read):
            self.tell(
                f"{len(read) - len(kept)} of {len(read)} rows compare no answers to one prompt, and are left out."
            )
        return kept


# --- preferences --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Sides:
    """Who is evaluated, and beside whom."""

    model: NamedModel
    reference: NamedModel | None
    """What implicit rewards are relative to."""
    rival: NamedModel | None = None
    """Another model, which is scored as well."""
    earlier: Measured | None = None
    """The result of an earlier evaluation."""


def sides_of(
    model: str, adapter: str | None, options: Mapping[str, Any], *, reference: str | None, against: str | None
) -> Sides:
    """Who is evaluated, from names.

    Args:
        model: as of ``named_model``.
        adapter: the same.
        options: of all models: ``dtype``, ``layout``, ``quantization``, pictures.
        reference: what implicit rewards are relative to; ``none``; None: what adapter or run started from.
        against: another model, or the folder of an earlier evaluation.

    Raises:
        RecipeError: a name that stands for no model.
    """
    side = named_model(model, adapter, **options)
    if reference is None:
        start = reference_of(model if adapter is None else adapter, side)
    else:
        start = None if reference == "none" else replace(named_model(reference, **options), processor=side.processor)
    earlier = None if against is None else earlier_result(against, preferences.BENCH)
    rival = named_model(against, **options) if against is not None and earlier is None else None
    return Sides(model=side, reference=start, rival=rival, earlier=earlier)


def evaluate_preferences(
    asked: Asked,
    sides: Sides,
    *,
    beta: float,
    looking: int,
    generate: int,
    max_tokens: int,
    device: str | None,
) -> Published:
    """Scores and writes.

    Args:
        asked: rows, and where things go.
        sides: the models.
        beta: of implicit rewards.
        looking: most rows that are scored under other pictures.
        generate: how many of the worst and of the best cases the models answer themselves.
        max_tokens: most tokens of such an answer.
        device: where the models run.
    """
    model, reference, rival, earlier = sides.model, sides.reference, sides.rival, sides.earlier
    folder = asked.folder(preferences.BENCH, model.spec.path, model.spec.adapter)
    groups = asked.groups(folder, preferences.compared_answers)
    looked = _looked(groups, looking, folder)
    ask = _Ask(folder=folder, asked=asked, groups=groups, looked=looked, device=device)
    asked.tell(f"Scores and figures: {folder}")
    base = None if reference is None else ask.scores(reference, "reference")
    if rival is not None:
        same = reference is not None and rival.spec == reference.spec
        scored = base if base is not None and same else ask.scores(rival, "against")
        # the reference gains nothing over itself: it has no figures relative to it
        own = preferences.preference_result(scored, None if same else base, beta=beta)
        earlier = measure(own, ask.facts(rival, reference, beta))
        write_measured(earlier, folder / "against" / RESULTS)
    result = preferences.preference_result(ask.scores(model, "scores"), base, beta=beta)
    if generate:
        before = rival or (reference if earlier is None else None)
        said = ask.generations(result, {"before": before, "after": model}, generate, max_tokens)
        result = preferences.with_generations(result, said)
    measured = measure(result, ask.facts(model, reference, beta))
    start = "none" if reference is None else reference.title
    notes = [f"{model.title}: {len(result.graded)} comparisons of {asked.data}. Reference: {start}."]
    if earlier is not None:
        notes.append(f"Before: {earlier.facts['model']}, {earlier.facts.get('adapter') or 'no adapter'}.")
    return publish(measured, earlier, folder, title="Preferences", notes=notes)


def _looked(groups: Sequence[Group], most: int, folder: Path) -> dict[str, Group]:
    """Rows that are scored under other pictures as well, evenly over the whole: the same for every model."""
    with_pictures = [group for group in groups if all(prompt.images for prompt in group.prompts)]
    chosen = spread(with_pictures, most) if most else []
    return {group.id: group for group in under_pictures(chosen, folder=folder / "negatives", seed=_SEED)}


@dataclass(frozen=True, kw_only=True)
class _Ask:
    """Asks models about the same rows, one model in memory at a time."""

    folder: Path
    asked: Asked
    groups: Sequence[Group]
    looked: Mapping[str, Group]
    device: str | None

    def facts(self, model: NamedModel, reference: NamedModel | None, beta: float) -> dict[str, Any]:
        """For the results file."""
        from sightline.models.load import picture_facts

        start = None if reference is None else reference.title
        facts = {**model.settings(), **picture_facts(model.spec, model.processor), "data": self.asked.data}
        return facts | {"reference": start, "beta": beta, "looked": len(self.looked)}

    def scores(self, model: NamedModel, name: str) -> list[Group]:
        """The rows as a model scores them; what ``NAME.jsonl`` holds is not scored again."""
        settings = {**model.settings(), "rows": rows_digest(self.groups), "looked": len(self.looked)}
        stage = StagedGroups(out=self.folder / f"{name}.jsonl", settings=settings, tell=self.asked.tell)

        @functools.cache
        def scorer() -> Any:
            from sightline.evaluation.logprobs import LogprobScorer

            engine = self._engine(model)
            return LogprobScorer(
                engine.policy,
                engine.renderer,
                looked=self.looked,
                layout=model.spec.layout,
                batch_tokens=self.asked.batch_tokens,
            )

        work = lambda some: scorer().scores(some)  # noqa: E731
        stage.run(self.groups, work, chunk=CHUNK, title=name, overwrite=self.asked.overwrite)
        return in_order(stage.out, self.groups)

    def generations(
        self, result: Any, sides: Mapping[str, NamedModel | None], number: int, max_tokens: int
    ) -> dict[str, dict[str, str]]:
        """What each model itself answers to the worst and the best cases: title to prompt id to text."""
        rows = preferences.ranked_rows(result)
        wanted = {row.details["prompt"] for row in (*rows[:number], *rows[-number:])}
        prompts = {prompt.id: prompt for group in self.groups for prompt in group.prompts if prompt.id in wanted}
        alone = [Group(prompts=(prompt,)) for prompt in prompts.values()]
        sampling = SamplingSpec(n=1, temperature=0.0, max_new_tokens=max_tokens, batch_size=8)
        said = {}
        for title, model in sides.items():
            if model is not None:
                settings = {**model.settings(), "rows": rows_digest(self.groups), "max_tokens": max_tokens}
                stage = StagedGroups(
                    out=self.folder / f"generated.{title}.jsonl", settings=settings, tell=self.asked.tell
                )
                engine = functools.cache(lambda model=model: self._engine(model))
                work = lambda some, engine=engine: engine().generate(some, sampling, seed=0)  # noqa: E731
                stage.run(alone, work, chunk=CHUNK, title=f"answers {title}", overwrite=self.asked.overwrite)
                said[title] = {group.id: group.responses[0].text for group in read_groups(stage.out)}
        return said

    def _engine(self, model: NamedModel) -> Any:
        from sightline.models.load import hide_loading_bars
        from sightline.rollouts.hf import load_engine

        hide_loading_bars()
        return load_engine(model.spec, self.device, processor_of=model.processor)


# --- reward models ------------------------------------------------------------------------------


def evaluate_reward(asked: Asked, model: str, against: str | None, loaded: Mapping[str, str | None]) -> Published:
    """Scores with a reward model, and with the one it stands against, and writes.

    Args:
        asked: rows, and where things go.
        model: the reward model.
        against: another, or an earlier evaluation.
        loaded: what is not as trained, or None: ``missing_facts`` and ``quantization``.
    """
    given = {name: value for name, value in loaded.items() if value is not None}
    folder = asked.folder(reward_figures.BENCH, model)
    earlier = None if against is None else earlier_result(against, reward_figures.BENCH)
    groups = asked.groups(folder, reward_figures.with_comparisons)
    asked.tell(f"Scores and figures: {folder}")

    def measured_of(name: str, file: str) -> Measured:
        settings = {"reward": name, "rows": rows_digest(groups), **_weights(name), "missing_facts": None, **given}
        stage = StagedGroups(out=folder / f"{file}.jsonl", settings=settings, tell=asked.tell)
        scorer = functools.cache(lambda: _reward(name, asked.batch_tokens, given))
        stage.run(groups, lambda some: scorer()(some), chunk=CHUNK, title=file, overwrite=asked.overwrite)
        result = reward_figures.reward_result(groups, in_order(stage.out, groups))
        facts = {"model": name, "data": asked.data, "missing_facts": None, **given, **_pictures(name)}
        return measure(result, facts)

    if against is not None and earlier is None:
        earlier = measured_of(against, "against")
        write_measured(earlier, folder / "against" / RESULTS)
    measured = measured_of(model, "scores")
    pairs = len(reward_figures.margins(measured.result.graded))
    notes = [f"{model}: {pairs} comparisons of {asked.data}. Before: {against or 'nothing'}."]
    return publish(measured, earlier, folder, title="Reward model", notes=notes)


def _reward(name: str, batch_tokens: int, loaded: Mapping[str, str]) -> Callable[[Sequence[Group]], list[Group]]:
    from sightline.rewards.base import load_reward, reward_groups

    if not Path(name).is_dir():
        if loaded:
            raise RecipeError(
                f"--{next(iter(loaded)).replace('_', '-')} is for reward models, and {name} is no folder of one. "
                "Leave it out"
            )
        return functools.partial(reward_groups, load_reward(name))
    from sightline.rewards.model import load_reward_model

    return functools.partial(reward_groups, load_reward_model(name, batch_tokens=batch_tokens, **loaded))


def _pictures(name: str) -> dict[str, Any]:
    """How a reward model's pictures are made ready; a reward that is a Python object does not say."""
    if not Path(name).is_dir():
        return {}
    from sightline.models.load import picture_facts
    from sightline.rewards.model import reward_model_spec

    return picture_facts(reward_model_spec(name))


def _weights(name: str) -> dict[str, str]:
    """Fingerprint of a reward model; a reward that is a Python object has none."""
    if not Path(name).is_dir():
        return {}
    from sightline.rewards.model import fingerprint

    return {"weights": fingerprint(name)}


# --- both ---------------------------------------------------------------------------------------


def earlier_result(against: str, bench: str) -> Measured | None:
    """The result of an earlier evaluation, where ``against`` is its folder; None where it is something else.

    Raises:
        RecipeError: there is no such folder, and it is no name on the hub.
    """
    for folder in (Path(against) / bench, Path(against)):
        if (folder / RESULTS).is_file():
            return read_measured(folder)
    if not Path(against).exists() and against.count("/") != 1 and ":" not in against:
        raise RecipeError(f"--against {against} does not exist. Give a model, an adapter, a run, or an earlier --out")
    return None


@dataclass(frozen=True, kw_only=True)
class Published:
    """What was measured and written."""

    measured: Measured
    before: Measured | None
    """What it stands against, on the same comparisons."""
    page: Path

    @property
    def pairs(self) -> int:
        """Comparisons that figures are of."""
        return sum("margin" in row.counts for row in self.measured.result.graded)


def publish(
    measured: Measured, before: Measured | None, folder: Path, *, title: str, notes: Sequence[str]
) -> Published:
    """Writes the results and the page.

    Raises:
        DataError: ``before`` is not of the same comparisons.
    """
    write_measured(measured, folder / RESULTS)
    page = write_preferences_page(folder / "report.html", measured, before, title=title, notes=notes)
    return Published(measured=measured, before=before, page=page)


def in_order(path: Path, groups: Sequence[Group]) -> list[Group]:
    """The groups of a file, in the order of ``groups``."""
    there = {group.id: group for group in read_groups(path)}
    return [there[group.id] for group in groups]


def rows_digest(groups: Sequence[Group]) -> str:
    """What was asked: scores of other rows must not be mixed with these."""
    digest = hashlib.sha256()
    for group in groups:
        digest.update(made_from(group, answers=True).encode())
    return digest.hexdigest()[:16]
