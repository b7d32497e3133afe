"""The stages that all methods share: answers and their rewards before, training, merge, KL and exam after the pairs."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from sightline.algorithms.registry import build_algorithm
from sightline.data.schema import append_groups, read_groups
from sightline.data.staged import StagedGroups
from sightline.errors import RecipeError
from sightline.evaluation.logprobs import NAMES, TOKENS, LogprobScorer
from sightline.files import replace_file, replace_folder
from sightline.loops.exam import Exam
from sightline.loops.stages import Round, Stage
from sightline.recipes.load import dump_recipe, load_recipe
from sightline.recipes.loop import ExamSpec, LoopRecipe
from sightline.recipes.schema import ModelSpec, Recipe, SamplingSpec
from sightline.report.run_page import report_run
from sightline.rewards.settings import split_files
from sightline.rollouts.hf import HFEngine, load_engine
from sightline.train.export import export, open_trained
from sightline.train.loop import train
from sightline.train.run_folder import settings_of
from sightline.types import Group

log = logging.getLogger("sightline.loops")

KL = "kl.json"
_OF_TRAINING = ("layout", "attention", "parts", "lora", "gradient_checkpointing")
"""Fields of a model that its answers do not depend on."""
_PATHS = ("path", "adapter", "chat_template")
_GIVEN = (*(f"model.{name}" for name in _PATHS), "data.train.0.path", "online.prompts.path")
"""Settings of a training that say where lies what the stage reads."""
_MAY_FAIL = ("online.failed_rewards", "online.negatives.failed")
_ASKED = ("online.reward", "online.negatives.")
"""Of an online training what it asks, and may lie in files."""


def asked_settings(spec: ModelSpec) -> dict[str, Any]:
    """What changes the answers of a model, beside its files."""
    values = dataclasses.asdict(spec)
    return {name: value for name, value in values.items() if name not in (*_OF_TRAINING, *_PATHS)}


def files_of(spec: ModelSpec) -> list[Path]:
    """What is read where a model is asked or trained."""
    return [Path(spec.path), *([] if spec.chat_template is None else [Path(spec.chat_template)])]


def staged(root: Path, out: Path, tell: Callable[[str], None] = log.info) -> StagedGroups:
    """A Group file of a round of the loop in ``root`` that is made piece by piece."""
    return StagedGroups(out=out, settings=None, tell=tell, append=partial(append_groups, below=root))


def sample_stage(round: Round, sampling: SamplingSpec, *, out: str = "samples.jsonl") -> Stage:
    """The round's model answers its prompts: every answer with its tokens and their log-probabilities."""
    path = round.folder / out

    def run() -> None:
        engine = load_engine(round.spec)
        staged(round.root, path).run(
            list(read_groups(round.prompts)),
            lambda some: engine.generate(some, sampling, seed=round.seed),
            chunk=4 * sampling.batch_size,
            title=f"round {round.number}: answers",
        )

    drawn = {name: value for name, value in dataclasses.asdict(sampling).items() if name != "batch_size"}
    return Stage(
        name="sample",
        out=path,
        reads=[round.prompts, *files_of(round.spec)],
        settings={"model": asked_settings(round.spec), "sampling": drawn, "seed": round.seed},
        run=run,
    )


def comparing(plain: Recipe, why: str, remedy: str = "Set algorithm.name: dpo, or another that compares") -> Recipe:
    """The training as it is.

    Raises:
        RecipeError: Its algorithm learns from single answers.
    """
    if not build_algorithm(plain.algorithm).compares:
        raise RecipeError(
            f"algorithm.name is {plain.algorithm['name']}, which learns from single answers, and would learn the "
            f"rejected ones too: {why}. {remedy}."
        )
    return plain


def train_stage(round: Round, recipe: Recipe, *, quiet: bool) -> Stage:
    """The training of a round, in a run directory of its own."""
    data = [] if recipe.data is None else [Path(source.path) for source in recipe.data.train]
    settings = {name: value for name, value in settings_of(recipe).items() if name not in _GIVEN}
    online = {name: settings.pop(name) for name in list(settings) if name.startswith(_ASKED)}
    files, asked = split_files(online)
    reads = [*files_of(recipe.model), *(data or [round.prompts]), *files]
    settings |= asked | _failing(recipe)

    def run() -> None:
        _follow(recipe, round.run / "recipe.yaml")
        train(recipe, quiet=quiet)
        report_run(round.run)

    return Stage(name="train", out=round.run, reads=reads, settings=settings, eased=_MAY_FAIL, run=run)


def _follow(recipe: Recipe, noted: Path) -> None:
    """Lets a training that was stopped go on where the loop lies now: what it reads is the same (``Stage.reads``)."""
    if not noted.is_file():
        return
    kept = load_recipe(noted)
    model = replace(kept.model, **{name: vars(recipe.model)[name] for name in _PATHS})
    data, online = kept.data, kept.online
    if data is not None and recipe.data is not None:
        places = zip(data.train, recipe.data.train, strict=False)
        data = replace(data, train=tuple(replace(source, path=now.path) for source, now in places))
    if online is not None and recipe.online is not None:
        online = replace(online, prompts=replace(online.prompts, path=recipe.online.prompts.path))
    replace_file(noted, dump_recipe(replace(kept, model=model, data=data, online=online)))


def _failing(recipe: Recipe) -> dict[str, Any]:
    """What becomes of what fails, where it is not dropped. A run that goes on may change its mind; one that has ended
    has trained on what was left."""
    online = recipe.online
    if online is None:
        return {}
    pictures = None if online.negatives is None else online.negatives.failed
    told = zip(_MAY_FAIL, (online.failed_rewards, pictures), strict=True)
    return {name: value for name, value in told if value not in (None, "drop")}


def merge_stage(round: Round, loop: LoopRecipe) -> Stage:
    """What was trained as the model of the next round: an adapter merged into its model and verified; a whole model as
    it is, without a second copy of its files where the disk can."""
    trained = round.run / "model"

    def run() -> None:
        if (trained / "adapter_config.json").is_file():
            adapted = open_trained(round.run, dtype=loop.merge.dtype)
            verified = export(adapted, round.merged, merged=True, overwrite=True)
            log.info("%s: %s", round.merged, verified.sentence())
            return
        replace_folder(round.merged, lambda folder: _linked(trained, folder))

    return Stage(name="merge", out=round.merged, reads=[trained], settings={"dtype": loop.merge.dtype}, run=run)


def kl_stage(round: Round, start: ModelSpec, merged: ModelSpec, exam: ExamSpec) -> Stage:
    """How far the new model is from the start: ``kl.json`` with an estimate in nats a token, from one answer to each of
    some prompts, sampled from the new model as it is."""
    folder = round.folder / "kl"
    sampling = SamplingSpec(n=1, max_new_tokens=exam.kl_tokens, batch_size=exam.batch_size)

    def run() -> None:
        engine = load_engine(merged)
        staged(round.root, folder / "answers.jsonl").run(
            list(read_groups(round.prompts))[: exam.kl_prompts],
            lambda some: engine.generate(some, sampling, seed=round.seed),
            chunk=sampling.batch_size,
            title=f"round {round.number}: distance from the start",
        )
        groups = list(read_groups(folder / "answers.jsonl"))
        sums = [_scores(one, groups) for one in (engine, load_engine(start))]
        tokens = _total(sums[0], TOKENS)
        moved = _total(sums[0], NAMES[0]) - _total(sums[1], NAMES[0])
        found = {"kl": moved / tokens, "answers": len(groups), "tokens": int(tokens)}
        replace_file(folder / KL, json.dumps(found) + "\n")

    return Stage(
        name="kl",
        out=folder,
        reads=[*files_of(merged), *files_of(start), round.prompts],
        settings={
            "model": asked_settings(start),
            "prompts": exam.kl_prompts,
            "tokens": exam.kl_tokens,
            "seed": round.seed,
        },
        run=run,
    )


def exam_stage(exam: Exam, model: ModelSpec, folder: Path, title: str) -> Stage:
    """The benchmarks of the exam, answered by a model."""
    return Stage(
        name="exam",
        out=folder,
        reads=files_of(model),
        settings={"model": asked_settings(model), **exam.settings()},
        run=lambda: exam.hold(model, folder, title),
    )


def _linked(source: Path, folder: Path) -> None:
    """All files of a folder under a second name; copied where the disk has no such thing."""
    for path in sorted(source.rglob("*")):
        target = folder / path.relative_to(source)
        if path.is_dir():
            target.mkdir(exist_ok=True)
            continue
        try:
            os.link(path, target)
        except OSError:
            shutil.copy2(path, target)


def _scores(engine: HFEngine, groups: Sequence[Group]) -> list[Group]:
    return LogprobScorer(engine.policy, engine.renderer, layout="rows").scores(groups)


def _total(groups: Sequence[Group], name: str) -> float:
    return sum(response.rewards[name] for group in groups for response in group.responses)
