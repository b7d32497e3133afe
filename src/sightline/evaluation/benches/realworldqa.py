"""RealWorldQA (xAI 2024): 765 questions about photographs of real places, by letter or by a short answer.

xAI published no scorer: the protocols are those of the suites that carry the benchmark. Needs no judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sightline.errors import DataError
from sightline.evaluation.accuracy import ACCURACY, PERCENT, Row, accuracies, accuracy, grade_row
from sightline.evaluation.bench import Answer, Judge, Question, Result, check_options, check_protocol, match_ids
from sightline.evaluation.choices import cambrian_word, lmms_letter, ovip_equal, vlmeval_options, vlmeval_prompt
from sightline.evaluation.option_match import NOTHING, OptionMatch, match_options
from sightline.evaluation.submissions import answer_id, read_answers
from sightline.evaluation.tables import (
    DOWNLOAD_AGAIN,
    PictureFiles,
    check_ids,
    find_files,
    picture_prompt,
    read_tables,
    text_field,
    write_lines,
)

LETTERS: Final = "ABCD"
_BY_LETTER: Final = "answer directly with only the letter of the correct option and nothing else"
_FILES: Final = (
    *("data/test-*.parquet", "test-*.parquet", "*.parquet"),
    *("*[Rr]eal[Ww]orld[Qq][Aa]*.jsonl", "RealWorldQA.tsv"),
)


@dataclass(frozen=True, kw_only=True)
class RealWorldQA:
    """RealWorldQA under OViP's rule, lmms-eval's, Cambrian's and VLMEvalKit's."""

    name: str = "realworldqa"
    protocols: tuple[str, ...] = ("ovip", "lmms-eval", "cambrian", "vlmevalkit")
    needs: str = (
        "the hub dataset xai-org/RealworldQA as downloaded (data/test-*.parquet), llava_test_realworldqa.jsonl with "
        "pictures in images/, or for vlmevalkit RealWorldQA.tsv; no judge"
    )

    def questions(self, data: Path) -> list[Question]:
        """All rows; the question already ends in how to answer."""
        return [
            Question(
                id=row.id,
                prompt=picture_prompt(row.id, row.text, [row.image], {"answer": row.truth}),
                meta={"category": row.category, "max_new_tokens": 128, "token_limits": {"lmms-eval": 16}},
            )
            for row in self._rows(data, pictures=True)
        ]

    def grade(
        self, data: Path, answers: Sequence[Answer], protocol: str, options: Mapping[str, Any], judge: Judge | None
    ) -> Result:
        """Accuracy: percent for ``cambrian``, a fraction otherwise.

        ``vlmevalkit`` asks a judge, where one is given, about answers that name no option; ``template`` is its rubric.
        """
        check_protocol(self, protocol)
        check_options(self.name, options, ("template",) if protocol == "vlmevalkit" else ())
        rows = self._rows(data)
        if (protocol == "vlmevalkit") != (rows[0].options is not None):
            raise DataError(
                f"protocol {protocol} and these files do not go together",
                source=f"{self.name}: {data}",
                remedy="vlmevalkit grades RealWorldQA.tsv, where each question has options; the others the original",
            )
        matched = match_ids([row.id for row in rows], answers)
        told = match_options(rows, matched, judge, options.get("template")) if protocol == "vlmevalkit" else NOTHING
        rows, matched = told.graded(rows, matched)
        graded = [
            grade_row(row, answer.text, _hit(row, answer.text, protocol, told))
            for row, answer in zip(rows, matched, strict=True)
        ]
        percent = protocol == "cambrian"
        scale = 100.0 if percent else 1.0
        value = scale * accuracy(graded)
        return Result(
            bench=self.name,
            protocol=protocol,
            metrics={"accuracy": value},
            metrics_printed={"accuracy": _printed(protocol, sum(row.counts["correct"] for row in graded), len(rows))},
            by_category=accuracies(graded, [row.category for row in rows], scale=scale),
            graded=graded,
            notes=told.notes,
            failures=told.failures,
            formulas={"accuracy": PERCENT if percent else ACCURACY},
        )

    def export(self, data: Path, answers: Sequence[Answer], path: Path) -> None:
        """The answer file of OViP's and S-VCO's grader, JSON lines."""
        rows = self._rows(data)
        write_lines(
            path,
            (
                {"question_id": row.id, "prompt": row.text, "answer": row.truth, "response": answer.text}
                for row, answer in zip(rows, match_ids([row.id for row in rows], answers), strict=True)
            ),
        )

    def read_export(self, path: Path) -> list[Answer]:
        """Reads that file."""
        return read_answers(path, "question_id", ("response", "text"))

    def _rows(self, data: Path, *, pictures: bool = False) -> list[Row]:
        files = find_files(data, _FILES, self)
        images = PictureFiles(data)
        rows = []
        for number, (row, source) in enumerate(read_tables(files, pictures=pictures), start=1):
            # the hub dataset has no ids; S-VCO numbers its rows from 1
            key = next((name for name in ("question_id", "index") if name in row), None)
            id = str(number) if key is None else answer_id(row, key, source)
            text = text_field(row, "text" if "text" in row else "question", source)
            given = vlmeval_options(
                {letter: text_field(row, letter, source) for letter in LETTERS if row.get(letter) is not None}
            )
            by_letter = bool(given) or _BY_LETTER in text.lower()
            rows.append(
                Row(
                    id=id,
                    text=vlmeval_prompt(text, given) if given else text,
                    truth=text_field(row, "answer", source),
                    category="letter" if by_letter else "short answer",
                    image=images.of_row(row, f"{id}.webp", source) if pictures else "",
                    options=given or None,
                )
            )
        check_ids([row.id for row in rows], str(files[0]))
        if not rows:
            raise DataError("holds no questions", source=str(files[0]), remedy=DOWNLOAD_AGAIN)
        return rows


def _hit(row: Row, answer: str, protocol: str, told: OptionMatch) -> float:
    truth = row.truth.strip()
    if protocol == "ovip":
        return float(ovip_equal(answer, truth, first=4 if row.category == "letter" else None))
    if protocol == "cambrian":
        return float(cambrian_word(answer) == row.truth.lower())
    if protocol == "vlmevalkit":
        return float(told.letters[row.id] == truth)
    if truth.upper() in tuple(LETTERS):
        return float(lmms_letter(answer, LETTERS) == truth.upper())
    return float(answer.lower().strip().rstrip(".") == truth.lower())


def _printed(protocol: str, correct: float, total: int) -> str:
    if protocol == "cambrian":
        return str(100.0 * correct / total)
    if protocol == "ovip":
        return str(round(int(correct) / total, 3))
    return f"{correct / total:.4f}" if protocol == "lmms-eval" else str(correct / total)


BENCH: Final = RealWorldQA()
