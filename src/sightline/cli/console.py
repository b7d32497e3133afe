"""What commands print: results on stdout, progress and errors on stderr."""

from __future__ import annotations

import logging
import os

from rich.console import Console, ConsoleDimensions
from rich.text import Text

from sightline.display import WIDE
from sightline.errors import SightlineError


class _Results(Console):
    """As wide as the terminal; where there is none, wide enough for every table of ours."""

    @property
    def size(self) -> ConsoleDimensions:
        known = super().size
        known_width = self.is_terminal or "COLUMNS" in os.environ
        return known if known_width else ConsoleDimensions(WIDE, known.height)

    @size.setter
    def size(self, new_size: tuple[int, int]) -> None:
        self._width, self._height = new_size


out = _Results()
err = Console(stderr=True)


def print_error(error: SightlineError) -> None:
    """One message, as it is: nothing in it is taken for markup."""
    err.print(Text("error: ", style="bold red"), Text(str(error)), sep="", soft_wrap=True)


def say(text: str) -> None:
    """One line about what was done, on stderr."""
    err.print(Text(text), soft_wrap=True)


class _OnStderr(logging.Handler):
    """What the package logs, a line each."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


def show_messages(*, quiet: bool = False) -> None:
    """From now on what the package logs goes to stderr: warnings alone where ``quiet``, else notices too."""
    logger = logging.getLogger("sightline")
    if not any(isinstance(handler, _OnStderr) for handler in logger.handlers):
        logger.addHandler(_OnStderr())
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
