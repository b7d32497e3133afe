"""Preferences as the papers' own files write them: POVID and CSR, RLHF-V, LLaVA-RLHF, mDPO, SENTINEL."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sightline.data.readers.conversation import Reading
from sightline.data.readers.llava import read_llava
from sightline.data.readers.rows import RowError, parse_json
from sightline.data.readers.trl import read_trl
from sightline.types import Group

_TEMPLATED = re.compile(r"[^<>]*\bUSER: (?P<question>.*?) ?ASSISTANT:\s*", re.DOTALL)
"""A question that was put through the Vicuna template already: the released files of CSR and mDPO."""


def read_povid(row: Mapping[str, Any], reading: Reading) -> Group:
    """A preference of ``conversations`` over ``rejected_conversations``, which begin alike (POVID, CSR).

    A question that stands inside a whole prompt (``... USER: question ASSISTANT:``), as in the files that CSR
    released, is taken out of it: the chat template of the model is put around it anyway.

    Raises:
        RowError: What is wrong with the row.
    """
    sides = {}
    for name, column in (("chosen", "conversations"), ("rejected", "rejected_conversations")):
        turns = row.get(column)
        if not isinstance(turns, list | tuple) or not turns:
            remedy = "Both are lists of turns that begin alike and end with an answer"
            raise RowError("malformed", f"'{column}' is {turns!r:.60}, expected a list of turns", remedy=remedy)
        sides[name] = [_untemplated(turn) for turn in turns]
    _refuse(row, ("prompt", "question", "chosen", "rejected", "messages", "completion"))
    rest = {name: value for name, value in row.items() if name not in ("conversations", "rejected_conversations")}
    return read_trl(rest | sides, reading)


def read_rlhf_v(row: Mapping[str, Any], reading: Reading) -> Group:
    """A preference whose ``text`` is JSON with ``question``, ``chosen`` and ``rejected`` (RLHF-V).

    The rejected answer is the model's, the chosen one what a person corrected in it: ``data.segments`` weighs the
    tokens that differ.

    Raises:
        RowError: What is wrong with the row.
    """
    text = row.get("text")
    if isinstance(text, str) and text.lstrip().startswith("{"):
        text = parse_json(text.encode(), "'text' is JSON with question, chosen and rejected")
    if not isinstance(text, Mapping):
        remedy = "A text without a prompt is not trained: give it as prompt and completion"
        found = f"'text' is {text!r:.60}, expected JSON with question, chosen and rejected (RLHF-V)"
        raise RowError("malformed", found, remedy=remedy)
    _refuse(row, ("prompt", "question", "chosen", "rejected", "messages", "completion"))
    for name in ("question", "chosen", "rejected"):
        if not isinstance(text.get(name), str):
            raise RowError("malformed", f"'text.{name}' is {text.get(name)!r:.60}, expected a text")
    twice = row.keys() & text.keys()
    if twice:
        raise RowError("malformed", f"'{min(twice)}' is a column and stands in 'text' as well", remedy="Keep one")
    return read_trl({name: value for name, value in row.items() if name != "text"} | dict(text), reading)


def read_two_outputs(row: Mapping[str, Any], reading: Reading) -> Group:
    """A preference between ``output_1`` and ``output_2``; ``preference`` is the number of the better one
    (LLaVA-RLHF, LLaVA-Human-Preference-10K). The last turn of ``conversations`` only holds the place of the answer.

    Raises:
        RowError: What is wrong with the row.
    """
    better = row.get("preference")
    if isinstance(better, bool) or better not in (1, 2):
        remedy = "It is the number of the better output; leave rows without a preference out"
        raise RowError("malformed", f"'preference' is {better!r:.60}, expected 1 or 2", remedy=remedy)
    outputs = [_output(row, f"output_{number}") for number in (1, 2)]
    turns = row.get("conversations")
    if not isinstance(turns, list | tuple) or not turns or not isinstance(turns[-1], Mapping):
        raise RowError("malformed", f"'conversations' is {turns!r:.60}, expected a list of turns")
    if turns[-1].get("from") != "gpt":
        found = f"the last turn is by {turns[-1].get('from')!r:.60}, expected gpt, whose place the outputs take"
        raise RowError("malformed", found, remedy="Add a turn by gpt")
    _refuse(row, ("chosen", "rejected"))
    used = ("output_1", "output_2", "preference")
    rest = {name: value for name, value in row.items() if name not in used}
    chosen, rejected = outputs if better == 1 else reversed(outputs)
    return read_llava(rest | {"conversations": list(turns[:-1]), "chosen": chosen, "rejected": rejected}, reading)


def read_mdpo(row: Mapping[str, Any], reading: Reading) -> Group:
    """A preference of ``chosen`` over ``rejected`` about ``img_path`` (mDPO). A ``prompt`` that stands inside a whole
    Vicuna prompt is taken out of it, as of :func:`read_povid`.

    Raises:
        RowError: What is wrong with the row.
    """
    _refuse(row, ("image", "images", "question", "messages", "completion"))
    rest = {name: value for name, value in row.items() if name != "img_path"}
    found = _TEMPLATED.fullmatch(row["prompt"]) if isinstance(row.get("prompt"), str) else None
    plain = {} if found is None else {"prompt": found["question"]}
    return read_trl(rest | plain | {"image": row["img_path"]}, reading)


def read_sentinel(row: Mapping[str, Any], reading: Reading) -> Group:
    """A preference of ``y_win`` over ``y_lose``, sentences that go on from the same ``context`` (SENTINEL).

    The context begins both answers. What both begin with is equally likely in both, so that it cancels in every loss
    that takes their difference.

    Raises:
        RowError: What is wrong with the row.
    """
    _refuse(row, ("chosen", "rejected", "messages", "completion"))
    pictures = [name for name in ("image_path", "image", "images") if row.get(name)]
    if len(pictures) != 1:
        found = f"found {', '.join(pictures)}, expected one" if pictures else "the row names no picture"
        raise RowError("missing image", found, remedy="Give its path as image_path (image_id is a number, no path)")
    context, sides = row.get("context"), {}
    if context is not None and not isinstance(context, str):
        raise RowError("malformed", f"'context' is {context!r:.60}, expected the text that both answers begin with")
    for side, name in (("chosen", "y_win"), ("rejected", "y_lose")):
        if not isinstance(row.get(name), str) or not row[name].strip():
            raise RowError("malformed", f"{name!r} is {row.get(name)!r:.60}, expected a sentence")
        sides[side] = " ".join(filter(None, ((context or "").strip(), row[name].strip())))
    rest = {n: value for n, value in row.items() if n not in ("context", "y_win", "y_lose", "image_path")}
    if pictures == ["image_path"]:
        rest["image"] = row["image_path"]
    return read_trl(rest | sides, reading)


def _untemplated(turn: Any) -> Any:
    value = turn.get("value") if isinstance(turn, Mapping) and turn.get("from") == "human" else None
    found = _TEMPLATED.fullmatch(value) if isinstance(value, str) else None
    return turn if found is None else {**turn, "value": found["question"]}


def _output(row: Mapping[str, Any], name: str) -> str:
    output = row.get(name)
    text = output.get("value") if isinstance(output, Mapping) else output
    if not isinstance(text, str):
        remedy = "An output is a text, or a turn with from and value"
        raise RowError("malformed", f"'{name}' is {output!r:.60}, expected an answer", remedy=remedy)
    return text


def _refuse(row: Mapping[str, Any], names: tuple[str, ...]) -> None:
    """Columns that would be passed over, or would take the place of those that the layout has."""
    for name in names:
        if row.get(name) is not None:
            raise RowError("malformed", f"column '{name}' has no place in this layout", remedy="Remove or rename it")
