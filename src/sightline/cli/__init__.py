"""The command line: ``sightline --help``. Heavy packages are imported inside the commands that use them."""

from sightline.cli.app import main

__all__ = ["main"]
