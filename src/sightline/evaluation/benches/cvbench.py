"""CV-Bench (Tong et al. 2024, Cambrian-1, arXiv:2406.16860): 2,638 multiple-choice questions on 2D and 3D relations.

``official`` is the rule of Cambrian's scripts, by the benchmark's authors, with the formula of the data card. Figures
are fractions. Needs no judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sightline.errors import DataError
from sightline.evaluation.accuracy import ACCURACY, Row, accuracies, accuracy, counted, grade_row
from sightline.evaluation.bench import Answer, Judge, Question, Result, check_options, check_protocol, match_ids
from sightline.evaluation.choices import (
    ANSWER_WITH_LETTER,
    cambrian_letter,
    lmms_leading_letter,
    ovip_equal,
)
from sightline.evaluation.option_match import NOTHING, OptionMatch, match_options
from sightline.evaluation.submissions import read_answers
from sightline.evaluation.tables import (
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

SOURCES: Final = ("ADE20K", "COCO", "Omni3D")
_FILES: Final = (
    *("test.jsonl", "cvbench_test.jsonl", "*cv*bench*.jsonl", "*CV*Bench*.jsonl"),
    *("test_2d.parquet", "test.parquet", "data/test*.parquet", "*.parquet"),
)
_BOTH_PARTS: Final = ("test_*d.parquet",)
_DIGITS: Final = {"official": 4, "lmms-eval": 4, "ovip": 3}
_OMNI3D_STOPS: Final = ".:,"
"""Cambrian's script for Omni3D strips more from the end of an answer than its scripts for the 2D sources."""


@dataclass(frozen=True, kw_only=True)
class CVBench:
    """CV-Bench under Cambrian's rule, OViP's, lmms-eval's and VLMEvalKit's."""

    name: str = "cvbench"
    protocols: tuple[str, ...] = ("official", "lmms-eval", "vlmevalkit", "ovip", "cambrian")
    needs: str = (
        "the hub dataset nyu-visionx/CV-Bench as downloaded (test.jsonl and the folder img, or test_2d.parquet and "
        "test_3d.parquet); no judge"
    )

    def questions(self, data: Path) -> list[Question]:
        """All rows, asked as Cambrian and OViP do; ``meta["prompts"]``: lmms-eval's note, VLMEvalKit's bare prompt."""
        return [
            Question(
                id=row.id,
                prompt=picture_prompt(row.id, f"{row.text}\n{ANSWER_WITH_LETTER}", [row.image], {"answer": row.truth}),
                meta={"category": row.category, "max_new_tokens": 128, "prompts": _prompts(row)},
            )
            for row in self._rows(data, pictures=True)
        ]

    def grade(
        self, data: Path, answers: Sequence[Answer], protocol: str, options: Mapping[str, Any], judge: Judge | None
    ) -> Result:
        """2D = mean of ADE20K and COCO, 3D = Omni3D, ``accuracy`` = mean of the two.

        ``lmms-eval`` reports the plain accuracy over answers (its other figure is ``weighted_accuracy``).
        ``vlmevalkit`` asks a judge, where one is given, about answers that name no option; ``template`` is its rubric.
        """
        check_protocol(self, protocol)
        check_options(self.name, options, ("template",) if protocol == "vlmevalkit" else ())
        rows = self._rows(data)
        matched = match_ids([row.id for row in rows], answers)
        told = match_options(rows, matched, judge, options.get("template")) if protocol == "vlmevalkit" else NOTHING
        rows, matched = told.graded(rows, matched)
        graded = []
        for row, answer in zip(rows, matched, strict=True):
            hit, read = _hit(row, answer.text, protocol, told)
            counts = counted([_source(row)], hit)
            graded.append(grade_row(row, answer.text, hit, read, **counts))
        by_source = accuracies(graded, [_source(row) for row in rows])
        if lost := [name for name in SOURCES if name not in by_source]:
            found = (
                f"the judge gave a letter for no answer of {', '.join(lost)}, and the figures need all three sources"
            )
            raise DataError(found, source=self.name, remedy="Check the judge, or grade without one")
        metrics, formulas = _figures({name: by_source[name]["accuracy"] for name in SOURCES})
        if protocol == "lmms-eval":
            metrics = {"accuracy": accuracy(graded), "weighted_accuracy": metrics["accuracy"], **_parts(metrics)}
            formulas = {"accuracy": ACCURACY, "weighted_accuracy": formulas["accuracy"], **_parts(formulas)}
        digits = _DIGITS.get("official" if protocol == "cambrian" else protocol)
        return Result(
            bench=self.name,
            protocol=protocol,
            metrics=metrics,
            metrics_printed={name: f"{value:.{digits}f}" if digits else str(value) for name, value in metrics.items()},
            by_category=by_source | accuracies(graded, [row.category for row in rows]),
            graded=graded,
            notes=[*told.notes, *(["the rule of Cambrian's scripts"] if protocol == "official" else [])],
            failures=told.failures,
            formulas=formulas,
        )

    def export(self, data: Path, answers: Sequence[Answer], path: Path) -> None:
        """The answer file of OViP's and S-VCO's grader, JSON lines."""
        rows = self._rows(data)
        write_lines(
            path,
            (
                {
                    "question_id": row.id,
                    "source": _source(row),
                    "task": row.category,
                    "prompt": f"{row.text}\n{ANSWER_WITH_LETTER}",
                    "response": answer.text,
                    "answer": row.truth,
                }
                for row, answer in zip(rows, match_ids([row.id for row in rows], answers), strict=True)
            ),
        )

    def read_export(self, path: Path) -> list[Answer]:
        """Reads that file."""
        return read_answers(path, "question_id", ("response", "text"))

    def _rows(self, data: Path, *, pictures: bool = False) -> list[Row]:
        files = find_files(data, _FILES, self)
        if files[0].name == "test_2d.parquet":
            files = find_files(data, _BOTH_PARTS, self)
        images = PictureFiles(data, ("img", "images", "."))
        rows = []
        for row, source in read_tables(files, pictures=pictures):
            name = row["image"] if isinstance(row.get("image"), str) else optional_text(row, "filename", source)
            choices = texts_field(row, "choices", source)
            truth = text_field(row, "answer", source)
            if len(truth) != 3 or not 0 <= ord(truth[1]) - ord("A") < len(choices):
                raise DataError(f"answer {truth!r:.100} is no letter of {len(choices)} choices", source=source)
            rows.append(
                Row(
                    id=text_field(row, "idx", source),
                    text=text_field(row, "prompt", source),
                    truth=truth,
                    category=text_field(row, "task", source),
                    cluster=optional_text(row, "source_filename", source) or name,
                    image=images.of_row(row, name, source) if pictures else "",
                    options={chr(ord("A") + place): choice for place, choice in enumerate(choices)},
                    extra={"source": text_field(row, "source", source)},
                )
            )
        missing = [name for name in SOURCES if name not in {_source(row) for row in rows}]
        if missing:
            raise DataError(
                f"has no rows of {', '.join(missing)}", source=str(files[0]), remedy="All three sources are needed"
            )
        check_ids([row.id for row in rows], str(files[0]))
        return rows


def _prompts(row: Row) -> dict[str, str]:
    letters = ", ".join(row.options or {})
    note = f"Note: You only need to respond with {letters} without providing any additional information."
    return {"lmms-eval": f"{note}\n\n{row.text}", "vlmevalkit": row.text}


def _source(row: Row) -> str:
    return str((row.extra or {})["source"])


def _parts(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in figures.items() if name != "accuracy"}


def _figures(by_source: Mapping[str, float]) -> tuple[dict[str, float], dict[str, str]]:
    """The weighted figures and their formulas."""
    ade, coco, omni = (by_source[name] for name in SOURCES)
    flat = (ade + coco) / 2
    two_d = "(ade20k_correct / ade20k_asked + coco_correct / coco_asked) / 2"
    three_d = "omni3d_correct / omni3d_asked"
    metrics = {"accuracy": (flat + omni) / 2, "2d": flat, "3d": omni}
    return metrics, {"accuracy": f"({two_d} + {three_d}) / 2", "2d": two_d, "3d": three_d}


def _hit(row: Row, answer: str, protocol: str, told: OptionMatch) -> tuple[float, str | None]:
    letter = row.truth[1]
    if protocol == "ovip":
        return float(ovip_equal(answer, row.truth, first=4, keep_stops=True)), None
    if protocol == "lmms-eval":
        read = lmms_leading_letter(answer)
        return float(read == letter), read
    if protocol == "vlmevalkit":
        return float(told.letters[row.id] == letter), told.letters[row.id]
    omni3d = _source(row) == "Omni3D"
    read = cambrian_letter(answer, _OMNI3D_STOPS if omni3d else ".")
    # the script also compares with the text of the option, which one character only rarely equals
    return float(read == letter.lower() or (omni3d and read == (row.options or {})[letter])), read


BENCH: Final = CVBench()
