"""Kills of a piece of work at a chosen change of the disk, or after a chosen time."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

TIMES = int(os.environ.get("SIGHTLINE_FUZZ", "1"))
"""How many times as many kills, or made-up inputs, as in the ordinary suite."""
_PATIENCE = 300
"""Seconds that a piece of work may take."""
_CHANGES = frozenset(("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink"))
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def killed(work: Callable[[], object], below: Path, *, at: int | None = None, after: float | None = None) -> int:
    """Runs some work in a process of its own, which SIGKILL ends.

    Args:
        work: what to run.
        below: how the paths start whose changes are counted: opened to be written or flushed, renamed, removed.
        at: dies right before this change, counted from 1; None: at none.
        after: dies so many seconds from its start; None: at no time.

    Returns:
        0 if it died, otherwise how many changes it made and one. An error of the work fails the caller.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        _run(work, below, at, after, writing)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    assert not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM), f"hung for {_PATIENCE} seconds"
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return 0
    assert os.waitstatus_to_exitcode(status) == 0, told
    return int(told) + 1


def _run(work: Callable[[], object], below: Path, at: int | None, after: float | None, told: int) -> None:
    """The life of the process that is killed; it never returns."""
    root, changes = str(below.resolve()), 0

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal changes
        if not _changes(event, arguments, root):
            return
        changes += 1
        if changes == at:
            os.kill(os.getpid(), signal.SIGKILL)

    code = 0
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(_PATIENCE)
        if after is not None:
            threading.Timer(after, os.kill, (os.getpid(), signal.SIGKILL)).start()
        sys.addaudithook(watch)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        work()
        os.write(told, str(changes).encode())
    except BaseException:
        os.write(told, traceback.format_exc().encode())
        code = 1
    os._exit(code)


def _changes(event: str, arguments: tuple[object, ...], root: str) -> bool:
    names = [os.fsdecode(name) for name in arguments if isinstance(name, str | bytes | os.PathLike)]
    if event == "open":
        _, mode, flags = arguments
        by_descriptor = mode is None  # how files are flushed, and folders removed
        return bool(names) and names[0].startswith(root) and (by_descriptor or bool(int(str(flags)) & _WRITING))
    return event in _CHANGES and any(name.startswith(root) or "/" not in name for name in names)
