"""The process that measures one job of ``benchmarks.gpu``; started by ``benchmarks.gpu_jobs``, told by its input."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from benchmarks.gpu_jobs import Job, Record, write_whole

STAGES = ("machine", "gradients", "attention", "steps", "profile", "agreement", "qlora")
"""Each a module of ``benchmarks.gpu_stages`` with ``measure(job, record)``."""


def environment_of(job: Job) -> dict[str, str]:
    """What must be set before anything is imported."""
    asked = {"HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "1")}
    if "expandable" in job.contender.split("+"):
        asked["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"
    return asked


def measure_of(job: Job) -> Callable[[Job, Record], None]:
    """Imports what the job needs."""
    measure: Callable[[Job, Record], None] = import_module(f"benchmarks.gpu_stages.{job.stage}").measure
    if job.contender.startswith("trl") and job.stage == "steps":
        import_module("benchmarks.gpu_stages.trl").import_libraries()
    return measure


def work(job: Job, record: Record) -> None:
    """Measures; memory that does not suffice is a result."""
    measure = measure_of(job)
    from torch import OutOfMemoryError

    try:
        measure(job, record)
    except OutOfMemoryError:
        record.put(state="out of memory")
    else:
        if record.figures["state"] == "running":
            record.put(state="done")


def _end_with_parent() -> None:
    while os.read(0, 1024):
        pass
    os._exit(1)


def main() -> None:
    job = Job(**json.loads(sys.stdin.readline()))
    os.environ |= environment_of(job)
    measure_of(job)
    if not (line := sys.stdin.readline()):
        return
    threading.Thread(target=_end_with_parent, daemon=True).start()
    order = json.loads(line)
    path = Path(order["figures"])
    record = Record({"state": "running"}, lambda found: write_whole(path, json.dumps(found)))
    work(replace(job, seconds=order["seconds"]), record)
    sys.stdout.flush()
    os._exit(0)  # what Python, torch and the driver do on leaving takes seconds, and the next one waits for the memory


if __name__ == "__main__":
    main()
