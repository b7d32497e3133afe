"""Rows as LLaVA and ShareGPT write them: ``conversations`` of ``from`` and ``value``, ``<image>`` in the text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sightline.data.readers.chat import PLACEHOLDER, Picture, Turn, parse_turn, parse_turns
from sightline.data.readers.conversation import (
    Reading,
    answer_text,
    as_list,
    build_prompt,
    facts_of,
    ranked,
    split_answer,
    with_negative,
    with_system,
)
from sightline.data.readers.rows import RowError, is_finite
from sightline.types import Group, Response

_USED = frozenset({"id", "conversations", "image", "images", "chosen", "rejected", "score", "system"})


def read_llava(row: Mapping[str, Any], reading: Reading) -> Group:
    """A Group from one row.

    - The last turn by the model is the answer. A list there holds answers from best to worst.
    - ``chosen`` and ``rejected`` beside a conversation that ends with a question make a pair.
    - ``score`` beside a single answer is its reward; ``label``, true or false, says whether it is desirable.
    - A comma-separated ``image`` names several pictures; where the text has one ``<image>`` for all
      of them, they stand there together.

    Raises:
        RowError: What is wrong with the row.
    """
    raw = row.get("conversations")
    if raw is None:
        raise RowError("malformed", "missing column 'conversations'", remedy=f"Found {', '.join(row)}; use rename")
    if not isinstance(raw, Sequence) or isinstance(raw, str) or not raw:
        raise RowError("malformed", f"'conversations' is {raw!r:.60}, expected a list of turns")
    facts = facts_of(row, _USED)
    noted = facts if row.get("score") is None else {**facts, "score": row["score"]}  # of no single answer
    if row.get("chosen") is not None or row.get("rejected") is not None:
        return _preference(row, with_system(parse_turns(raw, "conversations"), row), reading, noted)
    if isinstance(raw[-1], Mapping) and isinstance(raw[-1].get("value"), list | tuple):
        return _ranked_answers(row, raw, reading, facts if len(raw[-1]["value"]) == 1 else noted)
    turns = with_system(parse_turns(raw, "conversations"), row)
    history, answer = split_answer(turns)
    label = facts.pop("label") if isinstance(facts.get("label"), bool) else None
    trains = reading.train_history and answer is not None and label is None
    pictures, together = _pictures(row, reading)
    kept = noted if answer is None else facts
    prompt = build_prompt(history, pictures, reading, kept, together=together, train_history=trains)
    responses = () if answer is None else (Response(text=answer, reward=_score(row), label=label),)
    return Group(prompts=(prompt,), responses=responses)


def _ranked_answers(row: Mapping[str, Any], raw: Sequence[Any], reading: Reading, facts: dict[str, Any]) -> Group:
    turns = with_system(parse_turns(raw[:-1], "conversations"), row)
    last = len(raw) - 1
    answers = [
        answer_text(parse_turn({**raw[-1], "value": value}, f"conversations[{last}]")) for value in raw[-1]["value"]
    ]
    pictures, together = _pictures(row, reading)
    prompt = build_prompt(turns, pictures, reading, facts, together=together)
    group = ranked(prompt, answers, reading)
    if len(answers) == 1:
        return replace(group, responses=(replace(group.responses[0], reward=_score(row)),))
    return group


def _preference(row: Mapping[str, Any], turns: list[Turn], reading: Reading, facts: dict[str, Any]) -> Group:
    answers = [_side(row, "chosen"), _side(row, "rejected")]
    pictures, together = _pictures(row, reading)
    places = sum(isinstance(part, Picture) for turn in turns for part in turn.parts)
    if len(pictures) > 1 and not places:
        raise RowError(
            "placeholders",
            f"{len(pictures)} images beside chosen and rejected, and no placeholder in the text",
            remedy=f"Write {PLACEHOLDER} where a picture goes: once if each answer brings its own picture",
        )
    if together or not places or len(pictures) != 2 * places:
        prompt = build_prompt(turns, pictures, reading, facts, together=together)
        return ranked(prompt, answers, reading)
    true, other = pictures[:places], pictures[places:]
    prompt = build_prompt(turns, true, reading, facts)
    return with_negative(ranked(prompt, answers, reading), build_prompt(turns, other, reading, facts))


def _side(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if value is None:
        raise RowError("malformed", f"missing column '{name}'", remedy="A pair has chosen and rejected")
    return value if isinstance(value, str) else answer_text(parse_turn(value, name))


def _pictures(row: Mapping[str, Any], reading: Reading) -> tuple[list[Any], bool]:
    """The pictures of a row, and whether one string named them all."""
    one, several = row.get("image"), as_list(row.get("images"))
    if one and several:
        raise RowError("malformed", "found both 'image' and 'images'", remedy="Keep one of the two columns")
    if isinstance(one, str) and "," in one and not reading.pictures.exists(one):
        return [name.strip() for name in one.split(",") if name.strip()], True
    return several or as_list(one), False


def _score(row: Mapping[str, Any]) -> float | None:
    score = row.get("score")
    if score is not None and not is_finite(score):
        raise RowError("malformed", f"'score' is {score!r:.60}, expected a finite number")
    return score
