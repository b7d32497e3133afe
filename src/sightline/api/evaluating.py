"""Benchmarks in Python: ``evaluate``, ``grade``, ``compare``."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

from sightline.api.given import check_answers, check_kind, check_least, check_word, path_of, path_to_write
from sightline.api.groups import Groups
from sightline.api.model import Model, name_model, opened
from sightline.api.run import Run
from sightline.display import table
from sightline.errors import DataError
from sightline.evaluation.answers import StoredAnswer
from sightline.evaluation.bench import Answer, Benchmark, Question
from sightline.evaluation.benches import load_bench
from sightline.evaluation.results import Measured, changes, length_words, read_measured
from sightline.evaluation.run import (
    Evaluation,
    Grading,
    Task,
    answer,
    check_judge,
    data_folder,
    default_out,
    grade_stored,
    prepare,
    stored_answers,
)
from sightline.evaluation.run import grade as grade_task
from sightline.evaluation.sides import other_pictures, other_wording
from sightline.evaluation.stages import AnswerSpec
from sightline.models.load import picture_facts
from sightline.report.evaluation import change_rows, write_results_page
from sightline.report.summary import write_summary
from sightline.report.table import SIGNS, Row, Verdict, bounds, changes_table, number, plain_text
from sightline.rollouts.hf import unread_settings
from sightline.types import FinishReason, Group, Response

_log = logging.getLogger(__name__)
Side = Measured | str | Path
"""A result, or the file or folder that holds one."""


def evaluate(
    model: Model | Run | str | Path,
    bench: str,
    data: str | Path | None = None,
    *,
    out: str | Path | None = None,
    answers: AnswerSpec | None = None,
    grading: Grading | None = None,
    overwrite: bool = False,
) -> Measured:
    """Answers a benchmark with a model and grades the answers, as ``sightline eval`` does, into the same files: a
    stopped call goes on where it was, and what is answered is not asked again.

    Args:
        model: a loaded model, or what ``load`` takes.
        bench: its name, as ``sightline eval list`` shows it.
        data: the folder that its authors publish, or one with a folder for each benchmark. None: for ``scenes``, which
            is drawn.
        out: gets a folder for each benchmark with ``answers.jsonl`` and ``results.json``, and ``report.html`` of all.
            None: ``eval/NAME``, after the model.
        answers: how it is answered; None: greedy, with the benchmark's own limit of tokens.
        grading: protocol, wording, judge; None: the benchmark's first protocol.
        overwrite: start anew where there are answers.

    Returns:
        The figures with 95 % intervals, and every graded answer.

    Raises:
        DataError: data, a picture, a judge or an option is missing or wrong: said before the model is loaded where it
            is not loaded yet.
        CheckpointError: ``out`` holds answers of another model or of other settings.
    """
    evaluation, done = _answered(model, bench, data, _How(out, answers, grading, overwrite))
    measured = grade_task(evaluation, done, tell=_tell)
    write_summary(evaluation, [measured], None, tell=_tell)
    return measured


def first_answers(
    model: Model | Run | str | Path,
    bench: str,
    data: str | Path | None = None,
    *,
    limit: int = 5,
    out: str | Path | None = None,
    answers: AnswerSpec | None = None,
    grading: Grading | None = None,
) -> Groups:
    """Answers the first questions of a benchmark, to look at, as ``eval run --limit`` does. Nothing is graded:
    figures of a part are no figures of the benchmark. :func:`evaluate` does not ask these again.

    Args:
        model: as of :func:`evaluate`.
        bench: as of :func:`evaluate`.
        data: as of :func:`evaluate`.
        limit: how many.
        out: as of :func:`evaluate`.
        answers: as of :func:`evaluate`.
        grading: as of :func:`evaluate`.

    Returns:
        Questions with their pictures and the answer of each.

    Raises:
        DataError, CheckpointError: as of :func:`evaluate`.
    """
    if limit < 1:
        raise DataError(f"limit is {limit}", source="first_answers", remedy="Give 1 or more")
    _, done = _answered(model, bench, data, _How(out, answers, grading, overwrite=False), limit=limit)
    said = {stored.answer.id: stored for stored in done.answers}
    return Groups(_shown(question, said[question.id]) for question in done.asked)


def _shown(question: Question, stored: StoredAnswer) -> Group:
    ended: FinishReason = "error" if stored.error else "length" if stored.cut else "stop"
    response = Response(text=stored.answer.text, finish_reason=ended)
    return Group(prompts=(question.prompt,), responses=(response,), source=question.id)


class _How(NamedTuple):
    out: str | Path | None
    answers: AnswerSpec | None
    grading: Grading | None
    overwrite: bool


def _answered(
    model: Model | Run | str | Path, bench: str, data: str | Path | None, asked: _How, *, limit: int | None = None
) -> tuple[Evaluation, Task]:
    """A benchmark, answered; all that can be wrong is said before the model is loaded."""
    check_kind(asked.answers, "answers", AnswerSpec)
    check_kind(asked.grading, "grading", Grading)
    chosen, how = load_bench(bench), asked.grading or Grading()
    check_judge(how)
    named = model.named if isinstance(model, Model) else name_model(model)
    spec = named.spec
    folder = default_out(spec.path, spec.adapter) if asked.out is None else path_of(asked.out, "out")
    evaluation = Evaluation(out=folder, model=spec, spec=asked.answers or AnswerSpec())
    place = _data(chosen, data, folder / chosen.name / "data")
    task = prepare(chosen, place, how, limit=limit, tell=_tell)
    engine = (model if isinstance(model, Model) else opened(named)).engine
    task = replace(task, unread=unread_settings(engine.policy), pictures=picture_facts(spec))
    return evaluation, answer(evaluation, task, engine, evaluation.settings(), overwrite=asked.overwrite, tell=_tell)


def questions(bench: str, data: str | Path | None = None, *, drawn: str | Path = "eval/scenes/data") -> list[Question]:
    """What a benchmark asks: each question with its ``id`` and its ``prompt`` (``question``, ``images``).

    Args:
        bench: its name.
        data: as of :func:`evaluate`.
        drawn: where ``scenes`` without data is drawn.

    Raises:
        DataError: data are missing or wrong.
    """
    chosen = load_bench(bench)
    return chosen.questions(_data(chosen, data, path_of(drawn, "drawn")))


def grade(
    bench: str,
    answers: Mapping[str, str] | str | Path,
    data: str | Path | None = None,
    *,
    grading: Grading | None = None,
    folder: str | Path | None = None,
) -> Measured:
    """Grades answers to a benchmark: needs no model.

    Args:
        bench: its name.
        answers: id of each question to its answer; or ``answers.jsonl``, or the official submission file.
        data: as of :func:`evaluate`; None: for ``scenes``, ``data`` beside the file of the answers.
        grading: protocol and judge; None: the benchmark's first protocol.
        folder: gets what a judge says; None: that of the file of the answers, or the working directory.

    Raises:
        DataError: an answer is missing or to no question, or data or judge are missing or wrong.
    """
    check_kind(grading, "grading", Grading)
    chosen = load_bench(bench)
    if isinstance(answers, Mapping):
        check_answers(answers)
        stored = [StoredAnswer(answer=Answer(id=id, text=text)) for id, text in answers.items()]
        source, beside = "answers", Path() if folder is None else path_of(folder, "folder")
    else:
        answers = path_of(answers, "answers")
        stored, source = stored_answers(chosen, answers), str(answers)
        beside = answers.parent if folder is None else path_of(folder, "folder")
    place = _data(chosen, data, (beside if isinstance(answers, Mapping) else Path(answers).parent) / "data")
    return grade_stored(chosen, stored, place, grading or Grading(), source=source, folder=beside, tell=_tell)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Whether B is better than A, figure by figure, on the same questions."""

    before: tuple[Measured, ...]
    """A: a result, or one for each seed."""
    after: tuple[Measured, ...]
    """B."""
    rows: tuple[Row, ...]
    """Each figure of A and B with their paired difference and its interval; ``verdict`` says what it means."""
    notes: tuple[str, ...]
    """What a reader must know: wording or pictures that differ, length of the answers."""

    def named(self, verdict: Verdict) -> list[str]:
        """The figures with a verdict: ``better``, ``worse``, ``no clear change``, ``changed``."""
        check_word(verdict, "verdict", get_args(Verdict))
        return [row.name for row in self.rows if row.verdict == verdict]

    def write_page(self, path: str | Path) -> Path:
        """Writes A and B side by side, with the answers that differ most, to one HTML file.

        Raises:
            RecipeError: ``path`` is no path, or a folder.
        """
        return write_results_page(path_to_write(path, "path"), list(zip(self.before, self.after, strict=True)))

    @property
    def title(self) -> str:
        """What is compared."""
        result = self.before[0].result
        return f"{result.bench} ({result.protocol}): A against B, on the same questions"

    def __repr__(self) -> str:
        return "\n".join([self.title, plain_text(changes_table(self.rows)), "", *self.notes])

    def _repr_html_(self) -> str:
        cells = [
            (
                row.name,
                number(row.before.value, row.unit),
                number(row.after.value, row.unit),
                number(row.difference.value, row.unit, signed=True),
                bounds(row.difference, row.unit, signed=True),
                f"{SIGNS[row.verdict]} {row.verdict}",
            )
            for row in self.rows
            if row.after is not None and row.difference is not None
        ]
        return table(("metric", "A", "B", "B - A", "95 % interval", ""), cells, title=self.title, notes=self.notes)


def compare(before: Side | Sequence[Side], after: Side | Sequence[Side], *, resamples: int = 2000) -> Comparison:
    """Is ``after`` better than ``before``, and by how much: paired differences on the same questions.

    Args:
        before: a result, its file or its folder; or several, one for each seed.
        after: as many, in the same order.
        resamples: of the bootstrap.

    Raises:
        DataError: no result there, or benchmark, protocol, judge, questions or number of seeds differ.
    """
    check_least(resamples, "resamples", 1)
    a, b = _results(before), _results(after)
    found = changes(a, b, resamples=resamples)
    lengths = [
        f"Length of answers of {side}: {'; '.join(filter(None, map(length_words, some))) or 'not known'}."
        for side, some in (("A", a), ("B", b))
    ]
    notes = [*lengths, *filter(None, (other_wording((a, b)), other_pictures((a, b))))]
    return Comparison(before=tuple(a), after=tuple(b), rows=tuple(change_rows(found, a[0].result)), notes=tuple(notes))


def _results(side: Side | Sequence[Side]) -> list[Measured]:
    given: Any = side
    single = isinstance(given, Measured | str | Path) or not isinstance(given, Iterable)
    sides = [given] if single else list(given)
    if not sides:
        raise DataError("found no result", source="compare", remedy="Give one on each side, or one for each seed")
    return [one if isinstance(one, Measured) else read_measured(path_of(one, "a result")) for one in sides]


def _data(bench: Benchmark, data: str | Path | None, default: Path) -> Path:
    given = [] if data is None else [str(data) if "=" not in str(data) else f"{bench.name}={data}"]
    return data_folder(bench, given, default)


def _tell(text: str) -> None:
    _log.warning("%s", text)
