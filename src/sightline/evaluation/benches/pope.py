"""POPE (Li et al., EMNLP 2023): is there a so-and-so in the image? Yes or no, half each.

Protocols differ in how an answer is read (:mod:`sightline.evaluation.yes_no`) and pooled. ``official`` scores each
question file by itself; its figures are the means over the files of one source, as "POPE" is quoted for LLaVA.
``lmms-eval``, ``vlmevalkit`` and ``cambrian`` pool the rows of one source. The first source that is there (COCO, then
A-OKVQA, then GQA) has the plain names, those of the others have the source in front: ``gqa_f1``.

Option: ``files``, names of the question files to grade (without suffix), separated by commas; all that are there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from sightline.errors import DataError
from sightline.evaluation import pope_answers
from sightline.evaluation.bench import Answer, Graded, Judge, Question, Result, check_options, check_protocol, match_ids
from sightline.evaluation.option_values import names_option
from sightline.evaluation.submissions import answer_id
from sightline.evaluation.tables import (
    PictureFiles,
    check_ids,
    find_files,
    picture_prompt,
    read_table,
    text_field,
    write_lines,
)
from sightline.evaluation.yes_no import (
    cambrian_word,
    lmms_word,
    pope_yes,
    vlmeval_yes_no,
    yes_no_counts,
    yes_no_figures,
)

INSTRUCTION: Final = "Answer the question using a single word or phrase."
SOURCES: Final = ("coco", "aokvqa", "gqa")
"""Where pictures and objects come from: the first part of a file's name."""
_FILES: Final = ("*_pope_*.json", "output/*/*_pope_*.json", "coco/*_pope_*.json", "*_pope_*.jsonl")
"""As released, as LLaVA keeps them, and as lines that are named so."""
_FIGURES: Final = ("accuracy", "precision", "recall", "f1", "yes_ratio")
_COLUMNS: Final = ("tp", "fp", "tn", "fn", "said_yes", "label_yes", "asked")
_MAX_NEW_TOKENS: Final = 16

READERS: Final[dict[str, Callable[[str], str]]] = {
    "official": lambda text: "yes" if pope_yes(text) else "no",
    "lmms-eval": lmms_word,
    "vlmevalkit": vlmeval_yes_no,
    "cambrian": cambrian_word,
}
"""Protocol to how it reads an answer; what is neither ``yes`` nor ``no`` is wrong."""


class Pope:
    """The benchmark. An id is the name of the question file and the number of the question: ``coco_pope_random/1``."""

    name = "pope"
    protocols = ("official", "lmms-eval", "vlmevalkit", "cambrian")
    needs = (
        "the question files of github.com/AoiDragon/POPE (output/coco, output/seem: *_pope_*.json), and the pictures "
        "of COCO val2014 in a folder val2014 (GQA: images)"
    )

    def questions(self, data: Path) -> list[Question]:
        """All questions of all files, COCO first. ``meta["prompts"]["official"]``: the bare question."""
        pictures = PictureFiles(data, ("val2014", "images", "image", "."))
        return [_question(stem, row, pictures) for stem, rows in self._files(data).items() for row in rows]

    def grade(
        self, data: Path, answers: Sequence[Answer], protocol: str, options: Mapping[str, Any], judge: Judge | None
    ) -> Result:
        check_protocol(self, protocol)
        check_options(self.name, options, ("files",))
        every = self._files(data)
        answers = pope_answers.placed(answers, every, data)
        files = _chosen(every, names_option(self.name, options, "files"))
        rows = {_id(stem, row): row for stem, rows in files.items() for row in rows}
        graded = [_grade(answer, rows[answer.id], protocol) for answer in match_ids(list(rows), answers)]
        by_file = {stem: _pooled(_of_files(graded, [stem]), protocol) for stem in files}
        metrics: dict[str, float] = {}
        formulas: dict[str, str] = {}
        for source, stems in _sources(files).items():
            front = f"{source}_" if metrics else ""
            official = protocol == "official"
            values = (
                _means([by_file[stem] for stem in stems]) if official else _pooled(_of_files(graded, stems), protocol)
            )
            metrics |= {f"{front}{name}": value for name, value in values.items()}
            formulas |= {f"{front}{name}": text for name, text in _formulas(stems, protocol).items()}
        return Result(
            bench=self.name,
            protocol=protocol,
            metrics=metrics,
            metrics_printed={
                name: f"{value:.4f}" if protocol == "lmms-eval" else str(value) for name, value in metrics.items()
            },
            by_category=by_file,
            graded=graded,
            notes=[f"files: {', '.join(files)}", *_notes(graded, protocol)],
            formulas=formulas,
        )

    def export(self, data: Path, answers: Sequence[Answer], path: Path) -> None:
        """JSON lines with ``question`` and ``answer``, as ``evaluate.py`` reads them; ``split`` names the file.

        A path without suffix is a folder with one file for each question file, in the order of its questions. A
        question file that is answered must be answered whole.
        """
        files = self._files(data)
        answers = pope_answers.placed(answers, files, data)
        rows = {_id(stem, row): (stem, row) for stem, rows in files.items() for row in rows}
        answered = {rows[answer.id][0] for answer in answers if answer.id in rows}
        matched = match_ids([id for id, (stem, _) in rows.items() if stem in answered], answers)
        by_id = {answer.id: answer for answer in matched}
        lines: dict[str, list[dict[str, Any]]] = {}
        for id, (stem, row) in rows.items():
            if id in by_id:
                number, question = row["question_id"], row["text"]
                line = {"question_id": number, "question": question, "answer": by_id[id].text, "split": stem}
                lines.setdefault(stem, []).append(line)
        if path.suffix:
            write_lines(path, [line for part in lines.values() for line in part])
            return
        for stem, part in lines.items():
            write_lines(path / f"{stem}.jsonl", part)

    def read_export(self, path: Path) -> list[Answer]:
        """Reads what ``export`` writes, a file or a folder, and the files of the official tools.

        POPE's own are ``question`` and ``answer`` in the order of the question file that they are named after; LLaVA's
        are ``question_id`` and ``text``, one file for each question file, or one for all of ``llava_pope_test.jsonl``.
        :meth:`grade` finds their questions.
        """
        return pope_answers.read(path)

    def _files(self, data: Path) -> dict[str, list[dict[str, Any]]]:
        paths = sorted(find_files(data, _FILES, self), key=lambda path: (_rank(path.stem), path.stem))
        return {path.stem: _rows(path) for path in paths if path.name != pope_answers.LLAVA_QUESTIONS}


BENCH: Final = Pope()


def _rows(path: Path) -> list[dict[str, Any]]:
    rows = list(read_table(path))
    for number, row in enumerate(rows, start=1):
        answer_id(row, "question_id", f"{path}:{number}")
        for name in ("image", "text", "label"):
            row[name] = text_field(row, name, f"{path}:{number}")
    check_ids([str(row["question_id"]) for row in rows], str(path))
    return rows


def _rank(stem: str) -> int:
    source = stem.split("_")[0]
    return SOURCES.index(source) if source in SOURCES else len(SOURCES)


def _id(stem: str, row: Mapping[str, Any]) -> str:
    return f"{stem}/{row['question_id']}"


def _question(stem: str, row: Mapping[str, Any], pictures: PictureFiles) -> Question:
    id, text, images = _id(stem, row), row["text"], [pictures.named(row["image"])]
    return Question(
        id=id,
        prompt=picture_prompt(f"pope-{id}", f"{text}\n{INSTRUCTION}", images, {"answer": row["label"]}),
        meta={"category": stem, "max_new_tokens": _MAX_NEW_TOKENS, "prompts": {"official": text, "vlmevalkit": text}},
    )


def _chosen(files: dict[str, list[dict[str, Any]]], wanted: list[str] | None) -> dict[str, list[dict[str, Any]]]:
    if wanted is None:
        return files
    unknown = [name for name in wanted if name not in files]
    if unknown:
        raise DataError(f"there is no question file {unknown[0]}", source="pope", remedy=f"Found: {', '.join(files)}")
    return {name: files[name] for name in wanted}


def _grade(answer: Answer, row: Mapping[str, Any], protocol: str) -> Graded:
    read = READERS[protocol](answer.text)
    label_yes = row["label"] != "no"  # anything else is yes, as the script takes it
    counts = yes_no_counts(says_yes=read == "yes", says_no=read == "no", label_yes=label_yes)
    stem, right = answer.id.rpartition("/")[0], counts["tp"] + counts["tn"]
    return Graded(
        id=answer.id,
        cluster=row["image"],
        counts={f"{name}_{stem}": count for name, count in {**counts, "asked": 1.0}.items() if count},
        details={
            "answer": answer.text,
            "question": row["text"],
            "truth": "yes" if label_yes else "no",
            "read_as": read,
            "category": stem,
            "error": 1 - right,
        },
    )


def _pooled(graded: Sequence[Graded], protocol: str) -> dict[str, float]:
    sums: Counter[str] = Counter()
    for row in graded:
        stem = row.details["category"]
        sums.update({name: row.counts.get(f"{name}_{stem}", 0) for name in _COLUMNS})
    return _in_units(sums, len(graded), protocol)


def _in_units(sums: Mapping[str, float], answers: int, protocol: str) -> dict[str, float]:
    """The protocol's figures: fractions, or percent for VLMEvalKit and Cambrian."""
    if protocol == "vlmevalkit":
        # a positive that is not read as yes is missed, whatever else it is
        sums = {**sums, "fn": sums["label_yes"] - sums["tp"]}
        values = yes_no_figures(sums, answers)
        return {name: 100 * values[name] for name in ("f1", "accuracy", "precision", "recall")}
    values = yes_no_figures(sums, answers)
    if protocol == "cambrian":
        # in its order, for it prints all digits
        return {"accuracy": 100.0 * (sums["tp"] + sums["tn"]) / answers if answers else 0.0}
    if protocol == "lmms-eval":
        # its yes_ratio is counted over the labels, an oversight of the script
        values["yes_ratio"] = sums["label_yes"] / answers if answers else 0.0
    return values


def _of_files(graded: Sequence[Graded], stems: Sequence[str]) -> list[Graded]:
    return [row for row in graded if row.details["category"] in stems]


def _means(files: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: sum(figures[name] for figures in files) / len(files) for name in _FIGURES}


def _sources(stems: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for stem in stems:
        found.setdefault(stem.split("_")[0], []).append(stem)
    return found


def _formulas(stems: Sequence[str], protocol: str) -> dict[str, str]:
    """The figures of one source's files as expressions over the counts."""
    parts = [_formula({name: f"{name}_{stem}" for name in _COLUMNS}) for stem in stems]
    if protocol == "official":
        return {name: f"({' + '.join(part[name] for part in parts)}) / {len(parts)}" for name in _FIGURES}
    pooled = {name: f"({' + '.join(f'{name}_{stem}' for stem in stems)})" for name in _COLUMNS}
    formulas = _formula(pooled)
    if protocol == "lmms-eval":
        return {**formulas, "yes_ratio": f"{pooled['label_yes']} / {pooled['asked']}"}
    if protocol == "vlmevalkit":
        tp, fp, label_yes = pooled["tp"], pooled["fp"], pooled["label_yes"]
        formulas |= {"recall": f"{tp} / {label_yes}", "f1": f"2 * {tp} / ({tp} + {fp} + {label_yes})"}
        return {name: f"100 * ({formulas[name]})" for name in ("f1", "accuracy", "precision", "recall")}
    return {"accuracy": f"100 * {formulas['accuracy']}"}


def _formula(column: Mapping[str, str]) -> dict[str, str]:
    tp, fp, fn = column["tp"], column["fp"], column["fn"]
    return {
        "accuracy": f"({tp} + {column['tn']}) / {column['asked']}",
        "precision": f"{tp} / ({tp} + {fp})",
        "recall": f"{tp} / ({tp} + {fn})",
        "f1": f"2 * {tp} / (2 * {tp} + {fp} + {fn})",
        "yes_ratio": f"{column['said_yes']} / {column['asked']}",
    }


def _notes(graded: Sequence[Graded], protocol: str) -> list[str]:
    notes = []
    if not any(row.details["read_as"] == "yes" for row in graded):
        notes.append("no answer is yes: precision is not defined and shown as 0 (the official script stops)")
    if protocol == "official" and all(vlmeval_yes_no(row.details["answer"]) == "unknown" for row in graded):
        notes.append("no answer holds yes or no: the script takes them for yes, so these figures say nothing")
    lost = [row.id for row in graded if row.details["read_as"] not in ("yes", "no")]
    if lost:
        notes.append(f"{len(lost)} answers are neither yes nor no under protocol {protocol} and count as wrong")
    return notes
