"""From a conversation and its answers to a Group: what the readers share."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sightline.data.readers.chat import PLACEHOLDER, Turn, check_order, messages_of, parse_turn, place_pictures
from sightline.data.readers.pictures import Pictures
from sightline.data.readers.rows import RowError
from sightline.data.readers.unread import check_marks, looks_like_picture, unread
from sightline.types import Edge, Group, Prompt, Response

_MOST_RANKED = 200
_PAIR = "Write the conversation up to the question as prompt, and both answers as chosen and rejected"
_SAID = {
    "history": "Write earlier turns as turns of the conversation",
    "system_prompt": "Rename it (rename: {system_prompt: system})",
    "rejected_response": _PAIR,
    "rejected_messages": _PAIR,
    "tools": "Write what the tools said as turns: tool calls are not rendered",
    "audio": "Remove it: nothing here hears",
    "audios": "Remove it: nothing here hears",
}
"""Names under which other tools read turns; as facts they would be left out of what is trained, without a word."""
_EMPTY = ("[]", "{}")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a reader needs beside the row itself."""

    pictures: Pictures
    id: str
    """Identity of the prompt."""
    train_history: bool = True
    """Earlier assistant turns of supervised rows are trained."""
    relate: bool = True
    """Rows with a chosen and a rejected answer get an edge."""
    left_out: Counter[str] = field(default_factory=Counter)
    """How much of rows that are kept was left out, by what it is: added to by readers, told once per source."""


def build_prompt(
    turns: Sequence[Turn],
    pictures: Sequence[Any],
    reading: Reading,
    facts: Mapping[str, Any],
    *,
    together: bool = False,
    train_history: bool = False,
) -> Prompt:
    """A checked Prompt from the turns up to the last question.

    Raises:
        RowError: Turns out of order or empty, pictures that do not match their places, a missing file.
    """
    check_order(turns)
    if turns[-1].role != "user":
        remedy = "End it with a user turn, and join neighbouring turns of one speaker"
        raise RowError("malformed", "an answer is followed by an answer, expected a question before it", remedy=remedy)
    placed, ordered = place_pictures(turns, pictures, together=together)
    if not ordered:
        for turn in placed:
            check_marks(turn.text)
    return Prompt(
        id=reading.id,
        messages=messages_of(placed, train_history=train_history),
        images=tuple(reading.pictures.path(picture) for picture in ordered),
        facts=facts,
    )


def with_system(turns: Sequence[Turn], row: Mapping[str, Any]) -> list[Turn]:
    """The turns behind the row's ``system``, where it has one.

    Raises:
        RowError: The turns begin with another.
    """
    system = row.get("system")
    if not system:
        return list(turns)
    if turns and turns[0].role == "system":
        raise RowError("malformed", "found 'system' and a system turn", remedy="Keep one of the two")
    return [parse_turn({"role": "system", "content": system}, "system"), *turns]


def split_answer(turns: Sequence[Turn]) -> tuple[list[Turn], str | None]:
    """The turns up to the last question, and the answer where one follows.

    Raises:
        RowError: The answer says that it is not to be trained, so that its turn teaches nothing.
    """
    if turns and turns[-1].role == "assistant":
        if turns[-1].weight == 0:
            remedy = "Leave the last question and its answer out, or remove the weight"
            raise RowError("no answer", "the last answer has weight 0, which says not to train it", remedy=remedy)
        return list(turns[:-1]), answer_text(turns[-1])
    return list(turns), None


def answer_text(turn: Turn) -> str:
    """The text of an answer.

    Raises:
        RowError: It is by somebody else, or holds a picture.
    """
    if turn.role != "assistant":
        raise RowError("unknown role", f"an answer is by {turn.role}", remedy="Answers are by assistant (or gpt)")
    if turn.has_picture:
        raise RowError("placeholders", f"an answer holds a picture ({PLACEHOLDER})", remedy="Remove it from the answer")
    return turn.text


def ranked(prompt: Prompt, answers: Sequence[str], reading: Reading) -> Group:
    """A Group of answers ordered from best to worst, each better than all after it.

    Raises:
        RowError: So many that their comparisons, one for each two, would fill the memory.
    """
    if len(answers) > _MOST_RANKED:
        found = f"{len(answers)} answers are ranked, which makes {len(answers) * (len(answers) - 1) // 2} comparisons"
        raise RowError("malformed", found, remedy=f"Rank {_MOST_RANKED} at most: it may be a text cut into characters")
    pairs = [(i, j) for i in range(len(answers)) for j in range(i + 1, len(answers))]
    edges = tuple(Edge(winner=i, loser=j) for i, j in pairs) if reading.relate else ()
    return Group(prompts=(prompt,), responses=tuple(Response(text=answer) for answer in answers), edges=edges)


def with_negative(group: Group, other: Prompt) -> Group:
    """The group with the same question about the picture of the rejected answer; as it is, if that is its picture.

    Both answers hang on the true picture, as in the ``dpo``, ``mdpo`` and ``orm`` strategies of OViP
    (arXiv 2505.15963): text against text under one image. The second prompt bears no response; relations
    that compare pictures (y+ under I+ over y+ under I-) start from it.
    """
    if other.images == group.prompts[0].images:
        return group
    return replace(group, prompts=(*group.prompts, replace(other, id=f"{group.id}/negative")))


def as_list(value: Any) -> list[Any]:
    """Pictures of a column that holds one, several or none."""
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def facts_of(row: Mapping[str, Any], used: frozenset[str]) -> dict[str, Any]:
    """Columns that the reader does not use, kept for rewards and graders.

    Raises:
        RowError: A column is no plain JSON, so that it could not be kept, or a part of the conversation.
    """
    facts = {name: value for name, value in row.items() if name not in used and not _is_missing(value)}
    for name, remedy in _SAID.items():
        if facts.get(name) and facts[name] not in _EMPTY:
            found = f"column '{name}' is a part of the conversation and is not read: {facts[name]!r:.60}"
            raise RowError("malformed", found, remedy=remedy)
    own = facts.pop("facts", {})
    if not isinstance(own, Mapping):
        raise RowError("malformed", f"'facts' is {own!r:.60}, expected an object")
    for name, value in facts.items():
        if looks_like_picture(value) and not _is_json(value):
            raise unread(name, value)
        if not _is_json(value):
            remedy = "Remove the column or store it as text"
            raise RowError("malformed", f"column '{name}' holds a {type(value).__name__}, no plain JSON", remedy=remedy)
    return {**facts, **own}


def _is_missing(value: Any) -> bool:
    """None, or the not-a-number that tables hold in empty cells."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _is_json(value: Any) -> bool:
    if isinstance(value, str | int):
        return True
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True
