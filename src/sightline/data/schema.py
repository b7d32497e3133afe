"""Group files: one Group is one line of JSON.

Fields are those of :mod:`sightline.types`; a field that holds its default is left out. Pictures are named by path,
relative to the folder of the file where they lie below it, so that a folder of both can be moved as a whole.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

from sightline.data.fields import checked, shown
from sightline.data.readers.rows import parse_json
from sightline.errors import DataError
from sightline.files import replacing
from sightline.recipes.load import nearest
from sightline.types import Edge, Group, Prompt, Response

Resolve = Callable[[str], str]
"""Turns the path of a picture as a file names it into the path to open."""


def read_groups(path: str | Path, *, growing: bool = False) -> Iterator[Group]:
    """The Groups of a file, one by one.

    Args:
        path: The file.
        growing: It is being written, or was when its run was killed: a last line without its end is passed over.

    Raises:
        DataError: A line is not a Group; names the file, the line (counted from 1) and the key.
    """
    resolve = relative_to(Path(path).parent)
    return (group_of_line(line, place, resolve) for line, place in lines_of(path, growing=growing))


def lines_of(path: str | Path, *, growing: bool = False) -> Iterator[tuple[bytes, str]]:
    """The lines of a file that are not blank, and the place of each: ``FILE:LINE``, counted from 1.

    Args:
        path: The file.
        growing: As of :func:`read_groups`.

    Raises:
        DataError: It cannot be read.
    """
    path = Path(path)
    try:
        lines = path.open("rb")
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", source=str(path), remedy="Correct the path") from error
    with lines:
        for number, line in enumerate(lines, start=1):
            if line.strip() and (line.endswith(b"\n") or not growing):
                yield line, f"{path}:{number}"


def write_groups(path: str | Path, groups: Iterable[Group], *, below: Path | None = None) -> int:
    """Write a Group file as a whole: the name never holds half a file.

    Args:
        path: The file.
        groups: What it holds.
        below: See :func:`group_to_json`.

    Returns:
        How many Groups were written.
    """
    path = Path(path)
    count = 0
    with replacing(path) as aside, aside.open("w", encoding="utf-8") as out:
        for group in groups:
            out.write(_line_of_group(group, path.parent, below))
            count += 1
    return count


def append_groups(path: str | Path, groups: Iterable[Group], *, below: Path | None = None) -> int:
    """Add Groups to the end of a file, for a stage that must survive a kill.

    On resume call :func:`complete_lines` first: it tells how far the stage came and removes a line
    that was only half written.

    Args:
        path: The file.
        groups: What is added.
        below: See :func:`group_to_json`.

    Returns:
        How many Groups were added; they are on the disk when the call returns.

    Raises:
        DataError: The file ends in half a line.
    """
    path = Path(path)
    return append_lines(path, [_line_of_group(group, path.parent, below) for group in groups])


def append_lines(path: str | Path, lines: Sequence[str]) -> int:
    """Add whole lines to the end of a file of lines, as :func:`append_groups` does.

    Returns:
        How many were added; they are on the disk when the call returns.

    Raises:
        DataError: The file ends in half a line.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as out:
        if out.tell() and not _ends_in_newline(out):
            raise DataError(
                "ends in half a line, so nothing was added",
                source=str(path),
                remedy="Call complete_lines(path) before appending: it removes the half line",
            )
        out.write("".join(lines).encode())
        out.flush()
        os.fsync(out.fileno())
    return len(lines)


@dataclass(frozen=True, kw_only=True)
class Lines:
    """What :func:`complete_lines` found."""

    complete: int
    """Whole lines in the file, now that the half one is gone; blank lines are not counted."""
    removed_bytes: int
    """Length of the half-written last line that was cut off; 0 where there was none."""


def complete_lines(path: str | Path) -> Lines:
    """Count the whole lines of a Group file that a killed stage left, and cut off a half-written last one.

    A last line without a newline that is nevertheless whole JSON is kept and gets its newline. A file
    that is not there counts as empty.
    """
    path = Path(path)
    if not path.exists():
        return Lines(complete=0, removed_bytes=0)
    with path.open("r+b") as file:
        complete, end, tail = 0, 0, b""
        for line in file:
            tail = b"" if line.endswith(b"\n") else line
            end += len(line) - len(tail)
            complete += bool(line.strip()) and not tail
        if tail and _is_json_object(tail):
            file.write(b"\n")
            return Lines(complete=complete + 1, removed_bytes=0)
        file.truncate(end)
    return Lines(complete=complete, removed_bytes=len(tail))


def group_to_json(group: Group, folder: str | Path | None = None, below: str | Path | None = None) -> dict[str, Any]:
    """A Group as plain JSON values, defaults left out.

    Args:
        group: The group.
        folder: Pictures below this folder are named relative to it; None: paths stay as they are.
        below: A folder that may move as a whole, with ``folder`` in it: pictures below it too are named relative to
            ``folder``. None: there is none.
    """
    row = _to_json(group)
    row["prompts"] = [_to_json(prompt) for prompt in group.prompts]
    for prompt in row["prompts"]:
        if folder is not None and "images" in prompt:
            prompt["images"] = [shorten(path, folder, below) for path in prompt["images"]]
    for name in ("responses", "edges"):
        if name in row:
            row[name] = [_to_json(item) for item in row[name]]
    return row


def group_from_json(row: Any, resolve: Resolve = str) -> Group:
    """A Group from plain JSON values.

    Args:
        row: What one line holds.
        resolve: Turns the path of a picture as written into the path to open.

    Raises:
        DataError: Unknown or missing key, wrong type, or an index that points nowhere. Names the key.
    """
    values = checked(row, Group, "")
    prompts = tuple(_prompt(item, f"prompts[{i}]", resolve) for i, item in enumerate(values["prompts"]))
    responses = tuple(_response(item, f"responses[{i}]") for i, item in enumerate(values.get("responses", ())))
    edges = tuple(Edge(**checked(item, Edge, f"edges[{i}]")) for i, item in enumerate(values.get("edges", ())))
    group = Group(prompts=prompts, responses=responses, edges=edges, source=values.get("source", ""))
    _check_indices(group)
    return group


def relative_to(folder: str | Path) -> Resolve:
    """The rule of Group files: a relative path starts from ``folder``, the folder of the file."""
    base = str(Path(folder).absolute())
    return lambda path: os.path.normpath(f"{base}/{path}" if not path.startswith("/") else path)


# --- reading: the objects -----------------------------------------------------------------------


def _prompt(row: Any, where: str, resolve: Resolve) -> Prompt:
    values = checked(row, Prompt, where)
    for i, message in enumerate(values["messages"]):
        for key in message:
            if key not in _MESSAGE_KEYS:
                remedy = nearest(key, _MESSAGE_KEYS)
                raise DataError(f"unknown key '{where}.messages[{i}].{key}'", remedy=remedy)
        if type(message.get("role")) is not str or type(message.get("content")) not in (str, list):
            raise DataError(f"'{where}.messages[{i}]' is {shown(message)}, expected a role and its content")
        if message.get("weight") not in (None, 0, 1):
            raise DataError(f"'{where}.messages[{i}].weight' is {shown(message['weight'])}, expected 0 or 1")
    if not values["messages"]:
        raise DataError(f"'{where}.messages' is empty, expected at least one user message")
    values["images"] = tuple(map(resolve, values.get("images", ())))
    return Prompt(**values)


_MESSAGE_KEYS = ("role", "content", "weight")


def _response(row: Any, where: str) -> Response:
    values = checked(row, Response, where)
    return Response(**values | {"columns": {k: tuple(column) for k, column in values.get("columns", {}).items()}})


def _check_indices(group: Group) -> None:
    """Every index points at something, and per-token fields are as long as the tokens."""
    if not group.prompts:
        raise DataError("'prompts' is empty, expected at least one prompt")
    for i, response in enumerate(group.responses):
        if response.prompt >= len(group.prompts):
            raise DataError(
                f"'responses[{i}].prompt' is {response.prompt}, expected an index below {len(group.prompts)}",
                remedy="Indices count from 0",
            )
        _check_lengths(response, f"responses[{i}]")
    for i, edge in enumerate(group.edges):
        if max(edge.winner, edge.loser) >= len(group.responses) or edge.winner == edge.loser:
            raise DataError(
                f"'edges[{i}]' compares responses {edge.winner} and {edge.loser} of {len(group.responses)}, "
                "expected two different responses",
                remedy="Indices count from 0",
            )
    ways = {(edge.kind, edge.winner, edge.loser) for edge in group.edges}
    for i, edge in enumerate(group.edges):
        if (edge.kind, edge.loser, edge.winner) in ways:
            raise DataError(
                f"'edges[{i}]' prefers response {edge.winner} over {edge.loser}, and another edge says the opposite",
                remedy="Keep one of the two",
            )


def _check_lengths(response: Response, where: str) -> None:
    per_token = {name: vars(response)[name] for name in ("trained", "rollout_logprobs", "weight_versions")}
    for name, values in {**per_token, "weights": response.weights}.items():
        if values is not None and response.tokens is None:
            raise DataError(f"'{where}.{name}' is given without tokens", remedy="Add 'tokens', or remove it")
        most = len(response.tokens or ())
        fits = {most} if name in per_token else {most, sum(response.trained or (True,) * most)}
        if values is not None and len(values) not in fits:
            raise DataError(f"'{where}.{name}' has {len(values)} entries, expected {most} as in tokens")
    trained = sum(response.trained or (True,) * len(response.tokens or ()))
    if wrong := [name for name, column in response.columns.items() if len(column) != trained]:
        raise DataError(f"'{where}.columns.{wrong[0]}' does not have {trained} entries, one for each trained token")


def group_of_line(line: bytes, source: str, resolve: Resolve) -> Group:
    """The Group of one line; errors name its file and line."""
    try:
        remedy = "Every line of a Group file is one JSON object; a killed stage leaves half a line: resume it"
        row = parse_json(line, remedy)
        if type(row) is dict and "prompts" not in row:
            names = ", ".join(map(str, row)) or "no keys"
            raise DataError(
                f"no Group but a row with {names}: 'prompts' is missing",
                remedy="Write such rows as a Group file: sightline data convert ROWS -o GROUPS.jsonl",
            )
        return group_from_json(row, resolve)
    except DataError as error:
        raise DataError(error.found, source=source, remedy=error.remedy) from error


# --- writing ------------------------------------------------------------------------------------


def _line_of_group(group: Group, folder: Path, below: Path | None) -> str:
    try:
        return json.dumps(group_to_json(group, folder, below), ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise DataError(
            f"group '{group.id}' cannot be written as JSON ({error})",
            source=group.source,
            remedy="Facts are plain JSON, and numbers are finite: an answer without a reward has reward None",
        ) from error


def _to_json(item: Prompt | Response | Edge | Group) -> dict[str, Any]:
    """Fields that differ from their default, in their order; nested ones as they are."""
    defaults = _DEFAULTS[type(item)]
    return {
        name: list(value) if type(value) is tuple else value
        for name, value in vars(item).items()
        if name not in defaults or value != defaults[name]
    }


def _defaults(kind: type) -> dict[str, Any]:
    made = {f.name: f.default_factory() for f in fields(kind) if f.default_factory is not MISSING}
    return made | {f.name: f.default for f in fields(kind) if f.default is not MISSING}


_DEFAULTS = {kind: _defaults(kind) for kind in (Group, Prompt, Response, Edge)}


def shorten(path: str, folder: str | Path, below: str | Path | None = None) -> str:
    """``path`` relative to ``folder`` where it lies below it or ``below``, else absolute."""
    full, base = os.path.abspath(path), os.path.abspath(folder)  # noqa: PTH100 (a million paths: pathlib is 10x slower)
    if full.startswith(f"{base}/"):
        return full[len(base) + 1 :]
    return os.path.relpath(full, base) if below and full.startswith(f"{os.path.abspath(below)}/") else full  # noqa: PTH100


def _ends_in_newline(file: BinaryIO) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def _is_json_object(text: bytes) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
