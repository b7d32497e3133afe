"""The folder of a loop: for one process at a time, without what kills left in it."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sightline.errors import CheckpointError
from sightline.loops.state import STATE

RECIPE = "loop.yaml"
_OURS = (RECIPE, "report.html", "prompts.jsonl", STATE)


@contextmanager
def claimed(root: Path, *, overwrite: bool) -> Iterator[None]:
    """The folder of a loop for this process alone, without what kills left in it."""
    if root.exists() and not root.is_dir():
        raise CheckpointError(f"output_dir {root} is a file. Give the name of a folder; it is made if need be.")
    if (root / "recipe.yaml").exists():
        raise CheckpointError(f"output_dir {root} holds a training run, where a loop was expected. Choose another.")
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise CheckpointError(
                f"{root} is in use: another sightline loop runs there. Wait for it, or choose another output_dir."
            ) from error
        if overwrite:
            _empty(root)
        _tidy(root)
        yield


def _empty(root: Path) -> None:
    """Removes a loop and nothing else: the state goes first, without which the rest counts for nothing."""
    for name in reversed(_OURS):
        (root / name).unlink(missing_ok=True)
    for folder in [root / "images", *root.glob("round-*")]:
        shutil.rmtree(folder, ignore_errors=True)


def _tidy(root: Path) -> None:
    """Removes what killed processes were writing aside; a training tidies its own folder."""
    for aside in [*root.glob("*.tmp"), *root.glob("round-*/**/*.tmp")]:
        inside = aside.relative_to(root).parts
        if inside[1:2] == ("train",) and not aside.name.endswith(".released.tmp"):
            continue
        if aside.is_dir():
            shutil.rmtree(aside)
        else:
            aside.unlink(missing_ok=True)
