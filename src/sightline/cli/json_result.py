"""``--json``: what a command found, as one JSON document on stdout, and nothing else there.

Every command has the option without a word of its own: ``add_json`` walks all that ``cli/app.py`` knows. The command's
part is to return its result, a mapping (paths, dataclasses and tuples may be in it):

    def doctor() -> Document:
        say("All is well.")
        return {"healthy": True, "checks": checks}

- A result with an exit code other than 0: ``raise Ended(document, code=1)``.
- A server says what it has before it ends: ``tell(document)`` once it is there; then return the same.
- A command that can also write its document to a file takes a parameter ``json_file: JsonFile = None``: of it
  ``--json`` alone is stdout, ``--json FILE`` the file, and it returns the document all the same.

Nothing else is needed. While ``--json`` holds, tables on ``console.out`` are left out, and whatever else is written to
stdout (by this process, a library in C, a child) reaches stderr. An error is a document ``{"error": ...}``, with the
exit code that it always has. ``tests/test_cli_json.py`` walks the commands: one that returns no document fails it.
"""

from __future__ import annotations

import functools
import inspect
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Final, TextIO

import typer
from typer.core import TyperCommand

from sightline.cli.console import out
from sightline.errors import DataError

Document = Mapping[str, Any]
"""The result of a command."""
STDOUT: Final = Path("-")
"""``--json -`` of a command that can write a file."""
JsonFile = Annotated[
    Path | None,
    typer.Option("--json", metavar="[FILE]", help="Result as JSON, to FILE or alone on stdout.", show_default=False),
]
_Flag = Annotated[bool, typer.Option("--json", help="Result as JSON, alone on stdout.")]
_SENTENCE = re.compile(r"\.\s+(?=[A-Z`\"'-])")
_EXPECTED = re.compile(r",? expected ")


class Ended(typer.Exit):
    """A command has its result, and ends with an exit code that says that something is wrong."""

    def __init__(self, document: Document, *, code: int) -> None:
        super().__init__(code)
        self.document = document


class _Channel:
    """Of the command that runs: where its document goes, and whether it is there."""

    def __init__(self) -> None:
        self.asked, self.told = False, False
        self.stream: TextIO | None = None


_channel = _Channel()


def begin(arguments: list[str]) -> None:
    """A new command line. Until its command is known, ``--json`` anywhere in it is taken for the flag."""
    _channel.asked, _channel.told, _channel.stream = "--json" in arguments, False, None


def asked() -> bool:
    """Whether stdout is for a document alone."""
    return _channel.asked


def tell(document: Document) -> None:
    """Writes the document, once, where ``--json`` was asked for; of several processes the first alone."""
    if not _channel.asked or _channel.told or os.environ.get("RANK", "0") != "0":
        return
    text = json.dumps(plain(document), indent=2, allow_nan=False) + "\n"
    _channel.told = True  # a document that the stream did not take is not followed by another
    stream = _channel.stream or sys.stdout
    stream.write(text)
    stream.flush()


def error_document(error: BaseException, message: str = "", *, kind: str = "") -> Document:
    """``{"error": {"kind", "message", "source", "found", "expected", "remedy"}}``, the last four where it has them.

    A message reads "found, expected. What to change": where it does, the parts stand alone as well.
    """
    message = message or str(error)
    first, *rest = _SENTENCE.split(message, maxsplit=1)
    parts = {"source": "", "found": first, "expected": "", "remedy": "".join(rest)}
    if isinstance(error, DataError):
        parts |= {"source": error.source, "found": error.found, "remedy": error.remedy}
    parts["found"], *expected = _EXPECTED.split(parts["found"], maxsplit=1)
    parts["expected"] = "".join(expected)
    told = {name: text.removesuffix(".") for name, text in parts.items() if text}
    return {"error": {"kind": kind or type(error).__name__, "message": message, **told}}


def plain(value: Any) -> Any:
    """What JSON can hold: what is not finite is null.

    >>> plain({"a": (Path("b"), float("nan"))})
    {'a': ['b', None]}
    """
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Path):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(vars(value)[field.name]) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(one) for one in value]
    return value


# --- the option on every command ----------------------------------------------------------------


def add_json(app: typer.Typer) -> None:
    """Gives ``--json`` to every command of an app, and of those below it."""
    for info in app.registered_commands:
        assert info.callback is not None
        if "json_file" in inspect.signature(info.callback).parameters:
            info.cls = _FileOrStdout
        info.callback = _with_json(info.callback)
    for group in app.registered_groups:
        assert group.typer_instance is not None
        add_json(group.typer_instance)


class _FileOrStdout(TyperCommand):
    """``--json`` without a value, last or before another option, is ``--json -``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As it is, but for the value that is left out."""
        given = list[str]()
        for index, word in enumerate(args):
            given.append(word)
            following = args[index + 1] if index + 1 < len(args) else "--"
            if word == "--json" and following.startswith("-") and following != str(STDOUT):
                given.append(str(STDOUT))
        return super().parse_args(ctx, given)


def _with_json(command: Callable[..., Any]) -> Callable[..., None]:
    signature = inspect.signature(command, eval_str=True)
    own_file = "json_file" in signature.parameters

    @functools.wraps(command)
    def run(**options: Any) -> None:
        if own_file:
            _channel.asked = options["json_file"] == STDOUT
            options["json_file"] = None if _channel.asked else options["json_file"]
            _check_file(options["json_file"])
        else:
            _channel.asked = options.pop("as_json")
        if not _channel.asked:
            command(**options)
            return
        with _only_the_document() as _channel.stream:
            try:
                tell(command(**options))
            except Ended as ended:
                tell(ended.document)
                raise
            except KeyboardInterrupt as stopped:
                tell(error_document(stopped, "Stopped before the end."))
                raise
            finally:
                _channel.stream = None

    parameters = list(signature.parameters.values())
    if not own_file:
        kind = inspect.Parameter.KEYWORD_ONLY
        parameters.append(inspect.Parameter("as_json", kind, default=False, annotation=_Flag))
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


def _check_file(path: Path | None) -> None:
    """
    Raises:
        DataError: the word behind ``--json`` is a folder: mostly what was to be read, and not what is written.
    """
    if path is not None and path.is_dir():
        remedy = "Name a file; --json without one comes last, or before another option"
        raise DataError("found a folder behind --json, expected a file to write", source=str(path), remedy=remedy)


@contextmanager
def _only_the_document() -> Iterator[TextIO]:
    """The stream of the document. Whatever else is written to stdout meanwhile goes to stderr."""
    was, out.quiet = out.quiet, True
    try:
        if sys.stdout is not sys.__stdout__:  # not of a process of its own: there is no number to turn
            document = sys.stdout
            with redirect_stdout(sys.stderr):
                yield document
            return
        assert sys.stdout is not None
        sys.stdout.flush()
        with os.fdopen(os.dup(1), "w", encoding="utf-8") as document:
            os.dup2(2, 1)
            try:
                yield document
            finally:
                sys.stdout.flush()
                os.dup2(document.fileno(), 1)
    finally:
        out.quiet = was
