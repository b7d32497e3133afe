"""One model on one benchmark: prepared, answered, graded. What the command line and Python share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sightline.errors import DataError
from sightline.evaluation.answers import AnswerFile, StoredAnswer, failed_answers, read_responses, read_stored_or_plain
from sightline.evaluation.bench import Benchmark, Question, check_protocol
from sightline.evaluation.judge import JudgeClient, load_judge
from sightline.evaluation.results import Measured, length_facts, measure, results_path, write_measured
from sightline.evaluation.stages import (
    DEFAULT_PROMPTS,
    AnswerSpec,
    GradeSpec,
    answer_questions,
    check_gradable,
    choose_questions,
    grade_answers,
    illustrate,
    limited,
    reword,
    wordings,
)
from sightline.evaluation.weights import asked_beyond, fingerprint_files
from sightline.progress import Progress
from sightline.recipes.schema import ModelSpec
from sightline.rollouts.engine import RolloutEngine

Tell = Callable[[str], None]
"""Told, a sentence each, what a person should know."""


@dataclass(frozen=True, kw_only=True)
class Grading:
    """How a benchmark is asked and graded; the defaults are what its authors publish."""

    protocol: str | None = None
    """How answers are graded; None: the first that `sightline eval list` shows."""
    prompts: str | None = None
    """Questions are worded as this protocol does; None: as the benchmark does."""
    only: Sequence[str] = ()
    """Categories that are asked about; empty: all that the protocol grades."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The benchmark's own: extractor, similarity, template, ..."""
    judge: str | None = None
    """``openai:MODEL``, an ``http://`` address, ``local:FOLDER`` or ``replay:FILE``."""
    judge_options: Mapping[str, Any] = field(default_factory=dict)
    """``model``, ``url``, ``timeout``, ``tries``, ``workers``, ..."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One model, and how it answers."""

    out: Path
    """Gets a folder for each benchmark."""
    model: ModelSpec
    spec: AnswerSpec

    def facts(self) -> dict[str, Any]:
        """Model and decoding, as they stand in results."""
        model = {"model": self.model.path, "adapter": self.model.adapter, "dtype": self.model.dtype}
        return {**model, **asked_beyond(self.model), **self.spec.settings()}

    def measured_facts(self, task: Task) -> dict[str, Any]:
        """What stands in the results of one benchmark."""
        limits = {"max_new_tokens": self.spec.limits(task.asked), "batch_size": self.spec.batch_size}
        lengths = {"prompts": task.prompts, "length": length_facts(task.answers)}
        unread = {"generation_config_not_applied": dict(task.unread)}
        return {**self.facts(), **limits, **unread, **task.pictures, **lengths}

    def settings(self) -> dict[str, Any]:
        """The facts, and what the files of model and adapter hold: another training is another model."""
        adapter = self.model.adapter
        weights = {"weights": fingerprint_files(self.model.path)}
        return {**self.facts(), **weights, "adapter_weights": adapter and fingerprint_files(adapter)}


@dataclass(frozen=True, kw_only=True)
class Task:
    """One benchmark of an evaluation."""

    bench: Benchmark
    data: Path
    grading: Grading
    questions: Sequence[Question]
    """All of the benchmark."""
    asked: Sequence[Question]
    """Those that are answered."""
    graded: bool = True
    """False: the first ones only, to look at."""
    answers: Sequence[StoredAnswer] = ()
    unread: Mapping[str, Any] = field(default_factory=dict)
    """Entries of the model's generation config that were not applied."""
    pictures: Mapping[str, Any] = field(default_factory=dict)
    """How pictures were made ready (``models.load.picture_facts``)."""

    @property
    def prompts(self) -> str:
        """Whose wording the questions have."""
        return self.grading.prompts or DEFAULT_PROMPTS


def default_out(model: str, adapter: str | None) -> Path:
    """Where a run without a folder of its own goes: ``eval`` and the last two parts of the adapter's or the model's
    path.

    >>> default_out("llava-hf/llava-1.5-7b-hf", "runs/dpo/model")
    PosixPath('eval/dpo_model')
    """
    return Path("eval") / "_".join(part for part in Path(adapter or model).parts[-2:] if part.strip("./"))


def data_folder(bench: Benchmark, given: Sequence[str], default: Path, option: str = "--data") -> Path:
    """The data of a benchmark: ``NAME=DIR``, or the folder of its name in DIR, or DIR itself.

    Args:
        bench: Whose data.
        given: As on the command line.
        default: For the built-in world, which needs no data.
        option: Under which it was given.

    Raises:
        DataError: No folder is given, it does not exist, or several may be meant.
    """
    own = [value.partition("=")[2] for value in given if value.startswith(f"{bench.name}=")]
    shared = [value for value in given if "=" not in value]
    if len(shared) > 1:  # those that hold a folder of the benchmark's name
        shared = [folder for folder in shared if (Path(folder) / bench.name).is_dir()] or shared
    if bench.name == "scenes" and not own and not any(_has_scenes(Path(folder)) for folder in shared):
        default.mkdir(parents=True, exist_ok=True)  # pictures are not drawn into a folder of other benchmarks
        return default
    if not own and not shared:
        raise DataError(
            "no data folder is given", source=bench.name, remedy=f"Give {option} DIR. Needed: {bench.needs}"
        )
    folder = Path(only_one(bench, own or shared, option))
    if not own and (folder / bench.name).is_dir():
        folder = folder / bench.name
    if not folder.exists():
        raise DataError("the data folder does not exist", source=str(folder), remedy=f"Needed: {bench.needs}")
    return folder


def only_one(bench: Benchmark, values: Sequence[str], option: str) -> str:
    """The one value that is given.

    Raises:
        DataError: There are several, or it is empty.
    """
    if len(set(values)) > 1:
        remedy = f"Give one, as {option} {bench.name}=..."
        raise DataError(f"{option} is given several times ({', '.join(values)})", source=bench.name, remedy=remedy)
    if not values[0]:
        raise DataError(f"{option} is empty", source=bench.name, remedy="Give a value, or leave it out")
    return values[0]


def _has_scenes(folder: Path) -> bool:
    """Whether it is a folder for drawings, holds one, or does not exist (which is said where it is read)."""
    return (folder / "scenes.json").is_file() or (folder / "scenes").is_dir() or not folder.exists()


def prepare(bench: Benchmark, data: Path, grading: Grading, *, limit: int | None = None, tell: Tell) -> Task:
    """Reads a benchmark and looks, before a model is loaded, at all that could go wrong later.

    Args:
        bench: Which.
        data: Its data.
        grading: How it is asked and graded. The judge is not asked.
        limit: First questions only, to look at; where that leaves some out, nothing is graded.
        tell: Told what a person should know.

    Raises:
        DataError: Data are missing or wrong, or a protocol, option or category is unknown.
    """
    protocol, name = grading.protocol, bench.name
    if protocol is not None:
        check_protocol(bench, protocol)
    questions = bench.questions(data)
    if grading.prompts is not None:
        questions = reword(questions, grading.prompts, name)
    questions = limited(questions, protocol)
    if grading.prompts is None and protocol and wordings(questions)[protocol]:
        tell(f"{name}: asked in its default wording. {protocol} has its own: --prompts {name}={protocol}")
    chosen = choose_questions(questions, name, protocol, grading.only)
    asked = chosen[:limit]
    images = [image for question in asked for image in question.prompt.images]
    missing = [image for image in dict.fromkeys(images) if not Path(image).is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(set(images))} pictures are missing ({missing[0]})",
            source=f"{name}: {data}",
            remedy=f"Needed: {bench.needs}",
        )
    if graded := len(asked) == len(chosen):
        spec = GradeSpec(protocol=protocol, options=grading.options)
        check_gradable(bench, data, asked, spec, judged=grading.judge is not None)
    return Task(bench=bench, data=data, grading=grading, questions=questions, asked=asked, graded=graded)


def answer(
    evaluation: Evaluation,
    task: Task,
    engine: RolloutEngine,
    settings: Mapping[str, Any],
    *,
    overwrite: bool = False,
    tell: Tell,
) -> Task:
    """Answers what is not answered yet; answers are on disk as they come.

    Args:
        evaluation: The model, and how it answers.
        task: As :func:`prepare` made it.
        engine: Of the model.
        settings: ``evaluation.settings()``: answers of another model must not be mixed with these.
        overwrite: Start anew.
        tell: Told which questions could not be answered, and where a stopped call goes on.

    Returns:
        The task with all answers.

    Raises:
        CheckpointError: The answers that are there were made with other settings.
    """
    limits = evaluation.spec.limits(task.questions)
    settings = {**settings, "max_new_tokens": limits, "questions": _fingerprint(task.questions)}
    file = AnswerFile(path=evaluation.out / task.bench.name / "answers.jsonl", settings=settings)
    if overwrite:  # figures of the answers that go, under whatever protocol, are figures of nothing
        for stale in file.path.parent.glob("results*.json*"):
            stale.unlink()
    try:
        with Progress(task.bench.name, len(task.asked)) as bar:
            answers = answer_questions(
                engine,
                task.asked,
                file,
                evaluation.spec,
                overwrite=overwrite,
                every=task.questions,
                on_progress=lambda done, _: bar.update(done),
            )
            bar.update(len(answers))
    except KeyboardInterrupt:
        there = f"The answers so far are in {file.path}: the same command goes on from there."
        tell(f"Stopped. {there if file.path.exists() else 'No answer was written yet: the same command starts again.'}")
        raise
    failed = failed_answers(answers)
    if failed:
        id, why = next(iter(failed.items()))
        tell(f"{task.bench.name}: {len(failed)} of {len(answers)} questions could not be answered ({id}: {why}).")
    return replace(task, answers=answers)


def grade(evaluation: Evaluation, task: Task, *, tell: Tell) -> Measured:
    """Grades the answers of a task and writes its results, with the rows that they are made of.

    Raises:
        DataError: As of ``grade_answers``.
    """
    folder = evaluation.out / task.bench.name
    answers = [stored.answer for stored in task.answers]
    with judging(task.grading, folder, tell=tell) as client:
        spec = GradeSpec(
            protocol=task.grading.protocol,
            options=task.grading.options,
            judge=client,
            source=str(folder / "answers.jsonl"),
            unanswered=failed_answers(task.answers),
        )
        result = illustrate(grade_answers(task.bench, task.data, answers, spec), task.asked, answers)
    facts = evaluation.measured_facts(task)
    if client is not None and client.usage.requests:
        facts["judge"] = client.facts()
    measured = measure(result, facts)
    write_measured(measured, results_path(folder, result.protocol))
    return measured


def stored_answers(bench: Benchmark, responses: Path) -> list[StoredAnswer]:
    """The answers of a file: ``answers.jsonl``, or the official submission file.

    Raises:
        DataError: it is neither.
    """
    return read_stored_or_plain(responses, read_responses(bench, responses))


def grade_stored(
    bench: Benchmark,
    stored: Sequence[StoredAnswer],
    data: Path,
    grading: Grading,
    *,
    source: str,
    folder: Path,
    tell: Tell,
) -> Measured:
    """Grades answers that are there; needs no model and writes nothing but what a judge says.

    Args:
        bench: Whose answers they are.
        stored: The answers, to all of its questions.
        data: Its data.
        grading: How; ``prompts`` and ``only`` are of asking, and are not read.
        source: Where the answers came from.
        folder: Gets ``judge_cache`` and ``judge.jsonl``.
        tell: Told where a stopped judge goes on.

    Raises:
        DataError: As of ``grade_answers``.
    """
    with judging(grading, folder, tell=tell) as client:
        spec = GradeSpec(
            protocol=grading.protocol,
            options=grading.options,
            judge=client,
            source=source,
            unanswered=failed_answers(stored),
        )
        result = grade_answers(bench, data, [one.answer for one in stored], spec)
    facts = {"responses": source, "length": length_facts(stored)}
    if client is not None:
        facts["judge"] = client.facts()
    return measure(result, facts)


def check_judge(grading: Grading) -> None:
    """Says what is wrong with a judge without asking it anything.

    Raises:
        DataError: There is none of that kind, an option is unknown or without a judge, or key or file is missing.
        RecipeError: A local model is not there.
    """
    if grading.judge is not None:
        load_judge(grading.judge, dict(grading.judge_options))
    elif grading.judge_options:
        raise DataError("--judge-option is given without --judge", remedy="Pass --judge openai:MODEL")


@contextmanager
def judging(grading: Grading, folder: Path, *, tell: Tell) -> Iterator[JudgeClient | None]:
    """The judge that is named, with a progress bar while it works.

    Its replies are cached in ``folder``/judge_cache, unless replayed, and recorded in ``folder``/judge.jsonl.
    """
    check_judge(grading)
    if grading.judge is None:
        yield None
        return
    record = None if grading.judge.startswith("replay:") else folder / "judge.jsonl"
    with Progress("judging", None) as bar:
        client = load_judge(
            grading.judge,
            dict(grading.judge_options),
            cache=folder / "judge_cache",
            record=record,
            on_progress=lambda done, total: bar.update(done, total=total),
        )
        try:
            yield client
        except KeyboardInterrupt:
            tell(f"Stopped. The replies so far are in {client.cache}: the same command goes on from there.")
            raise


def _fingerprint(questions: Sequence[Question]) -> str:
    """What was asked: answers to other questions must not be mixed with these."""
    asked = [[q.id, [dict(m) for m in q.prompt.messages], [Path(i).name for i in q.prompt.images]] for q in questions]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]
