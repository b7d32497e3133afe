"""The commands together, and the one place where an error becomes a message."""

from __future__ import annotations

import errno
import sys
from typing import Annotated

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
    eval_group,
    export,
    local_app,
    loop,
    pairs,
    samples,
    select,
    serve,
    train,
)
from sightline.errors import SightlineError

app = typer.Typer(
    name="sightline",
    help="Align vision-language models so that they say what is in the picture.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.command(name="demo")(demo.demo)
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
    try:
        app(args=arguments)
    except SightlineError as error:
        if debug:
            raise
        console.print_error(error)
        sys.exit(2)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        if debug or not (full or error.filename):
            raise
        remedy = "Correct the path, or who may write there; --debug shows where it was used"
        if full:
            remedy = "Make room, and run the same command again: it goes on from what is whole"
        console.print_error(SightlineError(f"{error.filename or 'output'}: {error.strerror}. {remedy}."))
        sys.exit(2)
