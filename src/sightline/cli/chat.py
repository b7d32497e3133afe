"""``sightline chat``: a conversation about one picture in the terminal, or in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from sightline.cli.console import print_error, say
from sightline.cli.json_result import Document
from sightline.cli.model_options import Picture, Quantization, asked_model
from sightline.errors import DataError, RecipeError
from sightline.types import Group, Prompt

_COMMANDS = "/image PATH looks at another picture, /reset forgets what was said, /quit ends"
Answer = Callable[[Group, Callable[[str], None]], str]
"""Answers the prompt of a group, telling each piece of text as it comes."""


@dataclass(kw_only=True)
class Conversation:
    """What was said so far, about which picture."""

    answer: Answer
    image: str | None = None
    messages: list[dict[str, Any]] = field(default_factory=list)
    turns: list[dict[str, Any]] = field(default_factory=list)
    """All that was asked and answered, also before a reset."""

    def ask(self, question: str, tell: Callable[[str], None]) -> str:
        """Answers a question; where that fails it was never asked.

        Raises:
            DataError: a picture that cannot be read, or a conversation longer than the model's context.
        """
        first = not self.messages and self.image is not None
        content = [*([{"type": "image"}] if first else []), {"type": "text", "text": question}]
        asked = [*self.messages, {"role": "user", "content": content}]
        images = () if self.image is None else (self.image,)
        group = Group(prompts=(Prompt(id=f"turn {len(asked)}", messages=tuple(asked), images=images),), source="chat")
        text = self.answer(group, tell)
        self.turns.append({"image": self.image, "question": question, "answer": text})
        if text:
            self.messages = [*asked, {"role": "assistant", "content": [{"type": "text", "text": text}]}]
        return text

    def look_at(self, image: str) -> None:
        """Another picture: a new conversation.

        Raises:
            RecipeError: there is no such file.
        """
        if not Path(image).is_file():
            raise RecipeError(f"{image or 'no path'}: no such picture. Give the path of a file")
        self.image, self.messages = image, []


def chat(
    model: Annotated[
        str, typer.Argument(help="Folder or hub name of the model; a run directory; an adapter.", show_default=False)
    ],
    image: Annotated[str | None, typer.Option(help="The picture.", show_default=False)] = None,
    question: Annotated[
        str | None, typer.Option(help="Answer this and end, in place of a conversation.", show_default=False)
    ] = None,
    adapter: Annotated[str | None, typer.Option(help="Folder of a PEFT adapter.", show_default=False)] = None,
    temperature: Annotated[float, typer.Option(min=0, help="0: greedy.")] = 0.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 512,
    dtype: Annotated[Literal["float32", "bfloat16"], typer.Option(help="Type of the weights.")] = "float32",
    quantization: Quantization = "none",
    picture: Picture = None,
) -> Document:
    """Talk with a model about one picture.

    Answers are written as they are made. In a conversation, /image PATH looks at another picture, /reset forgets what
    was said, /quit ends. Where the input is no terminal, each of its lines is a question, and only answers are written.
    With --json they are one document, at the end.

    Example: `sightline chat runs/dpo_llava_lora --image cat.jpg`

    Example: `sightline chat runs/dpo_llava_lora --image cat.jpg --question "What is on the table?"`
    """
    from sightline.models.load import hide_loading_bars
    from sightline.recipes.load import check_spec
    from sightline.recipes.schema import SamplingSpec
    from sightline.rollouts.hf import load_engine

    hide_loading_bars()
    spec = asked_model(model, adapter, dtype=dtype, quantization=quantization, picture=picture)
    sampling = check_spec(SamplingSpec, "options", temperature=temperature, max_new_tokens=max_tokens)
    talk = Conversation(answer=lambda group, tell: engine.stream(group, sampling, seed=0, on_text=tell).text)
    if image is not None:
        talk.look_at(image)
    engine = load_engine(spec)
    if question is not None:
        _tell(talk, question)
        return _said(talk)
    shown = sys.stdin.isatty()
    if shown:
        say(f"{_COMMANDS}.")
    converse(talk, _lines(shown))
    return _said(talk)


def _said(talk: Conversation) -> Document:
    return {"turns": talk.turns}


def converse(talk: Conversation, lines: Iterable[str]) -> None:
    """Answers line by line, until the lines or the patience end. What goes wrong is said and costs one line."""
    for line in map(str.strip, lines):
        command, _, rest = line.partition(" ")
        try:
            if command in ("/quit", "/exit"):
                return
            if command == "/reset":
                talk.messages = []
                say("Forgotten.")
            elif command == "/image":
                talk.look_at(rest.strip())
                say(f"Looking at {talk.image}.")
            elif command.startswith("/"):
                say(f"{command} is no command. {_COMMANDS}.")
            elif line:
                _tell(talk, line)
        except (DataError, RecipeError) as error:
            print_error(error)


def _lines(shown: bool) -> Iterable[str]:
    while True:
        if shown:
            sys.stderr.write("> ")
            sys.stderr.flush()
        line = sys.stdin.readline()
        if not line:
            return
        yield line


def _tell(talk: Conversation, question: str) -> None:
    def write(piece: str) -> None:
        sys.stdout.write(piece)
        sys.stdout.flush()

    talk.ask(question, write)
    write("\n")
