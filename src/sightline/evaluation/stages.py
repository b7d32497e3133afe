"""Answering a benchmark with a model, and grading stored answers: two steps that share nothing but a file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from sightline.errors import DataError
from sightline.evaluation.answers import AnswerFile, StoredAnswer
from sightline.evaluation.bench import (
    ANSWERS,
    Answer,
    Benchmark,
    Graded,
    Judge,
    JudgeReply,
    JudgeRequest,
    Question,
    Result,
    check_protocol,
)
from sightline.evaluation.formulas import evaluate
from sightline.recipes.schema import SamplingSpec
from sightline.rollouts.engine import Progress, RolloutEngine
from sightline.types import Group, Prompt

DEFAULT_PROMPTS: Final = "default"
"""Name of the wording that a benchmark's questions have unless another is asked for."""
DEFAULT_MAX_NEW_TOKENS: Final = 512
"""For a question whose benchmark states no limit."""


@dataclass(frozen=True, kw_only=True)
class AnswerSpec:
    """How a benchmark is answered."""

    max_new_tokens: int | None = None
    """Most tokens of an answer; None: as each question's benchmark says."""
    batch_size: int = 32
    """Questions generated together. Changes no answer."""
    temperature: float = 0.0
    """0: greedy, what the protocols use."""
    top_p: float = 1.0
    seed: int = 0

    def limit(self, question: Question) -> int:
        """Most new tokens of the answer to a question."""
        return self.max_new_tokens or int(question.meta.get("max_new_tokens", DEFAULT_MAX_NEW_TOKENS))

    def settings(self) -> dict[str, Any]:
        """What changes an answer, for the file of settings."""
        values = {name: value for name, value in vars(self).items() if name != "batch_size"}
        return values if self.temperature else {**values, "seed": None, "top_p": None}

    def limits(self, questions: Sequence[Question]) -> int | dict[str, int]:
        """Most new tokens of the answers: one number, or by category where they differ."""
        by_category = {str(one.meta.get("category", "")): self.limit(one) for one in questions}
        every = {self.limit(one) for one in questions}
        return every.pop() if len(every) == 1 else by_category


def answer_questions(
    engine: RolloutEngine,
    questions: Sequence[Question],
    file: AnswerFile,
    spec: AnswerSpec,
    *,
    overwrite: bool = False,
    every: Sequence[Question] = (),
    on_progress: Progress | None = None,
) -> list[StoredAnswer]:
    """Answers what the file does not hold yet, batch by batch, each batch on disk before the next.

    A question that the engine refuses fails alone: its answer is empty and says why, and it is asked again next time.

    Questions about one picture are generated together, so that the engine encodes it once. ``every``: all questions
    of the benchmark where ``questions`` are some of them; the file may hold answers to the others.

    Returns:
        The answers, in the order of the questions.

    Raises:
        CheckpointError: The file was made with other settings.
        DataError: Two questions share an id, or the file holds an answer to another benchmark.
    """
    ids = [question.id for question in questions]
    if len(set(ids)) < len(ids):
        twice = next(id for id in ids if ids.count(id) > 1)
        raise DataError(f"the id {twice!r} stands twice among the questions", remedy="Give each question its own")
    stored = {one.answer.id: one for one in file.start(overwrite=overwrite)}
    if strangers := set(stored) - set(ids) - {question.id for question in every}:
        raise DataError(
            f"{len(strangers)} answers are to no question of this benchmark ({min(strangers)})",
            source=str(file.path),
            remedy="Choose another --out, or pass --overwrite (in Python overwrite=True)",
        )
    there = sum(id in stored for id in ids)
    left = [question for question in questions if question.id not in stored]
    for batch in plan_batches(left, spec):
        answers = _answer(engine, batch, spec)
        file.append(answers)
        stored.update((one.answer.id, one) for one in answers)
        there += len(batch)
        if on_progress is not None:
            on_progress(there, len(ids))
    return [stored[id] for id in ids]


def plan_batches(questions: Sequence[Question], spec: AnswerSpec) -> Iterator[list[Question]]:
    """Batches of at most ``batch_size`` questions with one limit on new tokens.

    The questions about one picture stand in one batch, unless they are more than a batch holds.
    """
    sets: dict[tuple[int, tuple[str, ...], str], list[Question]] = {}
    for question in questions:
        images = question.prompt.images
        alone = "" if images else question.id
        sets.setdefault((spec.limit(question), images, alone), []).append(question)
    batch: list[Question] = []
    for (limit, _, _), members in sorted(sets.items(), key=lambda item: item[0][0]):
        full = len(batch) + len(members) > spec.batch_size
        if batch and (full or spec.limit(batch[0]) != limit):
            yield batch
            batch = []
        while len(members) > spec.batch_size:
            yield members[: spec.batch_size]
            members = members[spec.batch_size :]
        batch = batch + members
    if batch:
        yield batch


def _answer(engine: RolloutEngine, batch: Sequence[Question], spec: AnswerSpec) -> list[StoredAnswer]:
    sampling = SamplingSpec(
        n=1,
        temperature=spec.temperature,
        top_p=spec.top_p,
        max_new_tokens=spec.limit(batch[0]),
        batch_size=len(batch),
    )
    groups = [Group(prompts=(replace(question.prompt, id=question.id),)) for question in batch]
    try:
        answered = engine.generate(groups, sampling, seed=spec.seed)
    except DataError as error:  # a broken picture, a prompt that is too long: of which question, shows each by itself
        if len(batch) > 1:
            return [one for question in batch for one in _answer(engine, [question], spec)]
        return [StoredAnswer(answer=Answer(id=batch[0].id, text=""), error=str(error))]
    return [
        StoredAnswer(
            answer=Answer(id=question.id, text=group.responses[0].text),
            tokens=len(group.responses[0].tokens or ()),
            cut=group.responses[0].finish_reason == "length",
        )
        for question, group in zip(batch, answered, strict=True)
    ]


def choose_questions(
    questions: Sequence[Question], bench: str, protocol: str | None, only: Sequence[str] = ()
) -> list[Question]:
    """The questions that the protocol grades; of these the categories ``only``, unless it is empty.

    Raises:
        DataError: There is no such category.
    """
    graded = [one for one in questions if protocol is None or protocol in one.meta.get("protocols", [protocol])]
    wanted = {name.strip() for name in only}
    known = list(dict.fromkeys(str(one.meta["category"]) for one in graded if "category" in one.meta))
    if unknown := sorted(wanted - set(known)):
        remedy = f"It has {', '.join(known)}" if known else "It has none"
        raise DataError(f"there is no category {unknown[0]!r}", source=bench, remedy=remedy)
    return [one for one in graded if not wanted or str(one.meta.get("category")) in wanted]


def limited(questions: Sequence[Question], protocol: str | None) -> list[Question]:
    """The questions with the protocol's limits on new tokens (``meta["token_limits"]``) in place of the default's."""
    limits = [one.meta.get("token_limits", {}).get(protocol) for one in questions]
    return [
        one if limit is None else replace(one, meta={**one.meta, "max_new_tokens": limit})
        for one, limit in zip(questions, limits, strict=True)
    ]


def wordings(questions: Iterable[Question]) -> Counter[str]:
    """How many questions each protocol words otherwise than the default."""
    return Counter(
        name
        for question in questions
        for name, text in question.meta.get("prompts", {}).items()
        if text != question_text(question)
    )


def reword(questions: Sequence[Question], wording: str, bench: str = "") -> list[Question]:
    """The questions as another protocol words them (``meta["prompts"]``), those that it words alike as they are.

    Raises:
        DataError: No question has such a wording.
    """
    words = [question.meta.get("prompts", {}).get(wording) for question in questions]
    if not any(words):
        known = sorted({name for question in questions for name in question.meta.get("prompts", {})})
        remedy = f"Known are {', '.join(known)}" if known else "It has one; --prompts NAME=P words another benchmark"
        raise DataError(f"no question has the wording {wording!r}", source=bench, remedy=remedy)
    return [
        question if text is None else replace(question, prompt=_reworded(question.prompt, text))
        for question, text in zip(questions, words, strict=True)
    ]


def _reworded(prompt: Prompt, text: str) -> Prompt:
    last = prompt.messages[-1]
    parts = [part for part in last["content"] if part["type"] != "text"]
    return replace(
        prompt, messages=(*prompt.messages[:-1], {**last, "content": [*parts, {"type": "text", "text": text}]})
    )


@dataclass(frozen=True, kw_only=True)
class GradeSpec:
    """How stored answers are graded."""

    protocol: str | None = None
    """None: the benchmark's first, ``official`` where it has one."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The benchmark's own: extractor, similarity, template, ..."""
    judge: Judge | None = None
    source: str = ""
    """File of the answers, for errors."""
    unanswered: Mapping[str, str] = field(default_factory=dict)
    """Ids of questions that could not be answered, with why. They are in no figure."""


def grade_answers(bench: Benchmark, data: Path, answers: Sequence[Answer], spec: GradeSpec) -> Result:
    """Grades stored answers; needs no model.

    Raises:
        DataError: The protocol or an option is unknown, ids do not match, or a judge is needed and is missing or
            gave no verdict at all.
    """
    protocol = spec.protocol or bench.protocols[0]
    check_protocol(bench, protocol)
    if not answers:
        raise DataError("there are no answers", source=spec.source or bench.name, remedy="Answer the benchmark first")
    with answers_named(spec.source or bench.name):
        result = bench.grade(data, answers, protocol, spec.options, spec.judge)
    judged = result.failures < len(answers) and any(row.counts for row in result.graded)
    if result.failures and not judged:
        raise DataError(  # the figures of no verdict would be zeros, or -1 over -1, that look like scores
            f"none of {result.failures} answers could be graded ({result.notes[-1]})",
            source=bench.name,
            remedy="Check the judge, and grade again: replies that are there are not asked for twice",
        )
    return leave_out(result, spec.unanswered) if spec.unanswered else result


class _Asked(Exception):
    """A judge would be asked now."""


class _Listening:
    """Stands for a judge that is not to be paid yet."""

    name = "to be asked"

    def ask(self, requests: Sequence[JudgeRequest]) -> list[JudgeReply]:
        raise _Asked


def check_gradable(
    bench: Benchmark, data: Path, questions: Sequence[Question], spec: GradeSpec, *, judged: bool
) -> None:
    """Grades empty answers as far as that goes without a judge: what is missing is said before anything is answered.

    Args:
        bench: Which benchmark.
        data: Its data.
        questions: Those that will be answered.
        spec: How they will be graded; its judge is not asked.
        judged: Whether there will be a judge.

    Raises:
        DataError: An option is unknown or wrong, a file that grading reads is missing or broken, or a judge is needed.
    """
    empty = [Answer(id=question.id, text="") for question in questions]
    try:
        bench.grade(data, empty, spec.protocol or bench.protocols[0], spec.options, _Listening() if judged else None)
    except _Asked:
        return
    except DataError as error:
        if error.source != ANSWERS:  # which answers there will be is known when they are there
            raise


def leave_out(result: Result, failed: Mapping[str, str]) -> Result:
    """The result without the questions that could not be answered: its figures are the formulas of the others' counts.

    Raises:
        DataError: None could be answered.
    """
    kept = [row for row in result.graded if row.id not in failed]
    first, why = next(iter(failed.items()))
    told = f"{len(failed)} questions could not be answered (first: {first}: {why})"
    if not kept:
        raise DataError(f"all {told}", source=result.bench, remedy="Mend the pictures, or take a model that reads more")
    metrics = {name: evaluate(result.formulas[name], kept) for name in result.metrics if name in result.formulas}
    note = f"{told}: they are in no figure, and figures are those of the stored formulas, by category there are none"
    return replace(
        result,
        metrics=metrics,
        metrics_printed={name: _alike(value, result.metrics_printed.get(name, "")) for name, value in metrics.items()},
        by_category={},
        graded=kept,
        notes=[*result.notes, note],
        failures=result.failures + len(failed),
    )


def _alike(value: float, printed: str) -> str:
    """The value with as many decimals as the script prints."""
    decimals = re.fullmatch(r"-?\d+\.(\d{1,4})", printed)
    return f"{value:.{len(decimals[1])}f}" if decimals else f"{value:.4f}"


@contextmanager
def answers_named(source: str) -> Iterator[None]:
    """Errors about answers name their file."""
    try:
        yield
    except DataError as error:
        if error.source != ANSWERS:
            raise
        raise DataError(error.found, source=source, remedy=error.remedy) from error


def illustrate(result: Result, questions: Sequence[Question], answers: Sequence[Answer]) -> Result:
    """The result with question, pictures and answer in the details of every row that lacks them, for people."""
    asked = {question.id: question for question in questions}
    said = {answer.id: answer.text for answer in answers}
    return replace(result, graded=[_illustrated(row, asked.get(row.id), said.get(row.id)) for row in result.graded])


def _illustrated(row: Graded, question: Question | None, text: str | None) -> Graded:
    found: dict[str, Any] = {} if text is None else {"answer": text}
    if question is not None:
        found |= {"question": question_text(question), "images": list(question.prompt.images)}
    return replace(row, details={**found, **row.details})


def question_text(question: Question) -> str:
    """What is asked, without pictures."""
    parts = question.prompt.messages[-1]["content"]
    return parts if isinstance(parts, str) else " ".join(part["text"] for part in parts if part["type"] == "text")
