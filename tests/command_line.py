"""Runs a command line in this process."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from typing import Any, NamedTuple
from unittest.mock import patch

from sightline import cli


class Done(NamedTuple):
    """What a command left."""

    code: int
    out: str
    err: str


Train = Callable[..., tuple[Done, list[dict[str, Any]]]]
"""Trains a recipe of the repository: its name, the run directory, overrides. Gives the command's output and metrics."""


def sightline(*arguments: object) -> Done:
    """``sightline ARGUMENTS``; anything but an exit comes through."""
    out, err = io.StringIO(), io.StringIO()
    with patch.object(sys, "argv", ["sightline", *map(str, arguments)]), redirect_stdout(out), redirect_stderr(err):
        try:
            cli.main()
            code = 0
        except SystemExit as stopped:
            code = stopped.code if isinstance(stopped.code, int) else 1
    return Done(code, out.getvalue(), err.getvalue())
