"""The two halves of ``sightline eval run``: answering with the model, and grading without it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from rich.text import Text

from sightline.cli.console import out, print_error, say
from sightline.cli.eval_options import (
    check_judge,
    check_owners,
    data_folder,
    judging,
    options_of,
    protocol_of,
    show_result,
)
from sightline.cli.json_result import Document, Ended
from sightline.cli.model_options import asked_beyond
from sightline.errors import DataError, SightlineError
from sightline.evaluation.answers import AnswerFile, StoredAnswer, failed_answers
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
    results_document,
    results_path,
    write_measured,
)
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
    questions: Sequence[Question]
    """All of the benchmark."""
    asked: Sequence[Question]
    """Those that are answered."""
    graded: bool = True
    """False: the first ones only, to look at."""
    prompts: str = DEFAULT_PROMPTS
    """Whose wording the questions have."""
    answers: Sequence[StoredAnswer] = ()
    unread: Mapping[str, Any] = field(default_factory=dict)
    """Entries of the model's generation config that were not applied."""
    pictures: Mapping[str, Any] = field(default_factory=dict)
    """How pictures were made ready (``models.load.picture_facts``)."""


def default_out(model: str, adapter: str | None) -> Path:
    """Where a run without ``--out`` goes: ``eval`` and the last two parts of the adapter's or the model's path.

    >>> default_out("llava-hf/llava-1.5-7b-hf", "runs/dpo/model")
    PosixPath('eval/dpo_model')
    """
    return Path("eval") / "_".join(part for part in Path(adapter or model).parts[-2:] if part.strip("./"))


def answer_all(evaluation: Evaluation, names: Sequence[str], *, limit: int | None, overwrite: bool) -> list[Task]:
    """Answers every benchmark; all data are read, and options and judge looked at, before the model is loaded.

    A benchmark whose answers cannot be stored (there are some of other settings) is said and left out.

    Raises:
        DataError: Data or a judge are missing, or a benchmark, protocol or option is unknown.
    """
    check_judge(evaluation.judge, evaluation.judge_options)
    pairs = [*evaluation.data, *evaluation.prompts, *evaluation.protocols, *evaluation.only]
    check_owners(names, pairs, evaluation.options)
    tasks = [_task(evaluation, name, limit) for name in dict.fromkeys(names)]
    say(f"Answers and figures: {evaluation.out}")
    from sightline.models.load import picture_facts
    from sightline.rollouts.hf import load_engine, not_applied, unread_settings

    engine = load_engine(evaluation.model, evaluation.device)
    unread = unread_settings(engine.policy)
    if told := not_applied(engine.policy):
        say(told)
    settings, pictures = evaluation.settings(), picture_facts(evaluation.model)
    answered = []
    for task in tasks:
        known = replace(task, unread=unread, pictures=pictures)
        try:
            answered.append(_answered(evaluation, known, engine, settings, overwrite))
        except SightlineError as error:
            if len(tasks) == 1:
                raise
            print_error(error)
    return answered


def grade_all(evaluation: Evaluation, tasks: Sequence[Task], *, against: Path | None, asked: int) -> Document:
    """Grades every benchmark and writes the page. A benchmark that cannot be graded does not stop the others.

    One that was answered in part is shown, not graded. Exits with code 2 if one of the ``asked`` benchmarks could not
    be answered or graded; its answers are kept.
    """
    graded: list[Measured] = []
    looked: dict[str, Document] = {}
    failed = asked - len(tasks)
    for task in tasks:
        if not task.graded:
            looked[task.bench.name] = _show_answers(task)
            continue
        try:
            graded.append(_graded(evaluation, task))
        except DataError as error:
            print_error(error)
            failed += 1
    page = _write_summary(evaluation, graded, against) if graded else None
    documents = [results_document(measured) for measured in graded]
    document = {
        "folder": evaluation.out,
        "report": page,
        "benchmarks": documents,
        "looked_at": looked,
        "failed": failed,
    }
    if failed:
        say(f"{failed} of {asked} benchmarks could not be graded. Their answers are in {evaluation.out}.")
        raise Ended({**document, "failed": failed}, code=2)
    return document


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
    prompts = protocol_of(bench, evaluation.prompts, "--prompts")
    if prompts is not None:
        questions = reword(questions, prompts, bench.name)
    questions = limited(questions, protocol)
    if prompts is None and protocol and wordings(questions)[protocol]:
        say(f"{name}: asked in its default wording. {protocol} has its own: --prompts {bench.name}={protocol}")
    only = protocol_of(bench, evaluation.only, "--only")
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
    if graded:
        spec = GradeSpec(protocol=protocol, options=options_of(bench.name, evaluation.options))
        check_gradable(bench, data, asked, spec, judged=evaluation.judge is not None)
    return Task(bench=bench, data=data, questions=questions, asked=asked, graded=graded, prompts=words)


def _answered(evaluation: Evaluation, task: Task, engine: Any, settings: Mapping[str, Any], overwrite: bool) -> Task:
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
        say(f"Stopped. {there if file.path.exists() else 'No answer was written yet: the same command starts again.'}")
        raise
    failed = failed_answers(answers)
    if failed:
        id, why = next(iter(failed.items()))
        say(f"{task.bench.name}: {len(failed)} of {len(answers)} questions could not be answered ({id}: {why}).")
    return replace(task, answers=answers)


def _graded(evaluation: Evaluation, task: Task) -> Measured:
    folder = evaluation.out / task.bench.name
    answers = [stored.answer for stored in task.answers]
    with judging(evaluation.judge, evaluation.judge_options, folder) as client:
        spec = GradeSpec(
            protocol=protocol_of(task.bench, evaluation.protocols),
            options=options_of(task.bench.name, evaluation.options),
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
    show_result(measured)
    return measured


def _show_answers(task: Task) -> Document:
    """The first questions with their answers: a look, no measurement."""
    counted = f"the first {len(task.answers)} questions answered, not graded"
    out.print(Text(f"{task.bench.name}, {counted}", style="bold"))
    for question, stored in zip(task.asked[:_SHOWN], task.answers, strict=False):
        out.print(Text(f"{question.id}: {question_text(question)}"), soft_wrap=True)
        out.print(Text(f"  {stored.answer.text}\n"), soft_wrap=True)
    pairs = zip(task.asked, task.answers, strict=False)
    return {
        question.id: {"question": question_text(question), "answer": stored.answer.text} for question, stored in pairs
    }


def _write_summary(evaluation: Evaluation, graded: Sequence[Measured], against: Path | None) -> Path:
    from sightline.report.evaluation import write_results_page

    every = [*graded, *_of_earlier_commands(evaluation, graded)]
    table = json.dumps(lmms_eval_table(every), indent=2)
    replace_file(evaluation.out / RESULTS, table + "\n")
    pairs = [(_earlier(against, measured), measured) for measured in every]
    title = f"Benchmarks: {evaluation.model.path}"
    notes = [] if against is None else [f"Before: {against}. After: {evaluation.out}."]
    page = write_results_page(evaluation.out / "report.html", pairs, title=title, notes=notes)
    say(f"Report: {page}")
    return page


def _of_earlier_commands(evaluation: Evaluation, graded: Sequence[Measured]) -> list[Measured]:
    """What other commands measured of the same model in the same folder; what cannot be read is left out."""
    here = {(one.result.bench, one.result.protocol) for one in graded}
    found = []
    for path in sorted(evaluation.out.glob("*/results*.json")):
        try:
            measured = read_measured(path)
        except DataError as error:
            say(f"Not in the summary: {error}")
            continue
        mine = (measured.facts.get("model"), measured.facts.get("adapter")) == (
            evaluation.model.path,
            evaluation.model.adapter,
        )
        if mine and (measured.result.bench, measured.result.protocol) not in here:
            found.append(measured)
    return found


def _earlier(against: Path | None, measured: Measured) -> Measured | None:
    """What the earlier run measured of the same benchmark, if it did and the two can be compared."""
    bench = measured.result.bench
    if against is None or not (against / bench / RESULTS).exists():
        return None
    earlier = read_measured(results_path(against / bench, measured.result.protocol, there=True))
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
