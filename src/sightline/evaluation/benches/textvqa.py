"""TextVQA 0.5.1 (Singh et al. 2019, arXiv:1904.08920): 5,000 validation questions about text in pictures.

Figures are percent. Whether the prompt holds the text that an OCR system read decides the figure more than the model
does (58.2 against about 46 for LLaVA-1.5-7B): the result says which. Needs no judge.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from sightline.errors import DataError
from sightline.evaluation.accuracy import ACCURACY, PERCENT, Row, accuracy, grade_row
from sightline.evaluation.bench import Answer, Judge, Question, Result, check_options, check_protocol, match_ids
from sightline.evaluation.submissions import answer_id, answers_of, submitted_rows
from sightline.evaluation.tables import (
    DOWNLOAD_AGAIN,
    PictureFiles,
    check_ids,
    find_files,
    optional_text,
    picture_prompt,
    read_tables,
    text_field,
    texts_field,
    write_lines,
)
from sightline.evaluation.vqa import match_scores, normalize, normalize_vlmeval, vqa_score
from sightline.files import replace_file

SHORT_ANSWER: Final = "Answer the question using a single word or phrase."
HUMANS: Final = 10
_FILES: Final = (
    *("TextVQA_0.5.1_val.json", "TextVQA_0.5.1_val*.json"),
    *("data/validation-*.parquet", "validation-*.parquet", "*.parquet"),
)
_PROMPTS: Final = ("llava_textvqa_val_v051_ocr*.jsonl", "llava_textvqa*.jsonl")
_OCR: Final = "Reference OCR token: "
_BY_QUESTION: Final = ("official", "ovip")
"""Protocols whose evaluator finds the human answers by picture and question."""
_OLD_PROMPT: Final = re.compile(r"Question: (.*?) Short answer:", re.DOTALL)


def asked_question(prompt: str) -> str:
    """The question in a prompt of LLaVA's files, lower case, as its evaluator finds it.

    Raises:
        DataError: The prompt has none of LLaVA's layouts.
    """
    lines = prompt.split("\n")
    old = _OLD_PROMPT.search(prompt) if prompt.startswith("OCR tokens: ") else None
    if old:
        return old[1].lower()
    if _OCR in prompt and len(lines) == 3:
        return lines[1 if prompt.startswith(_OCR.strip()) else 0].lower()
    if len(lines) == 2:
        return lines[0].lower()
    raise DataError(
        f"the prompt {prompt!r:.80} holds no question where LLaVA's evaluator looks",
        remedy="Expected the question, then a line of OCR tokens or none, then how to answer",
    )


@dataclass(frozen=True, kw_only=True)
class TextVQA:
    """TextVQA under the official evaluator (``m4c``), lmms-eval's copy of it, and VLMEvalKit's."""

    name: str = "textvqa"
    protocols: tuple[str, ...] = ("official", "lmms-eval", "vlmevalkit", "ovip")
    needs: str = (
        "TextVQA_0.5.1_val.json and the folder train_images (dl.fbaipublicfiles.com); beside it LLaVA's "
        "llava_textvqa_val_v051_ocr.jsonl for prompts with OCR tokens; no judge"
    )

    def questions(self, data: Path) -> list[Question]:
        """All rows; with OCR tokens where LLaVA's prompt file lies in the folder."""
        prompts = self._prompts(data)
        rows = self._rows(data, pictures=True)
        return [
            Question(
                id=row.id,
                prompt=picture_prompt(row.id, _prompt(row, prompts), [row.image], {"answers": _humans(row)}),
                meta={"ocr": _key(row) in prompts, "max_new_tokens": 128, "prompts": _others(row)},
            )
            for row in rows
        ]

    def grade(
        self, data: Path, answers: Sequence[Answer], protocol: str, options: Mapping[str, Any], judge: Judge | None
    ) -> Result:
        """VQA accuracy: percent, as a fraction for ``lmms-eval``."""
        check_protocol(self, protocol)
        check_options(self.name, options, ())
        rows = self._rows(data)
        matched = match_ids([row.id for row in rows], _with_ids(rows, answers))
        if protocol in _BY_QUESTION:
            rows = _last_of_each(rows)
        normalizer = normalize_vlmeval if protocol == "vlmevalkit" else normalize
        graded = [
            grade_row(row, answer.text, vqa_score(answer.text, _humans(row), normalizer), normalizer(answer.text))
            for row, answer in zip(rows, matched, strict=True)
        ]
        fraction = accuracy(graded)
        if protocol == "vlmevalkit":  # it prints all digits of numpy's means
            scores = [match_scores(one.text, _humans(row), normalizer) for row, one in zip(rows, matched, strict=True)]
            fraction = float(np.mean([np.mean(one) for one in scores]))
        printed = {"lmms-eval": f"{fraction:.4f}", "vlmevalkit": str(fraction * 100)}
        ocr = "with" if self._prompts(data) else "without"
        return Result(
            bench=self.name,
            protocol=protocol,
            metrics={"accuracy": fraction if protocol == "lmms-eval" else 100.0 * fraction},
            metrics_printed={"accuracy": printed.get(protocol, f"{100.0 * fraction:.2f}%")},
            graded=graded,
            notes=[f"the prompts of this folder are {ocr} OCR tokens"],
            formulas={"accuracy": ACCURACY if protocol == "lmms-eval" else PERCENT},
        )

    def export(self, data: Path, answers: Sequence[Answer], path: Path) -> None:
        """LLaVA's answer file (.jsonl), or the list that the EvalAI server takes (.json)."""
        prompts = self._prompts(data)
        rows = self._rows(data)
        pairs = list(zip(rows, match_ids([row.id for row in rows], _with_ids(rows, answers)), strict=True))
        if path.suffix == ".json":
            replace_file(path, _server_list(pairs))
            return
        write_lines(
            path,
            (
                # LLaVA's evaluator finds the row by picture and question; textvqa_id is ours
                {
                    "question_id": row.cluster,
                    "prompt": _prompt(row, prompts),
                    "text": answer.text,
                    "textvqa_id": row.id,
                }
                for row, answer in pairs
            ),
        )

    def read_export(self, path: Path) -> list[Answer]:
        """Reads our .jsonl and the .json of the server.

        A file that LLaVA itself wrote names picture and question only: its answers get the id
        ``picture|question``, which :meth:`grade` knows as well.
        """
        rows = list(submitted_rows(path))
        if rows and "answer" in rows[0][0]:
            return answers_of(rows, "question_id", ("answer",))
        if rows and "textvqa_id" in rows[0][0]:
            return answers_of(rows, "textvqa_id", ("text",))
        return answers_of(rows, _picture_and_question, ("text",), repeats=True)

    def _prompts(self, data: Path) -> dict[str, str]:
        """LLaVA's prompts by picture and question; empty without its file."""
        root = data if data.is_dir() else data.parent
        found = next((files for pattern in _PROMPTS if (files := sorted(root.glob(pattern)))), [])
        return {
            (_picture_and_question(row, source, "text")): text_field(row, "text", source)
            for row, source in read_tables(found[:1])
        }

    def _rows(self, data: Path, *, pictures: bool = False) -> list[Row]:
        files = find_files(data, _FILES, self)
        images = PictureFiles(data, ("train_images", "train_val_images/train_images", "images", "."))
        rows = []
        for row, source in _records(files, pictures=pictures):
            humans = texts_field(row, "answers", source)
            if len(humans) != HUMANS:
                raise DataError(f"has {len(humans)} answers, expected {HUMANS}", source=source)
            image = text_field(row, "image_id", source)
            rows.append(
                Row(
                    id=text_field(row, "question_id", source),
                    text=text_field(row, "question", source),
                    truth=max(humans, key=humans.count),
                    cluster=image,
                    image=images.of_row(row, f"{image}.jpg", source) if pictures else "",
                    extra={"humans": humans},
                )
            )
        check_ids([row.id for row in rows], str(files[0]))
        if not rows:
            raise DataError("holds no questions", source=str(files[0]), remedy=DOWNLOAD_AGAIN)
        return rows


def _records(files: Sequence[Path], *, pictures: bool) -> Iterator[tuple[dict[str, Any], str]]:
    """The list ``data`` of the official JSON file, or the rows of parquet files, with where each stands."""
    for row, source in read_tables(files, pictures=pictures):
        nested = row.get("data")
        if not isinstance(nested, list):
            yield row, source
            continue
        for number, record in enumerate(nested, start=1):
            place = f"{source.rpartition(':')[0]}:{number}"
            if not isinstance(record, dict):
                raise DataError(f"is a {type(record).__name__}", source=place, remedy="Expected an object")
            yield record, place


def _picture_and_question(row: Mapping[str, Any], source: str, column: str = "prompt") -> str:
    try:
        asked = asked_question(optional_text(row, column, source))
    except DataError as error:
        raise DataError(error.found, source=source, remedy=error.remedy) from error
    return f"{answer_id(row, 'question_id', source)}|{asked}"


def _humans(row: Row) -> list[str]:
    return list((row.extra or {})["humans"])


def _key(row: Row) -> str:
    return f"{row.cluster}|{row.text.lower()}"


def _prompt(row: Row, prompts: Mapping[str, str]) -> str:
    return prompts.get(_key(row), f"{row.text.capitalize()}\n{SHORT_ANSWER}")


def _others(row: Row) -> dict[str, str]:
    """Without OCR tokens: lmms-eval writes the first letter large and the others small, VLMEvalKit nothing."""
    return {
        "lmms-eval": f"{row.text.capitalize()}\n{SHORT_ANSWER}",
        "vlmevalkit": f"{row.text}\n{SHORT_ANSWER}",
    }


def _last_of_each(rows: Sequence[Row]) -> list[Row]:
    """A question asked twice about a picture has the human answers of the last one, as in LLaVA's evaluator."""
    last = {_key(row): row.extra for row in rows}
    return [replace(row, extra=last[_key(row)]) for row in rows]


def _with_ids(rows: Sequence[Row], answers: Sequence[Answer]) -> list[Answer]:
    """Answers of a file that LLaVA wrote, under the ids of their questions; one asked twice is told by the order."""
    ids: dict[str, list[str]] = {}
    for row in rows:
        ids.setdefault(_key(row), []).append(row.id)
    return [
        Answer(id=left.pop(0) if (left := ids.get(answer.id)) else answer.id, text=answer.text) for answer in answers
    ]


def _server_list(pairs: Sequence[tuple[Row, Answer]]) -> str:
    return json.dumps([{"question_id": int(row.id), "answer": answer.text} for row, answer in pairs], indent=1)


BENCH: Final = TextVQA()
