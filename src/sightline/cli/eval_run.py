"""The two halves of ``sightline eval run``: answering with the model, and grading without it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.text import Text

from sightline.cli.console import out, print_error, say
from sightline.cli.eval_options import check_judge, data_folder, judging, options_of, protocol_of, show_result
from sightline.errors import DataError
from sightline.evaluation.answers import AnswerFile, StoredAnswer
from sightline.evaluation.bench import Benchmark, Question, check_protocol
from sightline.evaluation.benches import load_bench
from sightline.evaluation.results import (
    RESULTS,
    Measured,
    changes,
    length_facts,
    lmms_eval_table,
    measure,
    read_measured,
    write_measured,
)
from sightline.evaluation.stages import (
    DEFAULT_PROMPTS,
    AnswerSpec,
    GradeSpec,
    answer_questions,
    choose_questions,
    grade_answers,
    illustrate,
    question_text,
    reword,
    wordings,
)
from sightline.evaluation.weights import fingerprint_files
from sightline.files import replace_file
from sightline.progress import Progress
from sightline.recipes.schema import ModelSpec

_SHOWN: Final = 5
"""Answers of a benchmark that is answered in part."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One model on several benchmarks, as asked for on the command line."""

    out: Path
    model: ModelSpec
    spec: AnswerSpec
    data: Sequence[str]
    prompts: Sequence[str]
    protocols: Sequence[str]
    options: Sequence[str]
    judge: str | None
    judge_options: Sequence[str]
    only: Sequence[str] = ()
    device: str | None = None

    def facts(self) -> dict[str, Any]:
        """Model and decoding, as they stand in results."""
        decoding = self.spec.settings()
        return {"model": self.model.path, "adapter": self.model.adapter, "dtype": self.model.dtype, **decoding}

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
    questions: Sequence[Question]
    """All of the benchmark."""
    asked: Sequence[Question]
    """Those that are answered."""
    graded: bool = True
    """False: the first ones only, to look at."""
    prompts: str = DEFAULT_PROMPTS
    """Whose wording the questions have."""
    answers: Sequence[StoredAnswer] = ()


def default_out(model: str, adapter: str | None) -> Path:
    """Where a run without ``--out`` goes: ``eval`` and the last two parts of the adapter's or the model's path.

    >>> default_out("llava-hf/llava-1.5-7b-hf", "runs/dpo/model")
    PosixPath('eval/dpo_model')
    """
    return Path("eval") / "_".join(part for part in Path(adapter or model).parts[-2:] if part.strip("./"))


def answer_all(evaluation: Evaluation, names: Sequence[str], *, limit: int | None, overwrite: bool) -> list[Task]:
    """Answers every benchmark; all data are read before the model is loaded.

    Raises:
        DataError: Data are missing, or a benchmark or protocol is unknown.
        CheckpointError: Answers of other settings are there.
    """
    check_judge(evaluation.judge, evaluation.judge_options)
    tasks = [_task(evaluation, name, limit) for name in dict.fromkeys(names)]
    say(f"Answers and figures: {evaluation.out}")
    from sightline.rollouts.hf import load_engine

    engine = load_engine(evaluation.model, evaluation.device)
    settings = evaluation.settings()
    return [_answered(evaluation, task, engine, settings, overwrite) for task in tasks]


def grade_all(evaluation: Evaluation, tasks: Sequence[Task], *, against: Path | None) -> None:
    """Grades every benchmark and writes the page. A benchmark that cannot be graded does not stop the others.

    One that was answered in part is shown, not graded. Exits with code 2 if one could not be graded; its answers
    are kept.
    """
    graded: list[Measured] = []
    failed = 0
    for task in tasks:
        if not task.graded:
            _show_answers(task)
            continue
        try:
            graded.append(_graded(evaluation, task))
        except DataError as error:
            print_error(error)
            failed += 1
    if graded:
        _write_summary(evaluation, graded, against)
    if failed:
        say(f"{failed} of {len(tasks)} benchmarks could not be graded. Their answers are in {evaluation.out}.")
        sys.exit(2)


def check_earlier(against: Path | None, names: Sequence[str]) -> None:
    """Says before the work which benchmarks the earlier run does not have.

    Raises:
        DataError: It has none of them.
    """
    if against is None:
        return
    lacking = [name for name in names if not (against / load_bench(name).name / RESULTS).exists()]
    if len(lacking) == len(names):
        remedy = "Give --against the --out of an earlier run"
        raise DataError(f"holds no results of {', '.join(names)}", source=str(against), remedy=remedy)
    if lacking:
        say(f"{against} holds no results of {', '.join(lacking)}: these will stand alone.")


def _task(evaluation: Evaluation, name: str, limit: int | None) -> Task:
    bench = load_bench(name)
    protocol = protocol_of(bench, evaluation.protocols)
    if protocol is not None:
        check_protocol(bench, protocol)
    data = data_folder(bench, evaluation.data, evaluation.out / bench.name / "data")
    questions = bench.questions(data)
    prompts = protocol_of(bench, evaluation.prompts)
    if prompts is not None:
        questions = reword(questions, prompts, bench.name)
    elif protocol and wordings(questions)[protocol]:
        say(f"{name}: asked in its default wording. {protocol} has its own: --prompts {bench.name}={protocol}")
    only = protocol_of(bench, evaluation.only)
    chosen = choose_questions(questions, bench.name, protocol, () if only is None else only.split(","))
    asked = chosen[:limit]
    images = [image for question in asked for image in question.prompt.images]
    missing = [image for image in dict.fromkeys(images) if not Path(image).is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(set(images))} pictures are missing ({missing[0]})",
            source=f"{bench.name}: {data}",
            remedy=f"Needed: {bench.needs}",
        )
    words, graded = prompts or DEFAULT_PROMPTS, len(asked) == len(chosen)
    return Task(bench=bench, data=data, questions=questions, asked=asked, graded=graded, prompts=words)


def _answered(evaluation: Evaluation, task: Task, engine: Any, settings: Mapping[str, Any], overwrite: bool) -> Task:
    settings = {**settings, "questions": _fingerprint(task.questions)}
    file = AnswerFile(path=evaluation.out / task.bench.name / "answers.jsonl", settings=settings)
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
        say(f"Stopped. {there if file.path.exists() else 'No answer was written yet: the same command starts again.'}")
        raise
    return dataclasses.replace(task, answers=answers)


def _graded(evaluation: Evaluation, task: Task) -> Measured:
    folder = evaluation.out / task.bench.name
    answers = [stored.answer for stored in task.answers]
    with judging(evaluation.judge, evaluation.judge_options, folder) as client:
        spec = GradeSpec(
            protocol=protocol_of(task.bench, evaluation.protocols),
            options=options_of(task.bench.name, evaluation.options),
            judge=client,
        )
        result = illustrate(grade_answers(task.bench, task.data, answers, spec), task.asked, answers)
    facts = {**evaluation.facts(), "prompts": task.prompts, "length": length_facts(task.answers)}
    if client is not None and client.usage.requests:
        facts["judge"] = client.facts()
    measured = measure(result, facts)
    write_measured(measured, folder / RESULTS)
    show_result(measured)
    return measured


def _show_answers(task: Task) -> None:
    """The first questions with their answers: a look, no measurement."""
    counted = f"the first {len(task.answers)} questions answered, not graded"
    out.print(Text(f"{task.bench.name}, {counted}", style="bold"))
    for question, stored in zip(task.asked[:_SHOWN], task.answers, strict=False):
        out.print(Text(f"{question.id}: {question_text(question)}"), soft_wrap=True)
        out.print(Text(f"  {stored.answer.text}\n"), soft_wrap=True)


def _write_summary(evaluation: Evaluation, graded: Sequence[Measured], against: Path | None) -> None:
    from sightline.report.evaluation import write_results_page

    table = json.dumps(lmms_eval_table(graded), indent=2)
    replace_file(evaluation.out / RESULTS, table + "\n")
    pairs = [(_earlier(against, measured), measured) for measured in graded]
    title = f"Benchmarks: {evaluation.model.path}"
    notes = [] if against is None else [f"Before: {against}. After: {evaluation.out}."]
    say(f"Report: {write_results_page(evaluation.out / 'report.html', pairs, title=title, notes=notes)}")


def _earlier(against: Path | None, measured: Measured) -> Measured | None:
    """What the earlier run measured of the same benchmark, if it did and the two can be compared."""
    bench = measured.result.bench
    if against is None or not (against / bench / RESULTS).exists():
        return None
    earlier = read_measured(against / bench)
    try:
        changes([earlier], [measured], resamples=1)
    except DataError as error:  # of another protocol, or of other questions: the page is made all the same
        say(f"{bench} stands alone, not beside {against}: {error}")
        return None
    return earlier


def _fingerprint(questions: Sequence[Question]) -> str:
    """What was asked: answers to other questions must not be mixed with these."""
    asked = [[q.id, [dict(m) for m in q.prompt.messages], [Path(i).name for i in q.prompt.images]] for q in questions]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]
