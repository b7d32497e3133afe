"""The two halves of ``sightline eval run``: answering with the model, and grading without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from rich.text import Text

from sightline.cli.console import out, print_error, say
from sightline.cli.eval_options import check_owners, options_of, parsed_judge, protocol_of, show_result
from sightline.cli.json_result import Document, Ended
from sightline.errors import DataError, SightlineError
from sightline.evaluation.benches import load_bench
from sightline.evaluation.results import RESULTS, Measured, results_document
from sightline.evaluation.run import Evaluation, Grading, Task, answer, check_judge, data_folder, grade, prepare
from sightline.evaluation.stages import question_text

_SHOWN: Final = 5
"""Answers of a benchmark that is answered in part."""


@dataclass(frozen=True, kw_only=True)
class Lines:
    """What the options say about benchmarks: ``NAME=value`` for one, or a value for all."""

    data: Sequence[str] = ()
    prompts: Sequence[str] = ()
    only: Sequence[str] = ()
    protocols: Sequence[str] = ()
    options: Sequence[str] = ()
    judge: str | None = None
    judge_options: Sequence[str] = ()

    def check(self, names: Sequence[str]) -> None:
        """
        Raises:
            DataError: a judge that cannot be asked, or a line for a benchmark that there is not.
        """
        check_judge(Grading(judge=self.judge, judge_options=parsed_judge(self.judge_options)))
        check_owners(names, [*self.data, *self.prompts, *self.protocols, *self.only], self.options)

    def task(self, name: str, folder: Path, limit: int | None) -> Task:
        """One benchmark, prepared; ``folder`` is where the built-in world is drawn."""
        bench = load_bench(name)
        only = protocol_of(bench, self.only, "--only")
        grading = Grading(
            protocol=protocol_of(bench, self.protocols),
            prompts=protocol_of(bench, self.prompts, "--prompts"),
            only=() if only is None else only.split(","),
            options=options_of(bench.name, self.options),
            judge=self.judge,
            judge_options=parsed_judge(self.judge_options),
        )
        data = data_folder(bench, self.data, folder / bench.name / "data")
        return prepare(bench, data, grading, limit=limit, tell=say)


def answer_all(
    evaluation: Evaluation,
    lines: Lines,
    names: Sequence[str],
    *,
    device: str | None,
    limit: int | None,
    overwrite: bool,
) -> list[Task]:
    """Answers every benchmark; all data are read, and options and judge looked at, before the model is loaded.

    A benchmark whose answers cannot be stored (there are some of other settings) is said and left out.

    Raises:
        DataError: Data or a judge are missing, or a benchmark, protocol or option is unknown.
    """
    lines.check(names)
    tasks = [lines.task(name, evaluation.out, limit) for name in dict.fromkeys(names)]
    say(f"Answers and figures: {evaluation.out}")
    from sightline.models.load import picture_facts
    from sightline.rollouts.hf import load_engine, not_applied, unread_settings

    engine = load_engine(evaluation.model, device)
    unread = unread_settings(engine.policy)
    if told := not_applied(engine.policy):
        say(told)
    settings, pictures = evaluation.settings(), picture_facts(evaluation.model)
    answered = []
    for task in tasks:
        known = replace(task, unread=unread, pictures=pictures)
        try:
            answered.append(answer(evaluation, known, engine, settings, overwrite=overwrite, tell=say))
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
            graded.append(grade(evaluation, task, tell=say))
            show_result(graded[-1])
        except DataError as error:
            print_error(error)
            failed += 1
    page = None
    if graded:
        from sightline.report.summary import write_summary

        page = write_summary(evaluation, graded, against, tell=say)
        say(f"Report: {page}")
    documents = [results_document(measured) for measured in graded]
    document = {"folder": evaluation.out, "report": page, "benchmarks": documents, "looked_at": looked}
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


def _show_answers(task: Task) -> Document:
    """The first questions with their answers: a look, no measurement."""
    counted = f"the first {len(task.answers)} questions answered, not graded"
    out.print(Text(f"{task.bench.name}, {counted}", style="bold"))
    for question, stored in zip(task.asked[:_SHOWN], task.answers, strict=False):
        out.print(Text(f"{question.id}: {question_text(question)}"), soft_wrap=True)
        out.print(Text(f"  {stored.answer.text}\n"), soft_wrap=True)
    pairs = zip(task.asked, task.answers, strict=False)
    return {one.id: {"question": question_text(one), "answer": stored.answer.text} for one, stored in pairs}
