"""Work of ``benchmarks.gpu`` in processes of its own: what one is asked to do, and how its figures come back.

A process that starts spends ten seconds on imports, so the next one imports while the one before measures; it touches
the device only when told to go. Nothing of torch is imported here.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

Figures = dict[str, Any]
"""What a job measured so far, with its ``state``."""
OnChange = Callable[["Job", Figures], None]
WORKER = (sys.executable, "-m", "benchmarks.gpu_worker")
"""What a process runs."""
GRACE = 5.0
"""Seconds that a job may take beyond the end of its stage before it is stopped."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """Something that is measured in a process of its own."""

    stage: str
    name: str
    """Where its figures stand in the report, within its stage."""
    device: str = "cuda"
    tiny: bool = False
    """Tiny models and few tokens instead of 7B."""
    seconds: float = 0.0
    """Its share of the stage's time, known when it starts."""
    model: str = "llava"
    task: str = "pair"
    contender: str = "tree"
    form: str = "segments"
    """Of attention."""
    image: int = 576
    """Image tokens, about."""
    question: int = 65
    shortest: int = 100
    """Tokens of an answer: from this to ``longest``, drawn anew in every step."""
    longest: int = 174
    groups: int = 4
    """Prompts per micro-batch."""
    answers: int = 2
    """Responses per prompt."""


def write_whole(path: Path, text: str) -> None:
    """Replaces a file at once: a reader, or a kill, never meets half of it."""
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


@dataclass(frozen=True, eq=False)
class Record:
    """Where a job puts its figures; every ``put`` is seen at once."""

    figures: Figures
    changed: Callable[[Figures], None]

    def put(self, **figures: Any) -> None:
        self.figures.update(figures)
        self.changed(self.figures)


@dataclass(eq=False)
class _Timetable:
    """Jobs with their share of what is left of their stage's time."""

    jobs: Sequence[Job]
    budgets: Mapping[str, float]
    ends: dict[str, float] = field(default_factory=dict)
    """When each stage has to end, in ``time.monotonic``: its budget after its first job began."""

    def __iter__(self) -> Iterator[tuple[Job, Job | None]]:
        """Each job, and the one after it."""
        for index, job in enumerate(self.jobs):
            self.ends.setdefault(job.stage, time.monotonic() + self.budgets[job.stage])
            rest = sum(other.stage == job.stage for other in self.jobs[index:])
            left = self.ends[job.stage] - time.monotonic()
            yield replace(job, seconds=max(0.0, left / rest)), (*self.jobs, None)[index + 1]


def run_jobs(jobs: Sequence[Job], budgets: Mapping[str, float], on_change: OnChange, *, ahead: bool) -> None:
    """Runs jobs one after another, each in its own process.

    Args:
        jobs: in order; those of a stage together.
        budgets: seconds of each stage, from its first job on.
        on_change: gets the figures of a job whenever they change.
        ahead: let the next process import while one measures (not where cores are few).
    """
    timetable = _Timetable(jobs, budgets)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        waiting: _Process | None = None
        for job, following in timetable:
            current, waiting = waiting, None
            if job.seconds <= 0:
                on_change(job, {"state": f"left out: no time was left (--seconds {job.stage}=...)"})
                continue
            current = current or stack.enter_context(_Process(job, Path(name)))
            current.go(job.seconds)
            if ahead and following is not None:
                waiting = stack.enter_context(_Process(following, Path(name)))
            current.follow(job, on_change, timetable.ends[job.stage] + GRACE)


def run_here(jobs: Sequence[Job], budgets: Mapping[str, float], on_change: OnChange, *, ahead: bool = False) -> None:
    """The same in this process, for tests and debuggers: memory then counts together."""
    from benchmarks.gpu_worker import work

    for job, _ in _Timetable(jobs, budgets):
        figures: Figures = {"state": "running"}
        on_change(job, figures)
        work(job, Record(figures, partial(on_change, job)))


class _Process:
    """A worker: it imports what its job needs and waits; it ends when its input does (with its parent)."""

    def __init__(self, job: Job, folder: Path) -> None:
        self.figures = Path(tempfile.mkdtemp(dir=folder)) / "figures.json"
        self.seen = 0
        self.process = subprocess.Popen(WORKER, stdin=subprocess.PIPE, text=True)
        self._send(json.dumps(asdict(job)))

    def _send(self, line: str) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it ended already: ``follow`` says how
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()

    def go(self, seconds: float) -> None:
        self._send(json.dumps({"seconds": seconds, "figures": str(self.figures)}))

    def follow(self, job: Job, on_change: OnChange, until: float) -> None:
        """Passes figures on until the process ends, or stops it."""
        found: Figures = {"state": "running"}
        on_change(job, found)
        while (code := self.process.poll()) is None and time.monotonic() < until:
            found = self._news(job, on_change) or found
            time.sleep(0.05)
        found = self._news(job, on_change) or found
        if code is None:
            self.process.kill()  # at once: the next one needs its memory
            self.process.wait()
            on_change(job, found | {"state": "stopped: the time of its stage was over"})
        elif code:
            on_change(job, found | {"state": f"failed: it ended with {code}, see its output"})

    def _news(self, job: Job, on_change: OnChange) -> Figures | None:
        if not self.figures.exists() or (stamp := self.figures.stat().st_mtime_ns) == self.seen:
            return None
        self.seen = stamp
        found: Figures = json.loads(self.figures.read_text(encoding="utf-8"))
        on_change(job, found)
        return found

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
