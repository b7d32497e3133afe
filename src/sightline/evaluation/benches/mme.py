"""MME (Fu et al. 2023, arXiv:2306.13394): 14 tasks, two yes/no questions about each picture.

The score of a task is its accuracy plus its accuracy+ (pictures with both answers right), each in percent: at most
200. Perception sums 10 tasks, cognition 4. Needs no judge.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sightline.errors import DataError
from sightline.evaluation.accuracy import Row, column, grade_row
from sightline.evaluation.bench import (
    ANSWERS,
    Answer,
    Graded,
    Judge,
    Question,
    Result,
    check_options,
    check_protocol,
    match_ids,
)
from sightline.evaluation.json_files import read_text
from sightline.evaluation.tables import PictureFiles, find_files, picture_prompt, read_tables, text_field
from sightline.evaluation.yes_no import vlmeval_yes_no
from sightline.files import replace_file

PERCEPTION: Final = (
    *("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR"),
)
COGNITION: Final = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
TASKS: Final = (*PERCEPTION, *COGNITION)
SHORT_ANSWER: Final = "Answer the question using a single word or phrase."
_INSTRUCTION: Final = " Please answer yes or no."
_PLACED: Final = re.compile(r"(.*?)#(\d+)#(.*)", re.DOTALL)
"""``OCR/0001.jpg#2#Is the word ...?``: the second line about that picture, which asks this."""
_FILES: Final = ("data/test-*.parquet", "test-*.parquet", "*.parquet", "MME.tsv")
_COLUMNS: Final = ("asked", "correct", "plus")
_PICTURES: Final = (".jpg", ".png", ".jpeg")


@dataclass(frozen=True, kw_only=True)
class MME:
    """MME under its own script's rule, lmms-eval's and VLMEvalKit's."""

    name: str = "mme"
    protocols: tuple[str, ...] = ("official", "lmms-eval", "vlmevalkit")
    needs: str = (
        "MME_Benchmark_release_version (a folder for each task, with pictures and question files), the hub dataset "
        "lmms-lab/MME (data/test-*.parquet), or VLMEvalKit's MME.tsv; no judge"
    )

    def questions(self, data: Path) -> list[Question]:
        """All rows, asked as LLaVA and lmms-eval do; ``meta["prompts"]``: the bare question of the release."""
        return [
            Question(
                id=row.id,
                prompt=picture_prompt(
                    row.id,
                    f"{row.text.replace(_INSTRUCTION, '')}\n{SHORT_ANSWER}",
                    [row.image],
                    {"answer": row.truth},
                ),
                meta={
                    "category": row.category,
                    "max_new_tokens": 16,
                    "prompts": {"official": row.text, "vlmevalkit": row.text},
                },
            )
            for row in self._rows(data, pictures=True)
        ]

    def grade(
        self, data: Path, answers: Sequence[Answer], protocol: str, options: Mapping[str, Any], judge: Judge | None
    ) -> Result:
        """Perception, cognition and their sum; by task the score, accuracy and accuracy+."""
        check_protocol(self, protocol)
        check_options(self.name, options, ())
        rows = self._rows(data)
        graded = _grade(rows, match_ids([row.id for row in rows], _placed(rows, answers)), protocol)
        by_task = {task: _task(graded, task) for task in TASKS if any(row.category == task for row in rows)}
        metrics = {
            name: _total([by_task[task]["score"] for task in _order(tasks, protocol) if task in by_task])
            for name, tasks in (("perception", PERCEPTION), ("cognition", COGNITION))
        }
        metrics["total"] = metrics["perception"] + metrics["cognition"]
        missing = [task for task in TASKS if task not in by_task]
        other = sum(row.details["read"] == "other" for row in graded)
        return Result(
            bench=self.name,
            protocol=protocol,
            metrics=metrics,
            metrics_printed={
                name: f"{value:.4f}" if protocol == "lmms-eval" else str(value) for name, value in metrics.items()
            },
            by_category=by_task,
            graded=graded,
            notes=[
                f"{other} answers are neither yes nor no and count as wrong",
                *([f"no questions of {', '.join(missing)}: the sums leave them out"] if missing else []),
            ],
            formulas=_formulas(list(by_task)),
        )

    def export(self, data: Path, answers: Sequence[Answer], path: Path) -> None:
        """The folder that the official script reads: a file for each task, picture, question, truth, answer.

        Tabs and line ends in an answer become blanks: the format has no room for them.
        """
        rows = self._rows(data)
        matched = match_ids([row.id for row in rows], _placed(rows, answers))
        lines: dict[str, list[str]] = {}
        for row, answer in zip(rows, matched, strict=True):
            text = re.sub(r"[\t\r\n]", " ", answer.text)
            lines.setdefault(row.category, []).append(f"{_name(row)}\t{row.text}\t{row.truth}\t{text}\n")
        for task, content in lines.items():
            replace_file(path / f"{task}.txt", "".join(content))

    def read_export(self, path: Path) -> list[Answer]:
        """Reads such a folder. An id names picture, place and question of a line; :meth:`grade` finds its question."""
        answers = []
        for file in sorted(path.glob("*.txt")):
            seen: dict[str, int] = {}
            # split("\n"), not splitlines(): an answer may hold other line ends of Unicode
            for number, line in enumerate(read_text(file).split("\n"), start=1):
                if not line:
                    continue
                cells = line.split("\t")
                if len(cells) != 4:
                    raise DataError(
                        f"has {len(cells)} columns, expected picture, question, truth, answer",
                        source=f"{file}:{number}",
                    )
                seen[cells[0]] = seen.get(cells[0], 0) + 1
                id = f"{_id(file.stem, cells[0], seen[cells[0]])}#{cells[1]}"
                answers.append(Answer(id=id, text=cells[3]))
        if not answers:
            raise DataError("found no answers in TASK.txt files", source=str(path), remedy="Give the folder of them")
        return answers

    def _rows(self, data: Path, *, pictures: bool = False) -> list[Row]:
        folders = [data / task for task in TASKS if (data / task).is_dir()]
        rows = _release_rows(folders) if folders else self._table_rows(data, pictures=pictures)
        asked: dict[str, int] = {}
        for row in rows:
            asked[row.cluster] = asked.get(row.cluster, 0) + 1
        odd = [name for name, count in asked.items() if count != 2]
        if odd or not rows:
            raise DataError(
                f"{len(odd)} pictures have not two questions ({', '.join(f'{one:.100}' for one in odd[:5])})",
                source=f"{self.name}: {data}",
                remedy="MME grades pairs: take the files as released",
            )
        return rows

    def _table_rows(self, data: Path, *, pictures: bool) -> list[Row]:
        files = find_files(data, _FILES, self)
        images = PictureFiles(data)
        rows: list[Row] = []
        seen: dict[tuple[str, str], int] = {}
        for row, source in read_tables(files, pictures=pictures):
            task = text_field(row, "category", source)
            by_path = row.get("question_id") is None and row.get("image_path") is not None
            name = Path(text_field(row, "image_path" if by_path else "question_id", source)).name
            seen[task, name] = seen.get((task, name), 0) + 1
            image = images.of_row(row, f"{task}/{name}", source) if pictures else ""
            truth = text_field(row, "answer", source)
            rows.append(_row(task, name, seen[task, name], (text_field(row, "question", source), truth), image))
        return rows


def parse_official(answer: str) -> str:
    """``yes``, ``no`` or ``other``: the answer, or else one of the words within its first four characters.

    Nothing is stripped, and "know", "none" and "not" are no.
    """
    text = answer.lower()
    if text in ("yes", "no"):
        return text
    return "yes" if "yes" in text[:4] else "no" if "no" in text[:4] else "other"


def parse_lmms(answer: str) -> str:
    """lmms-eval: as official, with blanks and full stops removed first, and y and n understood."""
    text = answer.lower().strip().replace(".", "")
    if len(text) == 1:
        return {"y": "yes", "n": "no"}.get(text, "other")
    return parse_official(text)


def parse_vlmeval(answer: str) -> str:
    """VLMEvalKit: exactly one of yes and no among the words."""
    word = vlmeval_yes_no(answer)
    return word if word in ("yes", "no") else "other"


_PARSERS: Final = {"official": parse_official, "lmms-eval": parse_lmms, "vlmevalkit": parse_vlmeval}


def _placed(rows: Sequence[Row], answers: Sequence[Answer]) -> list[Answer]:
    """The answers of a submission under the ids of their questions: the two about a picture may have changed places.

    Raises:
        DataError: A line asks what no question about its picture does.
    """
    pictures = {row.cluster for row in rows}
    ids = {(row.cluster, _bare(row.text)): row.id for row in rows}

    def id(given: str) -> str:
        place = _PLACED.fullmatch(given)
        if place is None or place[1] not in pictures:
            return given
        found = ids.get((place[1], _bare(place[3])))
        if found is None:
            told = f"a line of {place[1]} asks {place[3]!r:.100}, and no question about this picture does"
            raise DataError(told, source=ANSWERS, remedy="Take the questions of the release, as they are worded there")
        return found

    return [Answer(id=id(one.id), text=one.text) for one in answers]


def _bare(question: str) -> str:
    """A question without how to answer it, and with single blanks."""
    return " ".join(question.replace(_INSTRUCTION.strip(), "").replace(SHORT_ANSWER, "").split())


def _grade(rows: Sequence[Row], answers: Sequence[Answer], protocol: str) -> list[Graded]:
    read = [_PARSERS[protocol](answer.text) for answer in answers]
    hits = [float(one == row.truth.lower()) for one, row in zip(read, rows, strict=True)]
    right: dict[str, float] = {}
    for row, hit in zip(rows, hits, strict=True):
        right[row.cluster] = right.get(row.cluster, 0) + hit
    graded = []
    for row, answer, one, hit in zip(rows, answers, read, hits, strict=True):
        name = column(row.category)
        # half a picture each: the two rows of a picture are one cluster
        counts = {f"{name}_asked": 1.0, f"{name}_correct": hit, f"{name}_plus": float(right[row.cluster] == 2)}
        graded.append(grade_row(row, answer.text, hit, one, **counts))
    return graded


def _task(graded: Sequence[Graded], task: str) -> dict[str, float]:
    name = column(task)
    asked, correct, plus = (sum(row.counts.get(f"{name}_{what}", 0) for row in graded) for what in _COLUMNS)
    accuracy, both = correct / asked, plus / asked
    return {"score": accuracy * 100 + both * 100, "accuracy": accuracy * 100, "accuracy_plus": both * 100}


def _order(tasks: Sequence[str], protocol: str) -> Sequence[str]:
    """The order in which the protocol's script adds: it shows in the last digit of the sum."""
    return sorted(tasks) if protocol == "vlmevalkit" else tasks


def _total(scores: Sequence[float]) -> float:
    """One after the other, as the scripts add; ``sum`` of newer Pythons corrects its rounding."""
    total = 0.0
    for score in scores:
        total += score
    return total


def _formulas(tasks: Sequence[str]) -> dict[str, str]:
    def total(names: Sequence[str]) -> str:
        terms = [f"({column(name)}_correct + {column(name)}_plus) / {column(name)}_asked" for name in names]
        return f"100 * ({' + '.join(terms)})"

    parts = {"perception": PERCEPTION, "cognition": COGNITION, "total": TASKS}
    found = {figure: [name for name in names if name in tasks] for figure, names in parts.items()}
    return {figure: total(names) for figure, names in found.items() if names}


def _release_rows(folders: Sequence[Path]) -> list[Row]:
    """Rows of the release: TASK/questions_answers_YN/NAME.txt and TASK/images/NAME.jpg, or both in TASK."""
    rows = []
    for folder in folders:
        nested = folder / "questions_answers_YN"
        for file in sorted((nested if nested.is_dir() else folder).glob("*.txt")):
            places = [folder / "images", folder]
            found = [place / f"{file.stem}{end}" for place in places for end in _PICTURES]
            image = next((path for path in found if path.is_file()), found[0])
            # split("\n"), not splitlines(): a question may hold other line ends of Unicode
            text = read_text(file).removeprefix("\ufeff")
            lines = [line for line in text.split("\n") if line.strip()]
            for number, line in enumerate(lines, start=1):
                question, _, truth = line.partition("\t")
                rows.append(_row(folder.name, image.name, number, (question, truth), str(image)))
    return rows


def _row(task: str, picture: str, number: int, question: tuple[str, str], image: str) -> Row:
    text, truth = question[0].strip(), question[1].strip()
    if truth.lower() not in ("yes", "no") or task not in TASKS:
        raise DataError(
            f"truth {truth!r:.100} of task {task!r:.100}",
            source=f"mme: {task}/{picture:.100}",
            remedy="Expected Yes or No",
        )
    return Row(
        id=_id(task, picture, number),
        text=text,
        truth=truth,
        category=task,
        cluster=f"{task}/{picture}",
        image=image,
        extra={"picture": picture},
    )


def _id(task: str, picture: str, number: int) -> str:
    return f"{task}/{picture}#{number}"


def _name(row: Row) -> str:
    return str((row.extra or {})["picture"])


BENCH: Final = MME()
