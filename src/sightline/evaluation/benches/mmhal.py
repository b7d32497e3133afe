"""MMHal-Bench (Sun et al., LLaVA-RLHF, arXiv 2309.14525): 96 questions of 8 types, rated 0 to 6 by a judge.

A rating below 3 says that the answer hallucinates. ``official`` follows ``eval_gpt_mmhal.py`` of LLaVA-RLHF.
``rlaif-v`` and ``ovip`` remove "Assistant:" from answers and add an informativeness, each its own; ``ovip`` shows the
judge the picture instead of its labels, reads ``**rating**: n`` as well, and has percentages. All three scripts give
a reply without exactly one rating the score 0: that is in the figures, and counted as a failure. A judge that did
not reply at all gives no score (:mod:`sightline.evaluation.verdicts`).

Option: ``template`` (a rubric file; it may name ``image_content``, ``question``, ``reference`` and ``answer``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from sightline.errors import DataError
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
from sightline.evaluation.json_files import write_json
from sightline.evaluation.rubric import Rubric, load_rubric
from sightline.evaluation.submissions import read_answers
from sightline.evaluation.tables import (
    DOWNLOAD_AGAIN,
    PictureFiles,
    find_file,
    picture_prompt,
    read_table,
    text_field,
    texts_field,
)
from sightline.evaluation.verdicts import Said, ask, need_verdicts, verdict_notes

TYPES: Final = (
    "attribute",
    "adversarial",
    "comparison",
    "counting",
    "relation",
    "environment",
    "holistic",
    "other",
)
"""Types of question, in the order in which they take turns."""
_FILES: Final = ("response_template.json", "mmhal-bench_answer_template.json", "*/response_template.json")
_TEXTS: Final = ("question", "gt_answer", "question_type", "image_src")
_HIGHEST: Final = 6
_CLEAN: Final = 3
"""Lowest rating without hallucination."""
_COLUMNS: Final = ("score", "hallucinated", "informative_thirds", "informative")
_MAX_NEW_TOKENS: Final = 1024
_WANTED: Final = "single rating"


class MMHal:
    """The benchmark. An id is the ``image_id`` of OpenImages."""

    name = "mmhal"
    protocols = ("official", "rlaif-v", "ovip")
    needs = (
        "response_template.json of huggingface.co/datasets/Shengcao1006/MMHal-Bench and its pictures in images "
        "(named as in image_src); a judge"
    )

    def questions(self, data: Path) -> list[Question]:
        pictures = PictureFiles(data, ("images", "image", "."))
        return [
            Question(
                id=id,
                prompt=picture_prompt(
                    f"mmhal-{id}", row["question"], [_picture(row, pictures)], {"answer": row["gt_answer"]}
                ),
                meta={
                    "category": row["question_type"],
                    "max_new_tokens": _MAX_NEW_TOKENS,
                    "token_limits": {"ovip": 384},
                },
            )
            for id, row in self._rows(data).items()
        ]

    def grade(
        self, data: Path, answers: Sequence[Answer], protocol: str, options: Mapping[str, Any], judge: Judge | None
    ) -> Result:
        check_protocol(self, protocol)
        check_options(self.name, options, ("template",))
        judge = need_judge(self.name, judge)
        rows = self._rows(data)
        matched = match_ids(list(rows), answers)
        if protocol != "official":
            matched = [Answer(id=one.id, text=one.text.replace("Assistant:", "").strip()) for one in matched]
        rubric = load_rubric("mmhal_picture" if protocol == "ovip" else "mmhal", options.get("template"))
        pictures = PictureFiles(data, ("images", "image", ".")) if protocol == "ovip" else None
        requests = [_request(answer, rows[answer.id], rubric, pictures) for answer in matched]
        told = ask(judge, requests, lambda text: read_rating(text, starred=protocol == "ovip"), wanted=_WANTED)
        need_verdicts(self.name, told)
        graded = [
            _grade(answer, rows[answer.id], one) for answer, one in zip(matched, told, strict=True) if not one.silent
        ]
        notes = [
            f"judge {judge.name}, rubric {rubric.source}",
            *verdict_notes(told, wanted=_WANTED, unread="scored 0, as the script does"),
        ]
        return _result(graded, protocol, notes, sum(one.verdict is None for one in told))

    def export(self, data: Path, answers: Sequence[Answer], path: Path) -> None:
        """The template with ``model_answer`` filled in, in the order of the questions."""
        rows = self._rows(data)
        matched = match_ids(list(rows), answers)
        write_json(path, [{**rows[answer.id], "model_answer": answer.text} for answer in matched])

    def read_export(self, path: Path) -> list[Answer]:
        return read_answers(path, "image_id", ("model_answer",))

    def _rows(self, data: Path) -> dict[str, dict[str, Any]]:
        path = find_file(data, _FILES, self)
        rows = {}
        for number, row in enumerate(read_table(path), start=1):
            source = f"{path}:{number}"
            texts = {name: text_field(row, name, source) for name in _TEXTS}
            id, labels = text_field(row, "image_id", source), texts_field(row, "image_content", source)
            if id in rows:
                raise DataError(f"the id {id:.100} stands twice", source=source, remedy=DOWNLOAD_AGAIN)
            rows[id] = {**row, **texts, "image_content": labels}
        return rows


BENCH: Final = MMHal()


def read_rating(reply: str, *, starred: bool = False) -> int | None:
    """The one rating that stands in a reply as ``rating: n``, n from 0 to 6; None if there is none or several.

    "Rating: 10" is read as 1, "Rating:5" (no blank) and "**Rating**: 4" as none, as the scripts read them.

    Args:
        reply: What the judge said.
        starred: OViP: ``**rating**: n`` counts as well.
    """
    text = reply.lower()
    forms = ("rating: {}", "**rating**: {}") if starred else ("rating: {}",)
    found = [score for score in range(_HIGHEST + 1) if any(form.format(score) in text for form in forms)]
    return found[0] if len(found) == 1 else None


def _picture(row: Mapping[str, Any], pictures: PictureFiles) -> str:
    return pictures.named(str(row["image_src"]).split("/")[-1])


def _request(answer: Answer, row: Mapping[str, Any], rubric: Rubric, pictures: PictureFiles | None) -> JudgeRequest:
    values = {
        "image_content": ", ".join(row["image_content"]),
        "question": row["question"],
        "reference": row["gt_answer"],
        "answer": answer.text,
    }
    images = [_picture(row, pictures)] if pictures else []
    return JudgeRequest(id=answer.id, messages=rubric.messages(values), images=images, max_tokens=None)


def _grade(answer: Answer, row: Mapping[str, Any], told: Said[int]) -> Graded:
    score = told.verdict or 0  # 0 as well where the reply is unread
    kind = row["question_type"]
    hallucinated = float(score < _CLEAN)
    counts = {
        "score": float(score),
        "hallucinated": hallucinated,
        "informative_thirds": float(score if hallucinated else score - _CLEAN),
        "informative": float(score not in (0, _CLEAN)),
        f"score_{kind}": float(score),
        f"asked_{kind}": 1.0,
        f"hallucinated_{kind}": hallucinated,
    }
    details = {
        "answer": answer.text,
        "question": row["question"],
        "truth": row["gt_answer"],
        "category": kind,
        "rating": told.verdict,
        "judge": told.reply.text,
        "error": _HIGHEST - score,
        **({"problem": told.problem} if told.problem else {}),
    }
    return Graded(id=answer.id, cluster=answer.id, counts=counts, details=details)


def _result(graded: Sequence[Graded], protocol: str, notes: Sequence[str], failures: int) -> Result:
    count = max(len(graded), 1)
    sums = {name: sum(row.counts[name] for row in graded) for name in _COLUMNS}
    scale = 100 if protocol == "ovip" else 1
    digits = 3 if protocol == "ovip" else 2
    metrics = {
        "average_score": sums["score"] / count,
        "hallucination_rate": scale * sums["hallucinated"] / count,
    }
    formulas = {"average_score": "score / answers", "hallucination_rate": f"{scale} * hallucinated / answers"}
    if protocol == "rlaif-v":
        metrics["informativeness"] = 100 * sums["informative_thirds"] / (3 * count)
        formulas["informativeness"] = "100 * informative_thirds / (3 * answers)"
    if protocol == "ovip":
        metrics["informativeness"] = 100 * sums["informative"] / count
        formulas["informativeness"] = "100 * informative / answers"
    printed = {name: f"{value:.{digits}f}" for name, value in metrics.items()}
    by_type = _by_type(graded, scale)
    for kind, figures in by_type.items():
        metrics[f"score_{kind}"] = figures["average_score"]
        printed[f"score_{kind}"] = str(round(figures["average_score"], 2))
        formulas[f"score_{kind}"] = f"score_{kind} / asked_{kind}"
    return Result(
        bench="mmhal",
        protocol=protocol,
        metrics=metrics,
        metrics_printed=printed,
        by_category=by_type,
        graded=graded,
        notes=notes,
        failures=failures,
        formulas=formulas,
        better={"hallucination_rate": "lower"},
    )


def _by_type(graded: Sequence[Graded], scale: float) -> dict[str, dict[str, float]]:
    found = {}
    for kind in TYPES:
        rows = [row for row in graded if row.details["category"] == kind]
        if rows:
            found[kind] = {
                "average_score": sum(row.counts["score"] for row in rows) / len(rows),
                "hallucination_rate": scale * sum(row.counts["hallucinated"] for row in rows) / len(rows),
            }
    return found
