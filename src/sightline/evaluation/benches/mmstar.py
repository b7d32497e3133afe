"""MMStar (Chen et al. 2024, arXiv:2403.20330): 1,500 multiple-choice questions that need the picture.

Figures are fractions, as the official script logs them, percent under ``cambrian``. Needs no judge; ``vlmevalkit``
may use one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from sightline.errors import DataError
from sightline.evaluation.accuracy import (
    ACCURACY,
    PERCENT,
    Row,
    accuracies,
    accuracy,
    counted,
    grade_row,
    mean,
    mean_of_ratios,
)
from sightline.evaluation.answers import read_stored
from sightline.evaluation.bench import Answer, Graded, Judge, Question, Result, check_options, check_protocol, match_ids
from sightline.evaluation.choices import (
    ANSWER_WITH_LETTER,
    lmms_letter,
    mmstar_hit,
    ovip_hit,
    vlmeval_options,
    vlmeval_prompt,
)
from sightline.evaluation.option_match import NOTHING, OptionMatch, match_options
from sightline.evaluation.spreadsheet import write_sheet
from sightline.evaluation.statistics import ANSWERS
from sightline.evaluation.submissions import read_answers
from sightline.evaluation.tables import (
    DOWNLOAD_AGAIN,
    PictureFiles,
    check_ids,
    find_files,
    optional_text,
    picture_prompt,
    read_tables,
    text_field,
    write_lines,
)
from sightline.evaluation.yes_no import cambrian_word

LETTERS: Final = "ABCD"
TOTAL: Final = 1500
_INLINE: Final = re.compile(r"(?:^|,?\s+)([A-D]): ?")
_COLUMN: Final = re.compile(r"[A-Za-z_]\w*")
_BRACKETED: Final = re.compile(r"(?:^|\n)\(([A-D])\) ?")
_FILES: Final = (
    *("mmstar.parquet", "data/val-*.parquet", "val-*.parquet", "val/*.parquet", "*.parquet"),
    *("MMStar.tsv", "*[Mm][Mm][Ss]tar*.jsonl"),
)
_OPTIONS: Final = ("without_image", "llm_base", "template")


def inline_options(question: str) -> dict[str, str]:
    """The options that a question lists: "Options: A: x, B: y", or lines "(A) x".

    >>> inline_options("Which?\\nOptions: A: red, B: blue, green, C: none")
    {'A': 'red', 'B': 'blue, green', 'C': 'none'}
    """
    if "Options:" in question:
        cut = _INLINE.split(question.rsplit("Options:", 1)[1].strip())
    else:
        cut = _BRACKETED.split(question)
    return dict(zip(cut[1::2], cut[2::2], strict=True))


def without_options(question: str) -> str:
    """A question without the options that it lists.

    >>> without_options("Which?\\nOptions: A: red, B: blue")
    'Which?'
    """
    if "Options:" in question:
        return question.rsplit("Options:", 1)[0].rstrip()
    listed = _BRACKETED.search(question)
    return question[: listed.start()].rstrip() if listed else question


@dataclass(frozen=True, kw_only=True)
class MMStar:
    """MMStar under the official rule, OViP's, lmms-eval's, VLMEvalKit's and Cambrian's."""

    name: str = "mmstar"
    protocols: tuple[str, ...] = ("official", "lmms-eval", "vlmevalkit", "ovip", "cambrian")
    needs: str = (
        "the hub dataset Lin-Chen/MMStar as downloaded (mmstar.parquet), VLMEvalKit's MMStar.tsv, or the rows as "
        "JSON lines with pictures in images/INDEX.jpg; no judge"
    )

    def questions(self, data: Path) -> list[Question]:
        """All rows. The prompt is the official one for LLaVA; ``meta["prompts"]``: lmms-eval's and VLMEvalKit's."""
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
        """Accuracy; ``lmms-eval`` averages over the 18 axes instead of over answers, ``cambrian`` gives percent.

        Options ``without_image`` and ``llm_base`` name files of answers to the same questions, by the model without
        the picture and by its language model: they add the multi-modal gain and the leakage of the paper.
        ``vlmevalkit`` asks a judge, where one is given, about answers that name no option; ``template`` is its rubric.
        """
        check_protocol(self, protocol)
        check_options(self.name, options, _OPTIONS if protocol == "vlmevalkit" else _OPTIONS[:2])
        if "llm_base" in options and "without_image" not in options:
            remedy = "Give both: leakage is what the model without picture knows beyond its language model"
            raise DataError("llm_base is given without without_image", source=self.name, remedy=remedy)
        rows = every = self._rows(data)
        matched = match_ids([row.id for row in rows], answers)
        told = match_options(rows, matched, judge, options.get("template")) if protocol == "vlmevalkit" else NOTHING
        rows, matched = told.graded(rows, matched)
        graded = _grade(rows, matched, protocol, told)
        score = _figure(protocol)
        metrics = {"accuracy": score(graded)}
        formulas = {"accuracy": _formula(rows, protocol)}
        if "without_image" in options:
            blind = _alike(graded, _grade_file(every, options["without_image"], protocol))
            graded = _beside(graded, blind, "blind")
            metrics["multi_modal_gain"] = metrics["accuracy"] - score(blind)
            formulas["multi_modal_gain"] = f"{formulas['accuracy']} - {_of('blind', formulas['accuracy'])}"
            if "llm_base" in options:
                base = _alike(graded, _grade_file(every, options["llm_base"], protocol))
                graded = _beside(graded, base, "base")
                metrics["leakage"] = max(0.0, score(blind) - score(base))
                if metrics["leakage"]:  # cut at 0 it is no formula of counts
                    of_blind, of_base = (_of(name, formulas["accuracy"]) for name in ("blind", "base"))
                    formulas["leakage"] = f"{of_blind} - {of_base}"
        scale = 100.0 if protocol == "cambrian" else 1.0
        by_category = accuracies(graded, [row.category for row in rows], scale=scale)
        if protocol == "lmms-eval":
            for name in by_category:
                members = [one for one, row in zip(graded, rows, strict=True) if row.category == name]
                by_category[name]["accuracy"] = _axes_mean(members)
        by_category |= accuracies(graded, [f"{row.category}({_axis(row)})" for row in rows], scale=scale)
        return Result(
            bench=self.name,
            protocol=protocol,
            metrics=metrics,
            metrics_printed={name: _printed(protocol, name, value, graded) for name, value in metrics.items()},
            by_category=by_category,
            graded=graded,
            notes=[*_notes(rows), *told.notes],
            failures=told.failures,
            formulas=formulas,
            better={"leakage": "lower"},
        )

    def export(self, data: Path, answers: Sequence[Answer], path: Path) -> None:
        """The submission of the official repository: .xlsx with ``prediction``, or the same rows as .jsonl."""
        rows = self._rows(data)
        table = [
            {
                "index": row.id,
                "question": row.text,
                "answer": row.truth,
                "category": row.category,
                "l2_category": _axis(row),
                "bench": str((row.extra or {}).get("bench", "")),
                "prediction": answer.text,
            }
            for row, answer in zip(rows, match_ids([row.id for row in rows], answers), strict=True)
        ]
        if path.suffix == ".xlsx":
            write_sheet(path, table)
        else:
            write_lines(path, table)

    def read_export(self, path: Path) -> list[Answer]:
        """Reads a submission (.xlsx, .jsonl, .tsv), also one that the official tools wrote."""
        return read_answers(path, "index", ("prediction", "response"))

    def _rows(self, data: Path, *, pictures: bool = False) -> list[Row]:
        files = find_files(data, _FILES, self)
        images = PictureFiles(data)
        rows = []
        for row, source in read_tables(files, pictures=pictures):
            id = text_field(row, "index", source)
            text = asked = text_field(row, "question", source)
            given = {letter: text_field(row, letter, source) for letter in LETTERS if row.get(letter) is not None}
            if given and not inline_options(text):
                text += "\nOptions: " + ", ".join(f"{letter}: {option}" for letter, option in given.items())
            truth = text_field(row, "answer", source).strip()
            if truth.upper() not in tuple(LETTERS):
                raise DataError(f"answer {truth!r:.100} is no letter of {LETTERS}", source=source)
            rows.append(
                Row(
                    id=id,
                    text=text,
                    truth=truth,
                    category=text_field(row, "category", source),
                    image=images.of_row(row, f"{id}.jpg", source) if pictures else "",
                    options=vlmeval_options(given or inline_options(text)),
                    extra={
                        "axis": text_field(row, "l2_category", source),
                        "bench": optional_text(row, "bench", source),
                        "question": without_options(asked),
                    },
                )
            )
        check_ids([row.id for row in rows], str(files[0]))
        if not rows:
            raise DataError("holds no questions", source=str(files[0]), remedy=DOWNLOAD_AGAIN)
        return rows


def _prompts(row: Row) -> dict[str, str]:
    """How other protocols word the question: lmms-eval leaves out the full stop."""
    return {
        "lmms-eval": f"{row.text.strip()}\n{ANSWER_WITH_LETTER.removesuffix('.')}",
        "vlmevalkit": vlmeval_prompt(str((row.extra or {})["question"]), row.options or {}),
    }


def _figure(protocol: str) -> Callable[[Sequence[Graded]], float]:
    if protocol == "cambrian":
        return _percent
    return _axes_mean if protocol == "lmms-eval" else accuracy


def _percent(graded: Sequence[Graded]) -> float:
    return 100.0 * sum(row.counts["correct"] for row in graded) / len(graded)


def _formula(rows: Sequence[Row], protocol: str) -> str:
    if protocol == "cambrian":
        return PERCENT
    return mean_of_ratios(dict.fromkeys(map(_axis, rows))) if protocol == "lmms-eval" else ACCURACY


def _printed(protocol: str, name: str, value: float, graded: Sequence[Graded]) -> str:
    if protocol == "lmms-eval":
        return f"{value:.4f}"
    if protocol == "ovip" and name == "accuracy":
        return f"{sum(int(row.counts['correct']) for row in graded)}/{len(graded)} = {value}"
    return str(value)


def _axis(row: Row) -> str:
    return str((row.extra or {})["axis"])


def _grade(rows: Sequence[Row], answers: Sequence[Answer], protocol: str, told: OptionMatch) -> list[Graded]:
    graded = []
    for row, answer in zip(rows, answers, strict=True):
        hit, read = _hit(row, answer.text, protocol, told)
        graded.append(grade_row(row, answer.text, hit, read, **counted([_axis(row)], hit)))
    return graded


def _alike(graded: Sequence[Graded], other: Sequence[Graded]) -> list[Graded]:
    """The rows of another model to the questions that were graded."""
    ids = {row.id for row in graded}
    return [row for row in other if row.id in ids]


def _beside(graded: Sequence[Graded], other: Sequence[Graded], name: str) -> list[Graded]:
    """The rows with the counts of another model's answers to the same questions in columns of their own."""
    return [
        replace(row, counts={**row.counts, **{f"{name}_{column}": value for column, value in one.counts.items()}})
        for row, one in zip(graded, other, strict=True)
    ]


def _of(name: str, formula: str) -> str:
    """The formula of those columns."""
    return _COLUMN.sub(lambda match: match[0] if match[0] == ANSWERS else f"{name}_{match[0]}", formula)


def _grade_file(rows: Sequence[Row], path: Any, protocol: str) -> list[Graded]:
    """Answers of another model; without a judge under ``vlmevalkit``."""
    answers = [stored.answer for stored in read_stored(Path(str(path)))]
    matched = match_ids([row.id for row in rows], answers, source=str(path))
    told = match_options(rows, matched) if protocol == "vlmevalkit" else NOTHING
    return _grade(rows, matched, protocol, told)


def _hit(row: Row, answer: str, protocol: str, told: OptionMatch) -> tuple[float, str | None]:
    """Right or wrong, and the letter that was read where the rule reads one."""
    if protocol == "official":
        return float(mmstar_hit(answer, row.truth)), None
    if protocol == "ovip":
        return float(ovip_hit(answer, row.truth)), None
    if protocol == "cambrian":
        read = cambrian_word(answer)
        return float(read == row.truth.lower()), read
    read = lmms_letter(answer, LETTERS) if protocol == "lmms-eval" else told.letters[row.id]
    return float(read == row.truth.upper()), read


def _axes_mean(graded: Sequence[Graded]) -> float:
    """Unweighted mean over the axes that occur."""
    columns = dict.fromkeys(name for row in graded for name in row.counts if name.endswith("_asked"))
    return mean(
        sum(row.counts.get(f"{name.removesuffix('_asked')}_correct", 0) for row in graded)
        / sum(row.counts.get(name, 0) for row in graded)
        for name in columns
    )


def _notes(rows: Sequence[Row]) -> list[str]:
    if len(rows) == TOTAL:
        return []
    return [f"{len(rows)} of the {TOTAL:,} questions; the official script would still divide by {TOTAL:,}"]


BENCH: Final = MMStar()
