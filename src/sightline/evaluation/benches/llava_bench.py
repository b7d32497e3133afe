"""LLaVA-Bench (Liu et al. 2023, arXiv:2304.08485): a judge scores an answer beside a reference answer.

In the wild: 60 questions on 24 pictures. COCO: 90 questions on 30 pictures. The figure is relative: 100 * mean score
of the model / mean score of the reference. Figures compare only under one judge and one wording.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sightline.errors import DataError
from sightline.evaluation.accuracy import Row, column, mean
from sightline.evaluation.bench import (
    Answer,
    Graded,
    Judge,
    JudgeRequest,
    Question,
    Result,
    check_options,
    check_protocol,
    match_ids,
    need_judge,
)
from sightline.evaluation.json_files import read_json
from sightline.evaluation.rubric import load_rubric
from sightline.evaluation.submissions import answer_id, read_answers
from sightline.evaluation.tables import (
    PictureFiles,
    check_ids,
    field,
    find_file,
    number_of,
    object_of,
    picture_prompt,
    read_table,
    text_field,
    texts_field,
    write_lines,
)
from sightline.evaluation.verdicts import Said, ask, need_verdicts, verdict_notes

_OPTIONS: Final = ("template", "rule", "context")
_SYSTEM: Final = "You are a helpful and precise assistant for checking the quality of the answer."
_JUDGE_TOKENS: Final = 1024
"""The script's limit."""
_WANTED: Final = "two scores on the first line"
_NUMBER: Final = re.compile(r"-?\d+(?:\.\d+)?")
UNREAD: Final = (-1.0, -1.0)
"""What the official scripts put in place of scores that they cannot read."""


def parse_official(review: str) -> tuple[float, float]:
    """The two scores of the first line: exactly two parts between single blanks, a comma counting as a blank.

    >>> parse_official("8 7.5\\nBoth ..."), parse_official("8, 7")
    ((8.0, 7.5), (-1.0, -1.0))
    """
    parts = review.split("\n")[0].replace(",", " ").split(" ")
    if len(parts) != 2:
        return UNREAD
    try:
        return float(parts[0]), float(parts[1])
    except ValueError:
        return UNREAD


def parse_lmms(review: str) -> tuple[float, float]:
    """The first two numbers of the first line of text: reads "8, 7", and misreads "8/10 7/10" as 8 and 10."""
    numbers = _NUMBER.findall(review.strip().split("\n")[0])
    return (float(numbers[0]), float(numbers[1])) if len(numbers) >= 2 else UNREAD


def parse_lmms_coco(review: str) -> tuple[float, float]:
    """lmms-eval on the COCO set: as official, where the review begins in text."""
    return parse_official(review.strip())


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The files of one of the two sets."""

    title: str
    questions: str
    references: str
    context: str
    rule: str
    """Prefix of its categories in rule.json."""
    parse_lmms: Callable[[str], tuple[float, float]]
    """How lmms-eval reads a review of this set."""
    pictures: str = ""
    """What the names of the pictures begin with in their own release, where the questions leave it out."""


WILD: Final = Layout(
    title="in the wild",
    questions="questions.jsonl",
    references="answers_gpt4.jsonl",
    context="context.jsonl",
    rule="llava_bench_",
    parse_lmms=parse_lmms,
)
COCO: Final = Layout(
    title="COCO",
    questions="qa90_questions.jsonl",
    references="qa90_gpt4_answer.jsonl",
    context="caps_boxes_coco2014_val_80.jsonl",
    rule="",
    parse_lmms=parse_lmms_coco,
    pictures="COCO_val2014_",
)


@dataclass(frozen=True, kw_only=True)
class LLaVABench:
    """LLaVA-Bench: in the wild unless the layout is another."""

    name: str = "llava_bench"
    protocols: tuple[str, ...] = ("official", "lmms-eval", "vlmevalkit")
    needs: str = (
        "the hub dataset liuhaotian/llava-bench-in-the-wild as downloaded (questions.jsonl, context.jsonl, "
        "answers_gpt4.jsonl, images); a text judge; rule.json of the LLaVA repository in the folder for its wording"
    )
    layout: Layout = WILD

    def questions(self, data: Path) -> list[Question]:
        """All rows, the question alone."""
        return [
            Question(
                id=row.id,
                prompt=picture_prompt(row.id, row.text, [row.image]),
                meta={"category": row.category, "max_new_tokens": 1024},
            )
            for row in self._rows(data)
        ]

    def grade(
        self, data: Path, answers: Sequence[Answer], protocol: str, options: Mapping[str, Any], judge: Judge | None
    ) -> Result:
        """The relative score, over all and by category, and both mean scores times 10.

        Options: ``rule``, a file with the original wording (``rule.json``, taken from the folder where it lies
        there); ``template``, a rubric of one's own; ``context``, the file of captions where it lies elsewhere.

        A review that cannot be read counts as -1 for both under ``official`` and ``vlmevalkit``, as in their
        scripts, and is left out under ``lmms-eval``; ``failures`` counts it in all.
        """
        check_protocol(self, protocol)
        check_options(self.name, options, _OPTIONS)
        if {"rule", "template"} <= set(options):
            raise DataError("rule and template are both given", source=self.name, remedy="Give one wording")
        judge = need_judge(self.name, judge)
        rows = self._rows(data)
        matched = match_ids([row.id for row in rows], answers)
        messages, wording = self._wording(data, rows, matched, options)
        requests = [
            JudgeRequest(id=row.id, messages=message, temperature=0.2, max_tokens=_JUDGE_TOKENS)
            for row, message in zip(rows, messages, strict=True)
        ]
        told = ask(judge, requests, self._read(protocol), wanted=_WANTED)
        need_verdicts(self.name, told)
        kept = protocol != "lmms-eval"
        graded = [
            _graded(row, answer.text, one, kept=kept) for row, answer, one in zip(rows, matched, told, strict=True)
        ]
        unread = "they stay in the means as -1, as in the script" if kept else "left out"
        notes = [
            f"{self.layout.title}, {len(rows)} questions; judge {judge.name}, wording {wording}",
            *verdict_notes(told, wanted=_WANTED, unread=unread),
        ]
        metrics, by_category = _figures(graded, rounded=protocol != "vlmevalkit")
        return Result(
            bench=self.name,
            protocol=protocol,
            metrics=metrics,
            metrics_printed={
                name: str(value) if protocol == "vlmevalkit" else str(round(value, 1))
                for name, value in metrics.items()
            },
            by_category=by_category,
            graded=graded,
            notes=notes,
            failures=sum(one.verdict is None for one in told),
            formulas=_formulas(list(by_category)),
            better={"reference_score": "neither"},
        )

    def export(self, data: Path, answers: Sequence[Answer], path: Path) -> None:
        """LLaVA's answer file, in the order of the questions: its script pairs lines."""
        rows = self._rows(data)
        write_lines(
            path,
            (
                # the script stops where answer_id is missing
                {
                    "question_id": number_of(row.id),
                    "prompt": row.text,
                    "text": answer.text,
                    "answer_id": f"answer-{row.id}",
                }
                for row, answer in zip(rows, match_ids([row.id for row in rows], answers), strict=True)
            ),
        )

    def read_export(self, path: Path) -> list[Answer]:
        """Reads that file."""
        return read_answers(path, "question_id", ("text",))

    def _read(self, protocol: str) -> Callable[[str], tuple[float, float] | None]:
        parse = self.layout.parse_lmms if protocol == "lmms-eval" else parse_official

        def read(review: str) -> tuple[float, float] | None:
            scores = parse(review)
            return None if scores == UNREAD or not all(map(math.isfinite, scores)) else scores

        return read

    def _rows(self, data: Path) -> list[Row]:
        layout = self.layout
        questions = find_file(data, (layout.questions,), self)
        references = find_file(data, (layout.references,), self)
        by_id = {
            answer_id(row, "question_id", f"{references}:{number}"): text_field(row, "text", f"{references}:{number}")
            for number, row in enumerate(read_table(references), start=1)
        }
        images = PictureFiles(data, ("images", "val2014", "."))
        rows = []
        for number, row in enumerate(read_table(questions), start=1):
            source = f"{questions}:{number}"
            id, image = text_field(row, "question_id", source), text_field(row, "image", source)
            if id not in by_id:
                raise DataError(f"question {id:.100} has no reference answer in {references.name}", source=source)
            rows.append(
                Row(
                    id=id,
                    text=text_field(row, "text", source),
                    truth=by_id[id],
                    category=text_field(row, "category", source),
                    cluster=image,
                    image=_picture(images, image, layout.pictures),
                )
            )
        check_ids([row.id for row in rows], str(questions))
        return rows

    def _wording(
        self, data: Path, rows: Sequence[Row], answers: Sequence[Answer], options: Mapping[str, Any]
    ) -> tuple[list[list[dict[str, str]]], str]:
        """The messages to the judge, and where their wording comes from."""
        layout = self.layout
        file = Path(options["context"]) if "context" in options else find_file(data, (layout.context,), self)
        contexts = {
            text_field(row, "image", f"{file}:{number}"): _context(row, f"{file}:{number}")
            for number, row in enumerate(read_table(file), start=1)
        }
        missing = [row.image for row in rows if row.cluster not in contexts]
        if missing:
            raise DataError(f"has no context for {len(missing)} pictures", source=str(file))
        rule = Path(options["rule"]) if "rule" in options else data / "rule.json"
        if "template" not in options and rule.is_file():
            rules = read_json(rule)
            messages = []
            for row, answer in zip(rows, answers, strict=True):
                name = f"{layout.rule}{row.category}"
                entry = object_of(field(object_of(rules, str(rule)), name, str(rule)), f"{rule}: {name}")
                entry = {part: text_field(entry, part, f"{rule}: {name}") for part in ("role", "prompt")}
                messages.append(_official_messages(entry, contexts[row.cluster], row, answer.text))
            return messages, str(rule)
        if "rule" in options:
            raise DataError("no such file", source=str(rule), remedy="Correct the option rule")
        rubric = load_rubric("llava_bench", options.get("template"))
        values = (
            {"context": contexts[row.cluster], "question": row.text, "reference": row.truth, "answer": answer.text}
            for row, answer in zip(rows, answers, strict=True)
        )
        return [rubric.messages(value) for value in values], rubric.source


def _picture(images: PictureFiles, name: str, prefix: str) -> str:
    """The picture of that name, or of its name in its own release."""
    path, released = images.named(name), images.named(f"{prefix}{name}")
    return path if Path(path).is_file() or not Path(released).is_file() else released


def _context(row: Mapping[str, Any], source: str) -> str:
    """What the judge is told of a picture: captions, and for COCO the boxes."""
    if "captions" in row:
        captions, instances = texts_field(row, "captions", source), field(row, "instances", source)
        if not isinstance(instances, list):
            raise DataError(f"'instances' is {instances!r:.100}", source=source, remedy="Expected a list of boxes")
        found = [object_of(one, source) for one in instances]
        boxes = "\n".join(f"{text_field(one, 'category', source)}: {field(one, 'bbox', source)}" for one in found)
        return "\n".join(captions) + "\n\n" + boxes
    several = isinstance(row.get("caption"), list)
    return "\n".join(texts_field(row, "caption", source)) if several else text_field(row, "caption", source)


def _official_messages(rule: Mapping[str, Any], context: str, row: Row, answer: str) -> list[dict[str, str]]:
    """The message of LLaVA's script, with the role and the request of ``rule.json``."""
    role = rule["role"]
    blocks = [f"[Context]\n{context}", f"[Question]\n{row.text}"]
    for number, text in enumerate((row.truth, answer), start=1):
        blocks += [f"[{role} {number}]\n{text}", f"[End of {role} {number}]"]
    blocks.append(f"[System]\n{rule['prompt']}")
    content = "".join(f"{block}\n\n" for block in blocks)
    return [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": content}]


def _graded(row: Row, answer: str, told: Said[tuple[float, float]], *, kept: bool) -> Graded:
    """``kept``: an unread review has the scores that the script puts in their place."""
    details: dict[str, Any] = {
        "answer": answer,
        "question": row.text,
        "truth": row.truth,
        "category": row.category,
        "review": told.reply.text,
        **({"problem": told.problem} if told.problem else {}),
    }
    scores = told.verdict or UNREAD
    counts: dict[str, float] = {}
    if told.verdict is not None or (told.unread and kept):
        names = ("all", column(row.category))
        counts = {f"{name}_reference": scores[0] for name in names} | {f"{name}_model": scores[1] for name in names}
        counts |= {f"{name}_reviews": 1.0 for name in names}
    return Graded(
        id=row.id, cluster=row.cluster, counts=counts, details={**details, "error": max(0.0, scores[0] - scores[1])}
    )


def _figures(graded: Sequence[Graded], *, rounded: bool) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Score and mean scores times 10, over all and by category."""

    def figures(name: str) -> dict[str, float]:
        scored = [row for row in graded if f"{name}_reviews" in row.counts]
        found = [mean(row.counts[f"{name}_{side}"] for row in scored) for side in ("reference", "model")]
        # the official summary rounds the means before it divides
        reference, model = (round(value, 3) for value in found) if rounded else found
        relative = model / reference * 100 if reference else math.nan
        return {"score": relative, "model_score": 10 * model, "reference_score": 10 * reference}

    names = dict.fromkeys(str(row.details["category"]) for row in graded)
    scored = [name for name in sorted(names) if any(f"{column(name)}_reviews" in row.counts for row in graded)]
    return figures("all"), {name: figures(column(name)) for name in scored}


def _formulas(categories: Sequence[str]) -> dict[str, str]:
    formulas = {
        "score": "100 * all_model / all_reference",
        "model_score": "10 * all_model / all_reviews",
        "reference_score": "10 * all_reference / all_reviews",
    }
    return formulas | {name: f"100 * {column(name)}_model / {column(name)}_reference" for name in categories}


BENCH: Final = LLaVABench()
