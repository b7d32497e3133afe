"""Parts of a conversation that stand beside it, or in the words of other tools: read, or refused, never left out."""

from __future__ import annotations

from typing import Any

import pytest

from sightline.data.load import Account, groups_from_records
from sightline.errors import DataError
from sightline.recipes.schema import DataSpec
from sightline.types import Group

PAIR = {"prompt": "which?", "chosen": "this", "rejected": "that"}
TURNS = [{"role": "user", "content": "which?"}, {"role": "assistant", "content": "this"}]
SPOKEN = {"conversations": [{"from": "human", "value": "which?"}, {"from": "gpt", "value": "this"}]}


def read(row: dict[str, Any]) -> Group:
    (group,) = groups_from_records([row], DataSpec(path="rows"), Account())
    return group


@pytest.mark.parametrize(
    "row", [PAIR, {"prompt": "which?"}, {"prompt": "which?", "completion": "this"}, {"messages": TURNS}, SPOKEN]
)
def test_a_system_column_is_the_first_turn_in_every_layout(row: dict[str, Any]) -> None:
    """TRL's layouts kept it as a fact, so that nothing was trained under it."""
    prompt = read({**row, "system": "Be brief."}).prompts[0]
    assert [message["role"] for message in prompt.messages] == ["system", "user"]
    assert prompt.messages[0]["content"][0]["text"] == "Be brief." and "system" not in prompt.facts
    turns = next((row[name] for name in ("messages", "conversations") if name in row), None)
    if turns is not None:
        name = next(iter(row))
        keys = ("role", "content") if name == "messages" else ("from", "value")
        with pytest.raises(DataError, match="found 'system' and a system turn"):
            read({name: [dict(zip(keys, ("system", "Be long."), strict=True)), *turns], "system": "Be brief."})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**PAIR, "history": [["a", "b"]]}, "column 'history' is a part of the conversation and is not read"),
        ({**SPOKEN, "history": [["a", "b"]]}, "column 'history' is a part of the conversation"),
        ({**PAIR, "system_prompt": "Be brief."}, r"Rename it \(rename: {system_prompt: system}\)"),
        ({**PAIR, "rejected_response": "that"}, "has no place in this layout"),
        ({"messages": TURNS, "chosen": "this", "rejected": "that"}, "found 'messages' and 'chosen'"),
        ({"messages": TURNS, "prompt": "another"}, "found 'messages' and 'prompt'"),
        ({**PAIR, "prompt": "<video>\nwhich?"}, "the text says '<video>' as if a picture or a video stood there"),
        ({**PAIR, "prompt": "Look:\n<IMG> which?"}, "the text says '<IMG>'"),
        ({**PAIR, "prompt": "<|image_1|>which?"}, "the text says '<|image_1|>'".replace("|", r"\|")),
        ({"messages": [{"role": "user", "content": "[image] which?"}, TURNS[1]]}, r"the text says '\[image\]'"),
    ],
)
def test_what_would_be_left_out_is_refused(row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(row)


def test_marks_within_a_line_are_text() -> None:
    assert read({**PAIR, "prompt": "What does <img> do in HTML?", "history": []}).prompts[0].facts == {"history": []}
