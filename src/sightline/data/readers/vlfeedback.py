"""Answers with ratings: VLFeedback and the mixes made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sightline.data.readers.conversation import Reading
from sightline.data.readers.rows import RowError, is_finite
from sightline.data.readers.trl import read_trl
from sightline.relations.scores import ranked
from sightline.types import Group, Response

_MOST = 200
"""Answers that are compared, each two with each other."""


def read_vlfeedback(row: Mapping[str, Any], reading: Reading) -> Group:
    """A Group of all rated answers to one prompt, and an edge between any two whose rewards differ.

    ``completions`` is a list of ``{response, annotations}``, or the lists of each under its name, as tables store it.
    An annotation is an aspect with its ``Rating``. The reward of an answer is the mean of its ratings, as for Silkie
    (Li et al. 2023, arXiv 2312.10665); ``rewards`` has each. An answer with a rating that is no number (``N/A``) is
    left out, and the note of the source says how many were.

    Raises:
        RowError: What is wrong with the row, or no answer is rated.
    """
    answers = [_answer(item, i) for i, item in enumerate(_listed(row.get("completions")))]
    rated = [answer for answer in answers if answer is not None]
    reading.left_out["answers without a rating"] += len(answers) - len(rated)
    if not rated:
        raise RowError("no score", "no answer in 'completions' has a rating", remedy="Leave the row out")
    if len(rated) > _MOST:
        raise RowError("malformed", f"'completions' has {len(rated)} answers", remedy=f"Give {_MOST} at most")
    for name in ("chosen", "rejected", "completion", "messages"):
        if row.get(name) is not None:
            found = f"found both 'completions' and '{name}'"
            raise RowError("malformed", found, remedy="Remove one of the two columns")
    rest = {name: value for name, value in row.items() if name not in ("completions", "img_path")}
    if not rest.get("image") and not rest.get("images") and row.get("img_path"):
        rest["image"] = row["img_path"]
    group = replace(read_trl(rest, reading), responses=tuple(rated))
    return ranked(group) if reading.relate else group


def _listed(completions: Any) -> Sequence[Any]:
    """The answers one by one, from a list of them or from a table's list per column."""
    if isinstance(completions, Mapping):
        columns = [value for value in completions.values() if isinstance(value, list | tuple)]
        if len(columns) < len(completions) or len({len(column) for column in columns}) != 1:
            raise RowError("malformed", "'completions' holds columns that are no lists of one length")
        completions = [dict(zip(completions, values, strict=True)) for values in zip(*columns, strict=True)]
    if not isinstance(completions, list | tuple) or not completions:
        found = f"'completions' is {completions!r:.60}, expected a list of answers"
        raise RowError("malformed", found, remedy="An answer has response, and annotations with a Rating each")
    return completions


def _answer(item: Any, index: int) -> Response | None:
    where = f"completions[{index}]"
    if not isinstance(item, Mapping) or not isinstance(item.get("response"), str):
        found = f"'{where}' is {item!r:.60}, expected an answer with response and annotations"
        raise RowError("malformed", found, remedy="Steps with labels need a column 'labels'")
    ratings = _ratings(item, where)
    if ratings is None:
        return None
    reward = sum(ratings.values()) / len(ratings)
    return Response(text=item["response"], reward=reward, rewards=ratings)


def _ratings(item: Mapping[str, Any], where: str) -> dict[str, float] | None:
    """Rating of each aspect; None where one is no number."""
    annotations = item.get("annotations")
    if annotations is None:
        annotations = {name: item[name] for name in ("rating", "score") if item.get(name) is not None}
    if not isinstance(annotations, Mapping):
        raise RowError("malformed", f"'{where}.annotations' is {annotations!r:.60}, expected an aspect with its Rating")
    ratings: dict[str, float] = {}
    for aspect, found in annotations.items():
        if found is None:  # tables give every answer the aspects of all
            continue
        given = found.get("Rating") if isinstance(found, Mapping) else found
        number = _number(given)
        if number is None:
            return None
        ratings[aspect] = number
    return ratings or None


def _number(given: Any) -> float | None:
    try:
        number = float(given) if isinstance(given, str) else given
    except ValueError:
        return None
    return float(number) if is_finite(number) else None
