"""``sightline chat``: streamed answers, history, commands, pipes."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from command_line import sightline
from sightline.cli.chat import Conversation, converse
from sightline.errors import DataError
from sightline.recipes.schema import ModelSpec, SamplingSpec
from sightline.rollouts.hf import _Growing, load_engine
from sightline.types import Group, Prompt


def prompt(picture: str, text: str = "is there a star?") -> Group:
    content = [{"type": "image"}, {"type": "text", "text": text}]
    return Group(prompts=(Prompt(id="turn 1", messages=({"role": "user", "content": content},), images=(picture,)),))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_stream_is_what_generate_gives(tiny: dict[str, Path], pictures: list[str], temperature: float) -> None:
    engine = load_engine(ModelSpec(path=str(tiny["llava"])))
    sampling = SamplingSpec(n=3, temperature=temperature, max_new_tokens=12)
    pieces: list[str] = []
    response = engine.stream(prompt(pictures[0]), sampling, seed=3, on_text=pieces.append)
    same = engine.generate([prompt(pictures[0])], replace(sampling, n=1), seed=3)[0].responses[0]
    assert response == same
    assert len(pieces) > 1
    if not response.text.endswith("\ufffd"):
        assert "".join(pieces) == response.text


def test_half_a_character_waits(tiny: dict[str, Path]) -> None:
    tokenizer = load_engine(ModelSpec(path=str(tiny["llava"]))).tokenizer
    ids = [*tokenizer(" ä star", add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    pieces: list[str] = []
    growing = _Growing(tokenizer, pieces.append)
    for token in ids:
        growing.add(torch.tensor([token]))
    assert "".join(pieces) == "ä star" and "\ufffd" not in "".join(pieces) and pieces[0].startswith("ä")


def test_one_question_and_a_pipe(tiny: dict[str, Path], pictures: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["chat", tiny["llava"], "--image", pictures[0], "--max-tokens", 6]
    one = sightline(*asked, "--question", "is there a star?")
    engine = load_engine(ModelSpec(path=str(tiny["llava"])))
    greedy = engine.generate([prompt(pictures[0])], SamplingSpec(temperature=0, max_new_tokens=6), seed=0)[0]
    assert one.code == 0 and one.out.strip() == greedy.responses[0].text
    monkeypatch.setattr(sys, "stdin", io.StringIO("is there a star?\n\n/image nowhere.png\nhalf \udcff\n/quit\n?\n"))
    piped = sightline(*asked)
    assert (piped.code, piped.out) == (0, one.out), "no prompts, no greeting"
    assert "nowhere.png: no such picture" in piped.err and "half of a character ('\\udcff')" in piped.err
    missing = sightline("chat", tiny["llava"], "--image", "gone.png", "--question", "?")
    assert missing.code == 2 and "gone.png: no such picture. Give the path of a file" in missing.err


class Model:
    """Answers with a number, and notes what it was asked."""

    def __init__(self) -> None:
        self.prompts: list[Prompt] = []

    def __call__(self, group: Group, tell: Any) -> str:
        asked = group.prompts[0]
        if "fail" in str(asked.messages[-1]):
            raise DataError("too long", source="chat", remedy="Be short")
        self.prompts.append(asked)
        tell("a")
        return f"answer {len(self.prompts)}"


def test_history_reset_and_another_picture(pictures: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    model = Model()
    lines = [
        "one",
        "fail",
        "two",
        "/reset",
        "three",
        f"/image {pictures[1]}",
        "four",
        "/nonsense",
        "five",
        "/quit",
        "x",
    ]
    converse(Conversation(answer=model, image=pictures[0]), [*lines, "/quit", "never"])
    told = [
        [(m["role"], "".join(part.get("text", "<picture>") for part in m["content"])) for m in asked.messages]
        for asked in model.prompts
    ]
    assert told == [
        [("user", "<picture>one")],
        [("user", "<picture>one"), ("assistant", "answer 1"), ("user", "two")],
        [("user", "<picture>three")],
        [("user", "<picture>four")],
        [("user", "<picture>four"), ("assistant", "answer 4"), ("user", "five")],
    ]
    assert [asked.images for asked in model.prompts] == [(pictures[0],)] * 3 + [(pictures[1],)] * 2
    out, err = capsys.readouterr()
    assert out == "a\n" * 5
    assert "chat: too long. Be short" in err and "/nonsense is no command" in err


def test_without_a_picture_there_is_text_alone() -> None:
    model = Model()
    converse(Conversation(answer=model), ["one"])
    assert model.prompts[0].images == () and len(model.prompts[0].messages[0]["content"]) == 1
