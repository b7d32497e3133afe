"""Benchmarks during training, and the checkpoint that does best on what is held out for choosing.

A figure that is reported must not choose what is reported: the best step is chosen by a metric of ``data.eval``,
or by a benchmark that the recipe declares to be for selection (``selects: true``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from sightline.data.render import Renderer
from sightline.data.sampler import share
from sightline.errors import RecipeError
from sightline.evaluation.answers import AnswerFile, StoredAnswer, failed_answers
from sightline.evaluation.bench import Answer, Benchmark, Better, Question, Result, check_protocol, direction
from sightline.evaluation.benches import load_bench
from sightline.evaluation.results import length_facts, measure, write_measured
from sightline.evaluation.stages import (
    AnswerSpec,
    GradeSpec,
    answer_questions,
    choose_questions,
    grade_answers,
    illustrate,
    limited,
)
from sightline.files import replace_folder
from sightline.models.policy import Policy
from sightline.recipes.evaluation import BenchSpec, EvaluationSpec
from sightline.recipes.schema import Recipe
from sightline.rollouts.engine import RolloutEngine
from sightline.rollouts.hf import HFEngine
from sightline.train.rows import holds_out
from sightline.train.run_folder import RunDirectory

_BEST_FACTS = "best.json"


class Ranks(Protocol):
    """The part of the runtime that this needs."""

    rank: int
    size: int

    @property
    def is_main(self) -> bool: ...

    def gather_objects(self, value: Any) -> list[Any]: ...

    def barrier(self) -> None: ...

    def whole(self, policy: Policy) -> AbstractContextManager[None]: ...

    def model_state(self, policy: Policy) -> dict[str, Tensor] | None: ...


@dataclass(frozen=True, kw_only=True)
class Task:
    """One benchmark, read."""

    spec: BenchSpec
    bench: Benchmark
    questions: Sequence[Question]

    @property
    def name(self) -> str:
        """What its figures are logged under: the name, or the instance of a benchmark of another package."""
        return self.bench.name


@dataclass(kw_only=True)
class Benchmarks:
    """Answers and grades benchmarks with the policy as it is, every so many steps."""

    spec: EvaluationSpec
    tasks: Sequence[Task]
    engine: RolloutEngine
    policy: Policy
    ranks: Ranks
    run: RunDirectory
    best: str | None
    """Metric that chooses; None: no step is kept."""
    better: dict[str, Better] = field(default_factory=dict)
    """Good direction of figures by the name they are logged under; others follow ``bench.direction``."""

    def measure(self, step: int) -> dict[str, float]:
        """Figures as ``bench/BENCH/METRIC``. Every rank answers its share and must call; all get the figures.

        Answers and results go to ``evaluation/step-00000010/BENCH``.
        """
        figures: dict[str, float] = {}
        for task in self.tasks:
            answers = self._answers(task, step)
            result = grade_task(task, answers)
            wanted = task.spec.metrics or tuple(result.metrics)
            figures |= {f"bench/{task.name}/{name}": result.metrics[name] for name in wanted}
            if self.ranks.is_main:
                folder = self._folder(step) / task.name
                facts = {"step": step, "length": length_facts(answers)}
                write_measured(measure(result, facts), folder / "results.json")
        return {name: value for name, value in figures.items() if not math.isnan(value)}

    def keep_best(self, record: Mapping[str, Any]) -> None:
        """Keeps the model in ``best`` if the record holds the chosen metric and it is better than ever before.

        Every rank must call, with the same record.

        Raises:
            RecipeError: The held-out rows were scored, and the metric is none of theirs.
        """
        if self.best is None:
            return
        if self.best not in record:
            _check_scored(self.best, record)
            return
        better = self.ranks.is_main and self._is_better(self.best, record[self.best])
        if self.ranks.gather_objects(better)[0]:
            self._keep({"step": record["step"], "metric": self.best, "value": record[self.best]})

    def _is_better(self, metric: str, value: float) -> bool:
        if math.isnan(value):  # neither better nor worse than any, and it would stay for ever
            return False
        before = self._best_value()
        lower = direction(metric, self.better) == "lower"
        return before is None or (value < before if lower else value > before)

    def _keep(self, facts: Mapping[str, Any]) -> None:
        state = self.ranks.model_state(self.policy)

        def write(folder: Path) -> None:
            self.policy.save(folder, state)
            (folder / _BEST_FACTS).write_text(json.dumps(facts) + "\n", encoding="utf-8")

        if self.ranks.is_main:
            replace_folder(self.run.best, write)
        self.ranks.barrier()

    def _best_value(self) -> float | None:
        path = self.run.best / _BEST_FACTS
        if not path.exists():
            return None
        facts = json.loads(path.read_text(encoding="utf-8"))
        return float(facts["value"]) if facts["metric"] == self.best else None

    def _folder(self, step: int) -> Path:
        return self.run.evaluation / f"step-{step:08d}"

    def _answers(self, task: Task, step: int) -> list[StoredAnswer]:
        """All answers, in the order of the questions; each rank writes its own file."""
        spec = AnswerSpec(max_new_tokens=task.spec.max_new_tokens, batch_size=self.spec.batch_size)
        mine = share(task.questions, self.ranks.rank, self.ranks.size)
        path = self._folder(step) / task.name / f"answers.{self.ranks.rank}.jsonl"
        with self.ranks.whole(self.policy):
            own = answer_questions(self.engine, mine, AnswerFile(path=path), spec, overwrite=True)
        every = {one.answer.id: one for part in self.ranks.gather_objects(own) for one in part}
        return [every[question.id] for question in task.questions]


def grade_task(task: Task, stored: Sequence[StoredAnswer]) -> Result:
    """The figures of a whole set of answers."""
    answers = [one.answer for one in stored]
    failed = failed_answers(stored)
    spec = GradeSpec(protocol=task.spec.protocol, options=task.spec.options, unanswered=failed)
    return illustrate(grade_answers(task.bench, Path(task.spec.data), answers, spec), task.questions, answers)


def grade_empty(task: Task, where: str) -> Result:
    """Grades empty answers, so that what is missing is said before anything is answered.

    Args:
        task: the benchmark.
        where: place in the recipe, for errors.

    Raises:
        DataError: An option is unknown, or a judge is needed.
        RecipeError: A figure that is none of the benchmark.
    """
    result = grade_task(task, [StoredAnswer(answer=Answer(id=one.id, text="")) for one in task.questions])
    unknown = [name for name in task.spec.metrics if name not in result.metrics]
    if unknown:
        raise RecipeError(
            f"{where}: {task.name} has no figure {unknown[0]!r} under protocol {result.protocol}. "
            f"It has {', '.join(result.metrics)}."
        )
    return result


def build_benchmarks(recipe: Recipe, ranks: Ranks, policy: Policy, renderer: Renderer) -> Benchmarks | None:
    """What the section ``evaluation`` asks for; None without one.

    Every benchmark is graded once with empty answers, so that what is missing (data, options, a judge) is said
    before the first step.

    Raises:
        DataError: Data are missing, or a benchmark, protocol or option is unknown, or a judge is needed.
        RecipeError: A figure that is no figure of its benchmark, or a best step chosen by what is reported.
    """
    spec = recipe.evaluation
    if spec is None:
        return None
    if not ranks.is_main:  # the main process reads first: pictures that a benchmark draws or unpacks are written once
        ranks.barrier()
    tasks = [open_task(bench) for bench in spec.benches]
    if ranks.is_main:
        ranks.barrier()
    names = [task.name for task in tasks]
    if twice := {name for name in names if names.count(name) > 1}:
        raise RecipeError(f"evaluation.benches: {min(twice)} stands twice. Give each benchmark once.")
    built = Benchmarks(
        spec=spec,
        tasks=tasks,
        engine=HFEngine(policy, renderer),
        policy=policy,
        ranks=ranks,
        run=RunDirectory(path=Path(recipe.output_dir)),
        best=_best(recipe, spec, tasks),
    )
    for task in tasks:
        _check(task, built)
    _check_direction(built)
    return built


def open_task(spec: BenchSpec) -> Task:
    """A benchmark with the questions that a recipe asks of it.

    Raises:
        DataError: Data are missing, or a benchmark, protocol or category is unknown.
    """
    bench = load_bench(spec.bench)
    protocol = spec.protocol
    if protocol is not None:
        check_protocol(bench, protocol)
    every = limited(bench.questions(Path(spec.data)), protocol)
    questions = choose_questions(every, bench.name, protocol, spec.only)
    return Task(spec=spec, bench=bench, questions=questions)


def _check(task: Task, built: Benchmarks) -> None:
    result = grade_empty(task, "evaluation.benches")
    built.better |= {f"bench/{task.name}/{name}": way for name, way in result.better.items()}
    logged = task.spec.metrics or tuple(result.metrics)
    if built.best is not None and built.best.startswith(f"bench/{task.name}/"):
        figure = built.best.removeprefix(f"bench/{task.name}/")
        # a figure that answers of no word leave undefined may be there later
        if figure not in logged and (task.spec.metrics or figure not in result.formulas):
            raise RecipeError(f"evaluation.best is {built.best}, and {task.name} logs {', '.join(logged)}. Name one.")


def _check_direction(built: Benchmarks) -> None:
    if built.best is not None and direction(built.best, built.better) == "neither":
        raise RecipeError(f"evaluation.best is {built.best}, which is neither good nor bad. Choose by another figure.")


def _check_scored(best: str, record: Mapping[str, Any]) -> None:
    scored = [name for name in record if name.startswith("eval/")]
    if best.startswith("eval/") and scored:
        raise RecipeError(f"evaluation.best is {best}, and data.eval is scored by {', '.join(scored)}. Name one.")


def _best(recipe: Recipe, spec: EvaluationSpec, tasks: Sequence[Task]) -> str | None:
    held_out = holds_out(recipe)
    if spec.best == "auto" and not held_out and any(task.spec.selects for task in tasks):
        name = next(task.name for task in tasks if task.spec.selects)
        raise RecipeError(
            f"evaluation.benches: {name} is there to choose by (selects: true), and evaluation.best does not say by "
            f"which of its figures. Set best: bench/{name}/METRIC."
        )
    if spec.best == "none" or (spec.best == "auto" and not held_out):
        return None
    metric = "eval/loss" if spec.best == "auto" else spec.best
    kind, _, rest = metric.partition("/")
    if kind == "eval" and held_out:
        return metric
    if kind == "eval":
        raise RecipeError(f"evaluation.best is {metric}, but nothing is held out. Add data.eval, or set best: none.")
    chosen = [task for task in tasks if kind == "bench" and rest.startswith(f"{task.name}/")]
    if not chosen:
        raise RecipeError(
            f"evaluation.best is {metric!r}. Write eval/METRIC, or bench/BENCH/METRIC of one of evaluation.benches."
        )
    if not chosen[0].spec.selects:
        raise RecipeError(
            f"evaluation.best is {metric}, a figure that is reported: choosing by it would flatter it. Choose by "
            f"eval/loss, or declare the questions of {chosen[0].name} to be for choosing only (selects: true)."
        )
    return metric
