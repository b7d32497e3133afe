"""Reefknot (Zheng et al. 2024, arXiv:2408.09429): relations between objects, asked in three ways.

Yes/no 9,740, multiple choice 6,950 and open 4,870 questions on Visual Genome pictures. The authors published no
scorer; ``ovip`` follows OViP's. Figures are fractions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from sightline.errors import DataError
from sightline.evaluation.accuracy import Row, grade_row, mean, mean_of_ratios
from sightline.evaluation.bench import (
    ANSWERS,
    Answer,
    Graded,
    Judge,
    JudgeRequest,
    Question,
    Result,
    check_options,
    check_protocol,
    match_ids,
)
from sightline.evaluation.choices import ANSWER_WITH_LETTER, ovip_hit
from sightline.evaluation.rubric import load_rubric
from sightline.evaluation.submissions import answer_id, read_answers
from sightline.evaluation.tables import (
    PictureFiles,
    find_file,
    optional_text,
    picture_prompt,
    read_table,
    text_field,
    write_lines,
)
from sightline.evaluation.verdicts import ask, need_verdicts, verdict_notes

Open = Literal["nli", "relation", "skip"]
TASKS: Final = {"Yes/No": "yn", "Multichoice": "mcq", "VQA": "vqa"}
RELATIONS: Final = ("cognitive", "perception")
_FILES: Final = {"Yes/No": "YESNO", "Multichoice": "Multichoice", "VQA": "VQA"}
_OPTIONS: Final = ("open", "template")
_EMPTY: Final = 0.0001
"""OViP's scorer adds this to every number of questions."""
_NOISE: Final = re.compile(r"[()\s.]")
_FORMAT: Final = re.compile(r"following format:\s*(.*?) is <relation> (.*?)\.?\s*$", re.DOTALL)
_FILLER: Final = frozenset({"a", "an", "the", "is", "are", "was", "were", "be", "being"})
_ENDINGS: Final = ("ing", "ed", "es", "s")


@dataclass(frozen=True, kw_only=True)
class Reefknot:
    """Reefknot, by OViP's rules."""

    name: str = "reefknot"
    protocols: tuple[str, ...] = ("ovip",)
    needs: str = (
        "the folder Dataset of JackChen-seu/Reefknot (YESNO.jsonl, Multichoice.jsonl, VQA.jsonl) and the Visual Genome "
        "pictures (VG_100K, VG_100K_2); for the open questions a judge of entailment, or the option open=relation "
        "(approximate) or open=skip"
    )

    def questions(self, data: Path) -> list[Question]:
        """All rows, asked as OViP does: multiple choice with the sentence on the letter."""
        return [
            Question(
                id=row.id,
                prompt=picture_prompt(row.id, row.text, [row.image], {"answer": row.truth}),
                meta={"category": row.category, "max_new_tokens": 10},
            )
            for row in self._rows(data)
        ]

    def grade(
        self, data: Path, answers: Sequence[Answer], protocol: str, options: Mapping[str, Any], judge: Judge | None
    ) -> Result:
        """Six accuracies (relation and task), and their plain mean, a figure of our own.

        Options: ``open``, how open questions are graded: ``nli`` (default) asks the judge whether label and answer
        entail each other, ``relation`` compares the relation phrase without a judge, ``skip`` leaves them out;
        ``template``, a rubric of one's own for ``nli``. OViP's scorer uses a DeBERTa NLI model.
        """
        check_protocol(self, protocol)
        check_options(self.name, options, _OPTIONS)
        how = str(options.get("open", "nli"))
        if how not in ("nli", "relation", "skip"):
            raise DataError(f"option open is {how!r}", source=self.name, remedy="Choose nli, relation or skip")
        check_options(self.name, options, _OPTIONS if how == "nli" else _OPTIONS[:1])
        rows = self._rows(data)
        matched = match_ids([row.id for row in rows], _placed(rows, answers))
        pairs = [
            (row, answer)
            for row, answer in zip(rows, matched, strict=True)
            if not (how == "skip" and _task(row) == "vqa")
        ]
        told, notes = self._entailed(pairs, options, judge) if how == "nli" else ({}, [])
        graded = [_graded(row, answer.text, told) for row, answer in pairs]
        return self._result(graded, how, judge, notes)

    def export(self, data: Path, answers: Sequence[Answer], path: Path) -> None:
        """The answer file that OViP's scorer reads, JSON lines.

        Its inference writes ``task_type`` and its scorer reads ``type``: both are written. ``question_id`` is ours.
        """
        rows = self._rows(data)
        write_lines(
            path,
            (
                {
                    "question_id": row.id,
                    "prompt": f"<image>\n{row.text}",
                    "text": answer.text,
                    "answer": row.truth,
                    "type": (row.extra or {})["type"],
                    "task_type": (row.extra or {})["type"],
                    "relation_type": (row.extra or {})["relation"],
                }
                for row, answer in zip(rows, match_ids([row.id for row in rows], _placed(rows, answers)), strict=True)
            ),
        )

    def read_export(self, path: Path) -> list[Answer]:
        """Reads that file; rows without ``question_id`` are counted by task, in the order of the question files.

        Their ids hold the prompt as well, and :meth:`grade` looks whether it is that of the question.
        """
        seen: dict[str, int] = {}

        def id(row: Mapping[str, Any], source: str) -> str:
            if row.get("question_id") is not None:
                return answer_id(row, "question_id", source)
            task = TASKS.get(str(row.get("type", row.get("task_type"))), "")
            seen[task] = seen.get(task, 0) + 1
            asked = optional_text(row, "prompt", source)
            return f"{task}-{seen[task]}" + (f"#{asked}" if asked else "")

        return read_answers(path, id, ("text",))

    def _rows(self, data: Path) -> list[Row]:
        images = PictureFiles(data, ("VG_100K", "VG_100K_2", "images", "."))
        rows = []
        for kind, stem in _FILES.items():
            file = find_file(data, (f"{stem}.jsonl", f"Dataset/{stem}.jsonl", f"{stem}*.jsonl"), self)
            for number, row in enumerate(read_table(file), start=1):
                source = f"{file}:{number}"
                image = text_field(row, "image_id", source)
                relation = text_field(row, "relation_type", source)
                if relation not in RELATIONS or row.get("type") != kind:
                    found = f"type {row.get('type')!r:.100}, relation_type {relation!r:.100}"
                    raise DataError(found, source=source, remedy=f"Expected {kind!r} and one of {RELATIONS}")
                text = text_field(row, "query_prompt", source).strip()
                rows.append(
                    Row(
                        id=f"{TASKS[kind]}-{number}",
                        text=f"{text}\n{ANSWER_WITH_LETTER}" if kind == "Multichoice" else text,
                        truth=text_field(row, "label", source),
                        category=f"{relation}_{TASKS[kind]}",
                        cluster=image,
                        image=images.named(f"{image}.jpg"),
                        extra={"type": kind, "relation": relation},
                    )
                )
        return rows

    def _entailed(
        self, pairs: Sequence[tuple[Row, Answer]], options: Mapping[str, Any], judge: Judge | None
    ) -> tuple[dict[str, bool | None], list[str]]:
        """By id, whether label and answer entail each other, None where the judge did not say; and notes."""
        asked = [(row, answer) for row, answer in pairs if _task(row) == "vqa"]
        if not asked:
            return {}, []
        if judge is None:
            raise DataError(
                "its open questions need a judge of entailment, and none was given",
                source=self.name,
                remedy="Pass a judge, or the option open=relation (approximate) or open=skip",
            )
        rubric = load_rubric("reefknot", options.get("template"))
        requests = [
            JudgeRequest(
                id=f"{row.id}/{way}", messages=rubric.messages({"premise": left, "hypothesis": right}), max_tokens=None
            )
            for row, answer in asked
            for way, left, right in (("forward", row.truth, answer.text), ("back", answer.text, row.truth))
        ]
        told = ask(judge, requests, _label, wanted="label")
        need_verdicts(self.name, told, each=2)
        found: dict[str, bool | None] = {}
        for (row, _), forward, back in zip(asked, told[0::2], told[1::2], strict=True):
            unknown = forward.verdict is None or back.verdict is None
            found[row.id] = None if unknown else forward.verdict == back.verdict == "entailment"
        return found, verdict_notes(told, wanted="label", unread="their questions are left out")

    def _result(self, graded: Sequence[Graded], how: str, judge: Judge | None, notes: Sequence[str]) -> Result:
        names = [f"{relation}_{task}" for relation in RELATIONS for task in TASKS.values()]
        sums = {
            name: [sum(row.counts.get(f"{name}_{what}", 0) for row in graded) for what in ("correct", "asked")]
            for name in names
        }
        metrics = {name: right / (_EMPTY + asked) for name, (right, asked) in sums.items() if asked}
        printed = {name: str(value) for name, value in metrics.items()}
        plain = {name: sums[name][0] / sums[name][1] for name in metrics}
        metrics["mean_accuracy"] = mean(plain.values())
        failures = sum("problem" in row.details for row in graded)
        open_note = {
            "nli": f"open questions: entailment both ways by {judge.name if judge else 'no judge'}",
            "relation": "open questions: relation phrases compared, an approximation without entailment",
            "skip": "open questions are left out",
        }[how]
        return Result(
            bench=self.name,
            protocol="ovip",
            metrics=metrics,
            metrics_printed=printed | {"mean_accuracy": f"{metrics['mean_accuracy']:.4f}"},
            by_category={
                name: {"accuracy": value, "hallucination_rate": 1 - value, "answers": float(sums[name][1])}
                for name, value in plain.items()
            },
            graded=graded,
            notes=[
                open_note,
                *notes,
                *([f"{failures} open questions without a verdict are left out"] if failures else []),
            ],
            failures=failures,
            formulas={name: f"{name}_correct / ({_EMPTY} + {name}_asked)" for name in plain}
            | {"mean_accuracy": mean_of_ratios(plain)},
        )


def _placed(rows: Sequence[Row], answers: Sequence[Answer]) -> list[Answer]:
    """The answers under the ids of their questions, those that only their place tells checked by their prompt.

    Raises:
        DataError: A prompt is not that of the question in its place.
    """
    asked = {row.id: row.text.removesuffix(ANSWER_WITH_LETTER).strip() for row in rows}
    found = []
    for answer in answers:
        id, hash_, prompt = answer.id.partition("#")
        if hash_ and id in asked and asked[id] not in prompt:
            told = f"row {id.replace('-', ' ')} asks {prompt!r:.100}, and the question file {asked[id]!r:.100}"
            raise DataError(told, source=ANSWERS, remedy="Keep the order of the question files, or add question_id")
        found.append(Answer(id=id, text=answer.text))
    return found


def relation_phrase(question: str, answer: str) -> tuple[str, ...]:
    """The words between subject and object of an answer, without articles and endings.

    >>> question = "... in the following format:cat is <relation> table."
    >>> relation_phrase(question, "The cat is sitting on the table.")
    ('sitt', 'on')
    """
    text = answer.lower().strip().rstrip(".")
    match = _FORMAT.search(question)
    if match:
        subject, thing = match[1].strip().lower(), match[2].strip().lower()
        begin = text.find(subject)
        text = text[begin + len(subject) :] if begin >= 0 else text
        end = text.rfind(thing)
        text = text[:end] if end >= 0 else text
    words = re.findall(r"[a-z'-]+", text)
    return tuple(_stem(word) for word in words if word not in _FILLER)


def _stem(word: str) -> str:
    ending = next((end for end in _ENDINGS if word.endswith(end) and len(word) > len(end) + 2), "")
    return word.removesuffix(ending)


def _label(reply: str) -> str | None:
    """The NLI label that a reply names; None where it names none or several."""
    named = [label for label in ("entailment", "neutral", "contradiction") if label in reply.lower()]
    return named[0] if len(named) == 1 else None


def _task(row: Row) -> str:
    return TASKS[(row.extra or {})["type"]]


def _graded(row: Row, answer: str, told: Mapping[str, bool | None]) -> Graded:
    task = _task(row)
    if task == "yn":
        hit: bool | None = _NOISE.sub("", answer.strip().lower()).startswith(row.truth.strip().lower())
    elif task == "mcq":
        hit = ovip_hit(answer, row.truth)
    elif row.id in told:
        hit = told[row.id]
    else:
        hit = relation_phrase(row.text, answer) == relation_phrase(row.text, row.truth)
    if hit is None:
        details = {"answer": answer, "question": row.text, "truth": row.truth, "problem": "the judge gave no label"}
        return Graded(id=row.id, cluster=row.cluster, details=details)
    name = row.category
    return grade_row(row, answer, float(hit), None, **{f"{name}_correct": float(hit), f"{name}_asked": 1.0})


BENCH: Final = Reefknot()
