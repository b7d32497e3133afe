"""Answer files of POPE: our own, those of POPE's script, and LLaVA's.

POPE's rows name their question by its place in the file, LLaVA's by a number of ``llava_pope_test.jsonl``, whose
categories stand for the question files. Neither holds the id of a question: ids made here say how it is found.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from sightline.errors import DataError
from sightline.evaluation.bench import ANSWERS, Answer
from sightline.evaluation.submissions import answer_id, answers_of, submitted_rows
from sightline.evaluation.tables import field, read_table

LLAVA_QUESTIONS: Final = "llava_pope_test.jsonl"
"""The question file of LLaVA: all of COCO in one, told apart by ``category``."""
_PLACED: Final = re.compile(r"([^#]+)#(\d+)#(.*)", re.DOTALL)
"""``coco_pope_random#3#Is there ...?``: the third row of that file, which asks this."""

Files = Mapping[str, Sequence[Mapping[str, Any]]]
"""Rows of the question files by their names."""


def read(path: Path) -> list[Answer]:
    """The answers of a file or of a folder with one for each question file.

    Raises:
        DataError: A row has no answer, or a column is of a wrong type.
    """
    counted: dict[str, int] = {}

    def id(row: Mapping[str, Any], source: str) -> str:
        stem = row.get("split", Path(source.rpartition(":")[0]).stem)
        if not isinstance(stem, str):
            raise DataError(f"'split' is {stem!r:.100}", source=source, remedy="Expected the name of a question file")
        counted[stem] = counted.get(stem, 0) + 1
        if "question_id" in row or "question" not in row:
            return f"{stem}/{answer_id(row, 'question_id', source)}"
        return f"{stem}#{counted[stem]}#{field(row, 'question', source)}"

    return answers_of(submitted_rows(path), id, ("answer", "text"))


def placed(answers: Sequence[Answer], files: Files, data: Path) -> list[Answer]:
    """The answers under the ids of their questions.

    Raises:
        DataError: A row asks another thing than the question in its place, or a file is named after no question file.
    """
    elsewhere = {one.id for one in answers if one.id.rpartition("/")[0] not in files and not _PLACED.fullmatch(one.id)}
    found = _llava_ids(data, files) if elsewhere else {}

    def id(given: str) -> str:
        if place := _PLACED.fullmatch(given):
            return _by_place(place[1], place[2], place[3], files)
        return found.get(given.rpartition("/")[2], given) if given in elsewhere else given

    return [Answer(id=id(one.id), text=one.text) for one in answers]


def _by_place(stem: str, place: str, asked: str, files: Files) -> str:
    if stem not in files:
        raise DataError(
            f"rows without question_id stand in a file named {stem}, and no question file is called so",
            source=ANSWERS,
            remedy=f"Name it as its question file: {', '.join(files)}",
        )
    rows = files[stem]
    if int(place) > len(rows):
        raise DataError(f"{stem} has {len(rows)} questions, and more answers", source=ANSWERS, remedy="Give one each")
    row = rows[int(place) - 1]
    if asked.strip() != str(row["text"]).strip():
        raise DataError(
            f"row {place} of {stem} asks {asked!r:.100}, and the question file {row['text']!r:.100}",
            source=ANSWERS,
            remedy="Keep the order of the question file",
        )
    return f"{stem}/{row['question_id']}"


def _llava_ids(data: Path, files: Files) -> dict[str, str]:
    """LLaVA's number of a question to our id; empty without its question file."""
    folder = data if data.is_dir() else data.parent
    path = folder / LLAVA_QUESTIONS
    if not path.is_file():
        return {}
    found, seen = {}, dict[str, int]()
    for number, row in enumerate(read_table(path), start=1):
        source = f"{path}:{number}"
        stem = f"coco_pope_{field(row, 'category', source)}"
        place = seen[stem] = seen.get(stem, 0) + 1
        if stem not in files:
            continue
        asked = str(field(row, "text", source)).split("\n")[0]
        if place > len(files[stem]) or asked.strip() != str(files[stem][place - 1]["text"]).strip():
            raise DataError(
                f"row {place} of category {field(row, 'category', source)} is not the question of {stem} there",
                source=source,
                remedy="Take the question files that LLaVA's goes with",
            )
        found[answer_id(row, "question_id", source)] = f"{stem}/{files[stem][place - 1]['question_id']}"
    return found
