"""A command that appends groups to a file must not read the file that it writes."""

from __future__ import annotations

import glob
from pathlib import Path

from sightline.errors import RecipeError


def check_apart(out: Path, *read: str | Path) -> None:
    """
    Args:
        out: the file to write.
        read: files that are read, patterns of such, or names of other sources.

    Raises:
        RecipeError: one of them is the file to write.
    """
    for path in read:
        files = [path, *glob.iglob(str(path), recursive=True)]  # noqa: PTH207
        if any(Path(file).resolve() == out.resolve() for file in files):
            raise RecipeError(f"--out is {out}, which is read here. Choose another file, so that no row is lost.")
