"""ScienceQA (Lu et al. 2022, arXiv:2209.09513): the 2,017 test questions with a picture.

``official`` is the rule of LLaVA's ``eval_science_qa.py``, whose IMG-Accuracy is what papers on vision-language models
quote. Figures are percent. Needs no judge; ``vlmevalkit`` may use one.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sightline.errors import DataError
from sightline.evaluation.accuracy import ACCURACY, PERCENT, Row, accuracies, accuracy, grade_row
from sightline.evaluation.bench import Answer, Judge, Question, Result, check_options, check_protocol, match_ids
from sightline.evaluation.choices import ANSWER_WITH_LETTER, cambrian_tail, vlmeval_options, vlmeval_prompt
from sightline.evaluation.json_files import read_json
from sightline.evaluation.option_match import NOTHING, OptionMatch, match_options
from sightline.evaluation.submissions import read_answers
from sightline.evaluation.tables import (
    DOWNLOAD_AGAIN,
    PictureFiles,
    check_ids,
    field,
    find_files,
    object_of,
    optional_text,
    picture_prompt,
    read_tables,
    text_field,
    texts_field,
    write_lines,
)

LETTERS: Final = "ABCDE"
_RELEASE: Final = "problems.json"
_FILES: Final = ("data/test-*.parquet", "ScienceQA-IMG/test-*.parquet", "test-*.parquet", "sci_qa*.json")
_STATED: Final = re.compile(r"The answer is ([A-Z]).")
"""The full stop is any character but a line end: a letter at the very end of the answer is not found."""
_BRACKETED: Final = re.compile(r"\(([A-E])\) (.*?)\s*(?=\([A-E]\) |\n|$)")
_NO_PUNCTUATION: Final = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True, kw_only=True)
class ScienceQA:
    """The picture questions of ScienceQA under LLaVA's rule, lmms-eval's, Cambrian's and VLMEvalKit's."""

    name: str = "scienceqa"
    protocols: tuple[str, ...] = ("official", "lmms-eval", "cambrian", "vlmevalkit")
    needs: str = (
        "the release (problems.json, pid_splits.json, images/test/ID/image.png), the hub dataset lmms-lab/ScienceQA "
        "(ScienceQA-IMG/test-*.parquet), or sci_qa_test.json of Vision-LLM-Alignment with its pictures; no judge"
    )

    def questions(self, data: Path) -> list[Question]:
        """The test questions that have a picture; ``meta["prompts"]``: VLMEvalKit's wording."""
        return [
            Question(
                id=row.id,
                prompt=picture_prompt(row.id, row.text, [row.image], {"answer": row.truth}),
                meta={"category": row.category, "max_new_tokens": 16, "prompts": _prompts(row)},
            )
            for row in self._rows(data, pictures=True)
        ]

    def grade(
        self, data: Path, answers: Sequence[Answer], protocol: str, options: Mapping[str, Any], judge: Judge | None
    ) -> Result:
        """Accuracy on the questions with a picture: percent officially, a fraction under the other protocols.

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
            graded.append(grade_row(row, answer.text, hit, read))
        percent = protocol == "official"
        fraction = accuracy(graded)
        correct = sum(row.counts["correct"] for row in graded)
        printed = {
            "official": f"{correct / len(rows) * 100:.2f}%",
            "lmms-eval": f"{fraction:.4f}",
            "cambrian": str(fraction),
            "vlmevalkit": str(fraction),
        }
        return Result(
            bench=self.name,
            protocol=protocol,
            metrics={"accuracy": 100 * fraction if percent else fraction},
            metrics_printed={"accuracy": printed[protocol]},
            by_category=accuracies(graded, [row.category for row in rows], scale=100.0 if percent else 1.0),
            graded=graded,
            notes=["questions with a picture only", *told.notes],
            failures=told.failures,
            formulas={"accuracy": PERCENT if percent else ACCURACY},
        )

    def export(self, data: Path, answers: Sequence[Answer], path: Path) -> None:
        """LLaVA's answer file, JSON lines; "<image>" in the prompt is how its script knows picture questions."""
        rows = self._rows(data)
        write_lines(
            path,
            (
                {"question_id": row.id, "prompt": f"<image>\n{row.text}", "text": answer.text}
                for row, answer in zip(rows, match_ids([row.id for row in rows], answers), strict=True)
            ),
        )

    def read_export(self, path: Path) -> list[Answer]:
        """Reads that file."""
        return read_answers(path, "question_id", ("text",))

    def _rows(self, data: Path, *, pictures: bool = False) -> list[Row]:
        release = data / _RELEASE if data.is_dir() else data
        if release.name == _RELEASE and release.is_file():
            return _release_rows(release)
        files = find_files(data, _FILES, self)
        images = PictureFiles(data, ("images/test", "images", "sci_qa_images", "sci_qa_test_image", "."))
        rows = []
        for number, (row, source) in enumerate(read_tables(files, pictures=pictures), start=1):
            if "conversations" in row:
                rows.append(_conversation_row(row, images.named(text_field(row, "image", source)), source))
                continue
            if row.get("image") is None:
                continue
            key = next((name for name in ("id", "question_id") if name in row), None)
            id = str(number) if key is None else text_field(row, key, source)
            image = images.of_row(row, f"{id}/image.png", source) if pictures else ""
            rows.append(_problem_row(id, row, image, source))
        check_ids([row.id for row in rows], str(files[0]))
        if not rows:
            raise DataError("holds no question with a picture", source=str(files[0]), remedy=DOWNLOAD_AGAIN)
        return rows


def read_official(answer: str) -> str:
    """The letter that LLaVA's script reads; "FAILED" where there is none.

    The bare letter, a letter and ". " at the beginning, or what stands behind the only "The answer is" that one more
    character follows. Case matters, and nothing is stripped.
    """
    if answer in tuple(LETTERS):
        return answer
    if len(answer) >= 3 and answer[0] in LETTERS and answer[1:3] == ". ":
        return answer[0]
    stated = _STATED.findall(answer)
    return str(stated[0]) if len(stated) == 1 else "FAILED"


def _prompts(row: Row) -> dict[str, str]:
    """VLMEvalKit's wording, where the row has question and hint apart."""
    asked = row.extra or {}
    options = vlmeval_options(row.options or {})
    return {"vlmevalkit": vlmeval_prompt(asked["question"], options, asked["hint"])} if asked else {}


def _hit(row: Row, answer: str, protocol: str, told: OptionMatch) -> tuple[float, str | None]:
    options = row.options or {}
    if protocol == "vlmevalkit":
        return float(told.letters[row.id] == row.truth), told.letters[row.id]
    if protocol == "official":
        read = read_official(answer)
        return float(read == row.truth and read in options), read
    if protocol == "lmms-eval":
        said, truth = answer.strip(), row.truth.lower()
        begins = len(said) >= 2 and said[0].isupper() and said[1] == "."
        return float(said.lower() == truth or (begins and said[0].lower() == truth)), None
    tail = cambrian_tail(answer).rstrip(".")
    same = _plain(tail) == _plain(options[row.truth].lower().strip())
    return float(same or tail.split(".")[0] == row.truth.lower()), None


def _plain(text: str) -> str:
    return text.translate(_NO_PUNCTUATION).lower().strip()


def _release_rows(release: Path) -> list[Row]:
    """Rows of the authors' release: the test split, questions with a picture."""
    problems = object_of(read_json(release), str(release))
    splits = release.with_name("pid_splits.json")
    if not splits.is_file():
        raise DataError("is missing", source=str(splits), remedy="It is part of the release of ScienceQA")
    rows = []
    tested = texts_field(object_of(read_json(splits), str(splits)), "test", str(splits))
    check_ids(tested, str(splits))
    for id in tested:
        source = f"{release}: problem {id:.100}"
        problem = object_of(field(problems, id, str(release)), source)
        if name := optional_text(problem, "image", source):
            rows.append(_problem_row(id, problem, str(release.parent / "images/test" / id / name), source))
    if not rows:
        raise DataError("holds no test question with a picture", source=str(release), remedy=DOWNLOAD_AGAIN)
    return rows


def _problem_row(id: str, problem: Mapping[str, Any], image: str, source: str) -> Row:
    """A row with question, choices, index of the answer and hint; asked as LLaVA does."""
    choices = texts_field(problem, "choices", source)
    answer = field(problem, "answer", source)
    if isinstance(answer, bool) or not isinstance(answer, int):
        raise DataError(f"'answer' is {answer!r:.100}", source=source, remedy="Expected the index of a choice")
    if not 0 <= answer < min(len(choices), len(LETTERS)):
        raise DataError(f"answer {answer} is no index of {len(choices)} choices", source=source)
    options = dict(zip(LETTERS, choices, strict=False))
    told = optional_text(problem, "hint", source)
    hint, asked = f"Context: {told}\n" if told else "", text_field(problem, "question", source)
    listed = "\n".join(f"{letter}. {choice}" for letter, choice in options.items())
    return Row(
        id=id,
        text=f"{hint}{asked}\n{listed}\n{ANSWER_WITH_LETTER}",
        truth=LETTERS[answer],
        category=optional_text(problem, "subject", source),
        image=image,
        options=options,
        extra={"question": asked, "hint": told},
    )


def _conversation_row(row: Mapping[str, Any], image: str, source: str) -> Row:
    """A row of Vision-LLM-Alignment: the question as one human turn, the letter as ``label``."""
    turns = field(row, "conversations", source)
    if not isinstance(turns, list) or not turns:
        raise DataError(f"'conversations' is {turns!r:.100}", source=source, remedy="Expected a list of turns")
    text = text_field(object_of(turns[0], source), "value", source)
    options = dict(_BRACKETED.findall(text.partition("Options:")[2]))
    truth = text_field(row, "label", source).strip()
    if truth not in options:
        raise DataError(f"label {truth!r:.100} is none of the options {', '.join(options)}", source=source)
    return Row(id=text_field(row, "id", source), text=text, truth=truth, image=image, options=options)


BENCH: Final = ScienceQA()
