"""The held-out judge of a loop: benchmarks that every round's model answers, and what they say of the rounds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sightline.errors import RecipeError
from sightline.evaluation.answers import AnswerFile
from sightline.evaluation.bench import Better, Question, direction
from sightline.evaluation.results import RESULTS, Measured, length_facts, measure, read_measured, write_measured
from sightline.evaluation.stages import AnswerSpec, answer_questions
from sightline.loops.contents import digest_of, digests, pictures_digest
from sightline.progress import Progress
from sightline.recipes.evaluation import BenchSpec
from sightline.recipes.loop import ExamSpec, StopSpec
from sightline.recipes.schema import ModelSpec
from sightline.recipes.source import dotted
from sightline.relations.scores import apart
from sightline.rewards.settings import FREE_OPTIONS, split_files
from sightline.rollouts.hf import HFEngine, load_engine
from sightline.train.periodic_eval import Task, grade_empty, grade_task, open_task
from sightline.types import Group

_TABLES = (".json", ".jsonl", ".csv", ".tsv", ".txt", ".xlsx")
"""Files of a benchmark that hold its questions, and what answers to them are graded by."""


@dataclass(frozen=True, kw_only=True)
class Exam:
    """An exam whose questions are read."""

    spec: ExamSpec
    tasks: Sequence[Task]
    better: Better
    """Good direction of ``spec.best``."""

    def settings(self) -> dict[str, Any]:
        """What changes its answers and figures, beside the model."""
        benches = [_settings(task.spec) for task in self.tasks]
        asked = [[_all_of(one) for one in task.questions] for task in self.tasks]
        shown = pictures_digest(Group(prompts=(one.prompt,)) for task in self.tasks for one in task.questions)
        return {"benches": benches, "questions": digest_of([asked, shown])}

    def hold(self, model: ModelSpec, folder: Path, title: str) -> None:
        """Answers and grades; goes on after the answers that are there.

        Writes ``BENCH/answers.jsonl``, ``BENCH/results.json`` and, beside it, the graded answers.
        """
        engine: HFEngine | None = None
        for task in self.tasks:
            if (folder / task.name / RESULTS).exists():
                continue
            engine = engine or load_engine(model)
            spec = AnswerSpec(max_new_tokens=task.spec.max_new_tokens, batch_size=self.spec.batch_size)
            with Progress(f"{title}: {task.name}", len(task.questions)) as bar:
                stored = answer_questions(
                    engine,
                    task.questions,
                    AnswerFile(path=folder / task.name / "answers.jsonl"),
                    spec,
                    on_progress=_told(bar),
                )
            facts = {"length": length_facts(stored)}
            write_measured(measure(grade_task(task, stored), facts), folder / task.name / RESULTS)

    def value(self, folder: Path) -> float:
        """The figure that chooses, of one round's exam."""
        bench, _, metric = self.spec.best.partition("/")
        return read_measured(folder / bench / RESULTS).result.metrics.get(metric, math.nan)


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What the exams of the rounds so far say."""

    best: int
    """Round; 0 is the start."""
    value: float
    since: int
    """Rounds since the last gain."""


def open_exam(spec: ExamSpec) -> Exam:
    """Reads the questions, and looks whether they can be graded and the loop be judged by them.

    Raises:
        DataError: Data are missing, or a benchmark, protocol or option is unknown, or a judge is needed.
        RecipeError: ``best`` is no figure of them that may choose.
    """
    tasks = [open_task(bench) for bench in spec.benches]
    results = {task.name: grade_empty(task, "exam.benches") for task in tasks}
    bench, _, metric = spec.best.partition("/")
    if bench not in results:
        raise RecipeError(f"exam.best is {spec.best}, and exam.benches are {', '.join(results)}. Name a figure of one.")
    result, task = results[bench], next(task for task in tasks if task.name == bench)
    if metric not in result.metrics and metric not in result.formulas:
        raise RecipeError(f"exam.best is {spec.best}, and {bench} has {', '.join(result.metrics)}. Name one of these.")
    if task.spec.metrics and metric not in task.spec.metrics:
        raise RecipeError(
            f"exam.best is {spec.best}, and exam.benches shows {', '.join(task.spec.metrics)} of {bench}. Add {metric}."
        )
    if not task.spec.selects:
        raise RecipeError(
            f"exam.best is {spec.best}, a figure that is reported: choosing by it would flatter it. Declare the "
            f"questions of {bench} to be for choosing only (selects: true), and report the best round on others."
        )
    better: Better = direction(f"{bench}/{metric}", _directions(result.better, bench))
    if spec.better != "auto":
        better = spec.better
    if better == "neither":
        raise RecipeError(f"exam.best is {spec.best}, which is neither good nor bad. Set exam.better: lower or higher.")
    return Exam(spec=spec, tasks=tasks, better=better)


def standing(values: Sequence[float], better: Better, stop: StopSpec) -> Standing:
    """The best of the rounds' figures, the start's first. A round is better if it gains ``stop.least_gain`` or more on
    the best before it; of equal ones the first counts. A figure that is no number gains nothing.

    >>> standing([60.0, 50.0, 49.5, 30.0, 40.0], "lower", StopSpec(least_gain=1.0))
    Standing(best=3, value=30.0, since=1)
    """
    best, since = 0, 0
    for number, value in enumerate(values[1:], start=1):
        higher, lower = (values[best], value) if better == "lower" else (value, values[best])
        gains = not math.isnan(value) and (math.isnan(values[best]) or apart(higher, lower, stop.least_gain))
        best, since = (number, 0) if gains else (best, since + 1)
    return Standing(best=best, value=values[best], since=since)


def results_of(folder: Path) -> list[Measured]:
    """All results of one round's exam, as far as they are there."""
    return [read_measured(path) for path in sorted(folder.glob(f"*/{RESULTS}"))]


def _settings(spec: BenchSpec) -> dict[str, Any]:
    """Of a benchmark: its options, and what the files hold that they and ``data`` name."""
    free = ("cache", *FREE_OPTIONS)
    options = {name: value for name, value in dotted(spec.options).items() if name.rpartition(".")[2] not in free}
    files, told = split_files(options)
    data = Path(spec.data)
    tables = [data] if data.is_file() else sorted(path for path in data.glob("*") if path.suffix in _TABLES)
    values = {name: value for name, value in dataclasses.asdict(spec).items() if name not in ("data", "selects")}
    return {**values, "options": told, "files": digest_of([*digests([*tables, *files]).values()])}


def _all_of(question: Question) -> list[Any]:
    """All of a question but its pictures, and what it is graded by as far as it holds it."""
    prompt = question.prompt
    return [question.id, [dict(message) for message in prompt.messages], dict(prompt.facts), dict(question.meta)]


def _told(bar: Progress) -> Callable[[int, int], None]:
    return lambda done, _: bar.update(done)


def _directions(better: Any, bench: str) -> dict[str, Better]:
    return {f"{bench}/{name}": way for name, way in better.items()}
