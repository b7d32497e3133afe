"""``sightline doctor``."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from sightline.cli.console import out, say
from sightline.cli.json_result import Document, Ended

_SIGNS = {"ok": ("ok   ", "green"), "note": ("note ", "yellow"), "wrong": ("WRONG", "bold red")}


def doctor(
    test: Annotated[
        bool, typer.Option("--test/--no-test", help="Compute something: seconds, at most a minute.")
    ] = True,
) -> Document:
    """Look at this installation: versions, GPU, extras, places of files, the hub; and compute something known.

    What it prints can be pasted into a bug report: it holds no token, and `~` for the home folder. Exit code 0: all is
    well (notes are no faults); 1: something is wrong.

    Example: `sightline doctor`

    Example: `sightline doctor --json`
    """
    from sightline.cli.doctor_checks import looks

    found, title = [], ""
    for look in looks(tested=test):
        if look.about != title:
            title = look.about
            out.print(Text(title, style="bold"))
        found.append(look)
        sign, style = _SIGNS[look.state]
        remedy = f". {look.remedy}" if look.remedy else ""
        out.print(Text.assemble("  ", (sign, style), f" {look.found}{remedy}"), soft_wrap=True)
    wrong = [look for look in found if look.state == "wrong"]
    document = {"healthy": not wrong, "looks": found}
    if wrong:
        say(f"{len(wrong)} of {len(found)} are wrong.")
        raise Ended(document, code=1)
    say("Nothing is wrong.")
    return document
