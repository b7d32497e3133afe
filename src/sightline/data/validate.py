"""What a usable row is, and the account of those that are not."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sightline.data.picture_files import PictureFiles
from sightline.data.readers.chat import PLACEHOLDER
from sightline.data.readers.rows import Reason, RowError
from sightline.errors import DataError
from sightline.files import replace_file
from sightline.types import Edge, Group, Message, Prompt

Part = Literal["train", "eval"]

BAD_ROWS = "bad_rows.jsonl"
"""Name of the list of bad rows in a run directory."""


@dataclass(frozen=True, kw_only=True)
class Checks:
    """What is asked of every row beside its form."""

    images: bool = True
    """Every picture is there and can be read. False: nothing is opened or looked for."""
    answers: bool = False
    """Every row has an answer to train on."""
    max_length: int | None = None
    """Most tokens of a prompt plus its longest response; needs ``num_tokens``."""
    num_tokens: Callable[[Group], int] | None = None
    """Tokens of the longest prompt plus response of a group, every placeholder counted
    (``Renderer.num_tokens``)."""
    fits: Callable[[Group, int], bool] | None = None
    """Tells of groups that they surely have no more tokens than that, and that counting them would find no fault
    (``data.fits``); None: the tokens of all are counted."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What an algorithm needs of every row, when all relations are made."""

    algorithm: str
    """Its name, for messages."""
    comparisons: bool = False
    """Answers that are compared: it learns from nothing else."""
    rewards: bool = False
    """A reward on every answer."""
    labels: bool = False
    """A label on every answer."""


@dataclass(frozen=True, kw_only=True)
class BadRow:
    """A row that was left out."""

    file: str
    row: int
    """Counted from 1; in a .jsonl file the line."""
    reason: Reason
    error: str
    """What was found and what to do about it."""


@dataclass(frozen=True, kw_only=True)
class SourceCount:
    """Rows of one source."""

    path: str
    read: int
    kept: int


@dataclass(kw_only=True)
class DataReport:
    """How many rows were read, how many are kept, and why not the others."""

    read: int = 0
    kept: int = 0
    with_pictures: int = 0
    """Of those kept."""
    bad: list[BadRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What a person should know though it is no error."""
    sources: list[SourceCount] = field(default_factory=list)
    """The same per source, in their order; their groups follow each other."""

    def by_reason(self) -> dict[str, int]:
        """Bad rows per reason, the most frequent first."""
        return dict(Counter(row.reason for row in self.bad).most_common())

    def summary(self) -> str:
        """One line for the terminal: ``58 of 60 rows kept (missing image: 2), 57 with pictures``."""
        reasons = ", ".join(f"{reason}: {count}" for reason, count in self.by_reason().items())
        told = f" ({reasons})" if reasons else ""
        return f"{self.kept} of {self.read} rows kept{told}, {self.with_pictures} with pictures"


def write_bad_rows(run_dir: Path, part: Part, report: DataReport) -> Path:
    """List the bad rows of one part in ``bad_rows.jsonl``; those of the other part stay.

    Each line has ``part``, ``file``, ``row`` (counted from 1), ``reason`` and ``error``. Written again
    by a resumed run, a row stands there once.
    """
    path = run_dir / BAD_ROWS
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    kept = [line for line in lines if json.loads(line)["part"] != part]
    new = [json.dumps({"part": part, **vars(row)}, ensure_ascii=False) for row in report.bad]
    replace_file(path, _lines(kept + new))
    return path


def list_bad_rows(path: Path, report: DataReport) -> None:
    """Writes the bad rows of a command, a line each; an earlier list goes where there are none."""
    if report.bad:
        replace_file(path, _lines(json.dumps(vars(row), ensure_ascii=False) for row in report.bad))
    else:
        path.unlink(missing_ok=True)


def append_bad_row(run_dir: Path, row: BadRow) -> None:
    """Adds a row that was left out while training to ``bad_rows.jsonl``, as part ``training``; a row stands there
    once. Such lines stay when a resumed run lists its bad rows again."""
    path = run_dir / BAD_ROWS
    line = json.dumps({"part": "training", **vars(row)}, ensure_ascii=False)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    if line not in lines:
        replace_file(path, _lines([*lines, line]))


def _lines(lines: Iterable[str]) -> str:
    """A name of a file that is no UTF-8 comes as halves of characters, which no file takes."""
    return "".join(f"{line}\n" for line in lines).encode(errors="backslashreplace").decode()


def check_group(group: Group, checks: Checks, files: PictureFiles) -> None:
    """Whether a Group can be used.

    Raises:
        RowError: The first thing that is wrong with it.
    """
    for prompt in group.prompts:
        _check_messages(prompt)
    if checks.images:
        for path in (path for prompt in group.prompts for path in prompt.images):
            files.check(path)
    _check_answers(group, checks)
    for edge in group.edges:
        _check_edge(group, edge)
    if checks.num_tokens is not None and checks.max_length is not None:
        if checks.fits is not None and checks.fits(group, checks.max_length):
            return
        length = checks.num_tokens(group)
        if length > checks.max_length:
            raise RowError(
                "too long",
                f"prompt, images and response take {length} tokens, more than max_length = {checks.max_length}",
                remedy="Raise data.max_length, lower model.image_size, or leave the row out; nothing is cut",
            )


_PARTS = 'Use {"type": "text", "text": ...} and a bare {"type": "image"}, whose picture stands under images'


def _check_messages(prompt: Prompt) -> None:
    pictures = 0
    for i, message in enumerate(prompt.messages):
        if message.get("role") not in ("system", "user", "assistant"):
            remedy = "Use system, user or assistant"
            raise RowError("unknown role", f"message {i + 1} is by {message.get('role')!r}", remedy=remedy)
        texts, count = _contents(message, i)
        pictures += count
        if count and message["role"] != "user":
            found = f"message {i + 1} ({message['role']}) holds a picture"
            raise RowError("placeholders", found, remedy="Only user messages hold pictures; move it there")
        if not count and not "".join(texts).strip() and message["role"] != "system":
            reason: Reason = "empty prompt" if message["role"] == "user" else "empty answer"
            raise RowError(reason, f"message {i + 1} ({message['role']}) is empty", remedy="Fill it")
        if any(PLACEHOLDER in text for text in texts):
            found = f"the text of message {i + 1} contains {PLACEHOLDER}, which stands for a picture"
            raise RowError("placeholders", found, remedy='Write a part {"type": "image"}, or another word')
    if not prompt.messages or prompt.messages[-1]["role"] != "user":
        raise RowError("empty prompt", "the prompt does not end with a user message", remedy="Add the question")
    if pictures != len(prompt.images):
        raise RowError(
            "placeholders",
            f"{pictures} image placeholders and {len(prompt.images)} images",
            remedy="Give one image for each placeholder",
        )


def _contents(message: Message, index: int) -> tuple[list[str], int]:
    """Texts of a message, and how many pictures it holds."""
    content = message["content"]
    if isinstance(content, str):
        return [content], 0
    texts, pictures = [], 0
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind == "image" and not any(value for key, value in part.items() if key not in ("type", "index")):
            pictures += 1
        else:
            found = f"message {index + 1} has the part {part!r:.80}"
            raise RowError("malformed", found, remedy=_PARTS)
    return texts, pictures


def _check_answers(group: Group, checks: Checks) -> None:
    if checks.answers and not group.responses:
        raise RowError(
            "no answer",
            "there is a prompt but no answer to train on (the conversation ends with a user turn)",
            remedy="End it with an answer; rows without answers are for sampling",
        )
    for i, response in enumerate(group.responses):
        if response.tokens is None and not response.text.strip():
            raise RowError("empty answer", f"answer {i + 1} is empty", remedy="Give it a text, or leave the row out")
        if PLACEHOLDER in response.text:
            found = f"answer {i + 1} contains {PLACEHOLDER}, which stands for a picture"
            raise RowError("placeholders", found, remedy="Remove it from the answer")
        if response.trained is not None and not any(response.trained):
            raise RowError("no answer", f"no token of answer {i + 1} is trained", remedy="Correct its 'trained'")
    for i, prompt in enumerate(group.prompts):
        answers = sum(response.prompt == i for response in group.responses)
        if answers > 1 and any(m["role"] == "assistant" and m.get("weight") for m in prompt.messages):
            found = f"prompt {i + 1} has {answers} answers, and trains the assistant messages before them as well"
            raise RowError("malformed", found, remedy="Remove the weights of its messages, or give it one answer")


def _check_edge(group: Group, edge: Edge) -> None:
    """The two sides of a comparison differ in what they say or in what they say it about. A mismatched answer is no
    comparison: an answer to another question may say the same."""
    if edge.kind == "mismatched":
        return
    winner, loser = group.responses[edge.winner], group.responses[edge.loser]
    asked = [(prompt.messages, prompt.images) for prompt in (group.prompts[winner.prompt], group.prompts[loser.prompt])]
    if winner.text.strip() == loser.text.strip() and winner.tokens == loser.tokens and asked[0] == asked[1]:
        raise RowError(
            "chosen equals rejected",
            f"answers {edge.winner + 1} and {edge.loser + 1} are compared and are the same: {winner.text!r:.60}"
            + ("" if winner.text == loser.text else ", but for white space around them"),
            remedy="Leave the row out: a comparison of equals teaches nothing",
        )


def as_bad_row(file: str, row: int, error: Any) -> BadRow:
    """The entry of a row that was left out because of ``error`` (a DataError)."""
    text = f"{error.found}. {error.remedy}" if error.remedy else error.found
    return BadRow(file=file, row=row, reason=error.reason if isinstance(error, RowError) else "malformed", error=text)


def check_needs(group: Group, needs: Needs) -> None:
    """Whether a Group has what an algorithm learns from.

    Raises:
        RowError: It lacks a comparison, a reward or a label.
    """
    if needs.comparisons and not group.edges:
        found = f"there is no comparison of answers, and {needs.algorithm} learns from nothing else"
        raise RowError("no comparison", found, remedy=_RELATE if needs.labels else _COMPARE)
    lacking = {
        "rewards": needs.rewards and any(response.reward is None for response in group.responses),
        "labels": needs.labels and any(response.label is None for response in group.responses),
    }
    for name, lacks in lacking.items():
        if lacks:
            found = f"the algorithm needs {name}, and not every answer has one ({needs.algorithm})"
            raise RowError("no score", found, remedy=_SCORE[name])


_COMPARE = "Give the row chosen and rejected, make pairs with `sightline pairs`, or train with sft"
_RELATE = "Set relation: mismatched on this source of rows: it puts an answer to another question beside each"
_SCORE = {
    "rewards": "Score the answers with `sightline score`, or choose another algorithm",
    "labels": "Give each answer its label (relation: mismatched gives labels to rows with chosen and rejected), or "
    "choose another algorithm",
}


def refuse_uncompared(groups: Iterable[Group], algorithm: str, *, labels: bool = False) -> None:
    """
    Args:
        groups: that are trained.
        algorithm: its name.
        labels: it learns from labelled answers, with one to another question beside each.

    Raises:
        DataError: names the group that has no comparison.
    """
    for group in groups:
        if not group.edges:
            raise DataError(
                f"there is no comparison of answers, and {algorithm} learns from nothing else",
                source=group.source or group.id,
                remedy=_RELATE if labels else _COMPARE,
            )
