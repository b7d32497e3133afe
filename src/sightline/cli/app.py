"""The commands together, and the one place where an error becomes a message."""

from __future__ import annotations

import errno
import shutil
import sys
from typing import Annotated, Final, NoReturn

import typer

from sightline import __version__
from sightline.cli import (
    chat,
    check,
    check_engine,
    compare,
    console,
    convert,
    data,
    demo,
    doctor,
    eval_group,
    export,
    json_result,
    local_app,
    loop,
    pairs,
    samples,
    select,
    serve,
    train,
)
from sightline.errors import SightlineError

_NAME: Final = "sightline"
"""However it was started: what the shell completes."""
app = typer.Typer(
    name=_NAME,
    help="Align vision-language models so that they say what is in the picture.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # below 80 columns its boxes would cut the names of options
    rich_markup_mode="markdown" if shutil.get_terminal_size().columns >= 80 else None,
)
app.command(name="demo")(demo.demo)
app.command(name="doctor")(doctor.doctor)
app.command(name="compare")(compare.compare)
app.command(name="train")(train.train)
app.command(name="show")(train.show)
app.command(name="loop")(loop.loop)
app.command(name="sample")(samples.sample)
app.command(name="score")(samples.score)
app.command(name="pairs")(pairs.pairs)
app.command(name="select")(select.select)
app.command(name="convert")(convert.convert)
app.command(name="assemble")(convert.assemble)
app.command(name="chat")(chat.chat)
app.command(name="app")(local_app.app)
app.command(name="merge")(export.merge)
app.command(name="export")(export.export)
data.app.command(name="check")(check.check)
app.add_typer(check_engine.app, name="check")
app.add_typer(data.app, name="data")
app.add_typer(serve.app, name="serve")
app.add_typer(eval_group.app, name="eval")
app.command(name="report")(eval_group.report)
json_result.add_json(app)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"sightline {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error. May stand anywhere.")] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line. An error that Sightline raises on purpose is one message and exit code 2."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    json_result.begin(arguments)
    try:
        sys.exit(_run(arguments))
    except Exception as error:
        told = _meant(error)
        if told is not None and not debug:
            _fail(told)
        json_result.tell(json_result.error_document(error, f"{error}" or type(error).__name__))
        raise


def _meant(error: Exception) -> SightlineError | None:
    """What people are told in the place of a traceback; None: nobody expected it."""
    if isinstance(error, SightlineError):
        return error
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if not isinstance(error, OSError) or not (full or error.filename):
        return None
    remedy = "Correct the path, or who may write there; --debug shows where it was used"
    if full:
        remedy = "Make room, and run the same command again: it goes on from what is whole"
    return SightlineError(f"{error.filename or 'output'}: {error.strerror}. {remedy}.")


def _run(arguments: list[str]) -> int:
    """The exit code. For people typer shows wrong use itself; for a program it is an error like others."""
    if not json_result.asked():
        app(args=arguments, prog_name=_NAME)
    try:
        code = app(args=arguments, prog_name=_NAME, standalone_mode=False)
    except typer.TyperException as error:
        _fail(SightlineError(error.format_message()), kind="UsageError")
    except typer.Abort:
        return 1
    return code if isinstance(code, int) else 0


def _fail(error: SightlineError, *, kind: str = "") -> NoReturn:
    console.print_error(error)
    json_result.tell(json_result.error_document(error, kind=kind))
    sys.exit(2)
