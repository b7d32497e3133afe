"""Which process works on a run, so that whoever looks at its folder can stop it."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

from sightline.errors import CheckpointError
from sightline.files import replace_file
from sightline.train.run_folder import RunDirectory


def note_process(run: RunDirectory) -> None:
    """Writes down that this process works on the run. Main process only."""
    me = os.getpid()
    told = {"pid": me, "host": platform.node(), "started": _started(me), "folder": str(Path.cwd())}
    replace_file(run.process, json.dumps(told) + "\n")


def note_end(run: RunDirectory) -> None:
    """Writes down that this process has ended its work on the run: it may live on, as that of a notebook does."""
    try:
        told = _told(run)
    except (OSError, ValueError):
        return
    if told.get("pid") == os.getpid():
        replace_file(run.process, json.dumps(told | {"pid": None}) + "\n")


def check_alone(run: RunDirectory) -> None:
    """
    Raises:
        CheckpointError: another process of this machine works on the run.
    """
    pid = working_on(run)
    if pid is not None and pid != os.getpid():
        raise CheckpointError(
            f"{run.path} is in use: process {pid} trains there. Wait for it or stop it, or choose another output_dir."
        )


def working_on(run: RunDirectory) -> int | None:
    """The process that works on a run on this machine; None: none does, or it is on another one.

    A number that another process got since is told apart by when that one started, where the system says so.
    """
    try:
        told = _told(run)
        pid, host, started = int(told["pid"]), told["host"], told["started"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return pid if host == platform.node() and _is_there(pid) and _started(pid) == started else None


def started_in(run: RunDirectory) -> Path | None:
    """The folder that relative paths of a run's recipe start from; None: it was not written down."""
    try:
        return Path(_told(run)["folder"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _told(run: RunDirectory) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(run.process.read_text(encoding="utf-8"))
    return told


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


def _started(pid: int) -> str | None:
    """When a process started, in the system's ticks; None where the system does not tell, or it has ended and waits to
    be asked for its end."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]
