"""Runs: their curves as they grow, and the processes that work on them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from sightline.app.folders import Folders
from sightline.app.rows import kept
from sightline.data.schema import group_of_line, relative_to
from sightline.errors import CheckpointError, DataError
from sightline.recipes.moved import where_it_was
from sightline.report.fragments import fragment
from sightline.report.gallery import gallery_of
from sightline.report.page import Detail, GalleryItem
from sightline.report.run_page import not_finite, training_curves, unchanged
from sightline.train.checkpoint import newest_step
from sightline.train.process import started_in, working_on
from sightline.train.run_folder import RunDirectory, model_step

State = Literal["running", "finished", "stopped"]
_TAIL: Final = 1 << 20
"""Bytes from the end of the samples that are looked at."""
_SAMPLES: Final = 6
_LOG: Final = 4000
"""Bytes of what a resumed run said."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How far a run is."""

    state: State
    step: int
    checkpoint: int | None
    """Step that it would go on from."""
    pid: int | None = None

    @property
    def words(self) -> str:
        if self.state == "running":
            return f"running as process {self.pid}, {self.step} steps logged"
        if self.state == "finished":
            return f"finished after {self.step} steps"
        start = "begins anew: there is no checkpoint" if self.checkpoint is None else "goes on from its checkpoint"
        place = "" if self.checkpoint is None else f" of step {self.checkpoint}"
        return f"stopped after step {self.step}; resumed, it {start}{place}"


@dataclass(kw_only=True)
class Runs:
    """The runs of the folders, and the processes that this app started for them."""

    folders: Folders
    _started: dict[Path, subprocess.Popen[bytes]] = field(default_factory=dict)
    _asked: dict[Path, int] = field(default_factory=dict)
    """Processes that were asked to stop once."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def standing(self, name: str | Path) -> Standing:
        """
        Raises:
            DataError: outside of the folders, or gone.
        """
        run = RunDirectory(path=self.folders.inside(name))
        if not run.path.is_dir():
            raise DataError("is not there any more", source=str(run.path), remedy="Choose another run")
        records = read_records(run.metrics)
        pid, step, done = self._pid(run), records[-1]["step"] if records else 0, model_step(run.model)
        state: State = "running" if pid is not None else "finished" if done is not None and done >= step else "stopped"
        return Standing(state=state, step=step, checkpoint=newest_step(run.path), pid=pid)

    def stop(self, name: str | Path) -> str:
        """Does what Ctrl-C does to a run; asked again, what `kill` does.

        Raises:
            DataError: nothing works on it on this machine.
        """
        run = RunDirectory(path=self.folders.inside(name))
        pid = self._pid(run)
        if pid is None:
            raise DataError(
                "no process of this machine works on it", source=str(run.path), remedy="Stop it where it was started"
            )
        again = self._asked.get(run.path) == pid
        os.kill(pid, signal.SIGTERM if again else signal.SIGINT)
        self._asked[run.path] = pid
        return f"Process {pid} was told to end at once." if again else f"Process {pid} was asked to stop (Ctrl-C)."

    def resume(self, name: str | Path) -> str:
        """Runs `sightline train` on the recipe of the run again, in a process that outlives the app.

        Raises:
            DataError, CheckpointError: it runs already, is finished, or cannot be started as it was.
        """
        run = RunDirectory(path=self.folders.inside(name))
        with self._lock:
            standing = self.standing(run.path)
            if standing.state != "stopped":
                raise DataError(f"is {standing.words}", source=str(run.path), remedy="There is nothing to resume")
            folder = folder_of(run)
            command = [sys.executable, "-m", "sightline", "train", str(run.recipe), "--resume"]
            if standing.checkpoint is None:
                command.pop()
            with run.resumed.open("ab") as log:
                self._started[run.path] = subprocess.Popen(
                    command,
                    cwd=folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        return f"Resumed as process {self._started[run.path].pid}."

    def _pid(self, run: RunDirectory) -> int | None:
        started = self._started.get(run.path)
        if started is not None and started.poll() is None:
            return started.pid
        return working_on(run)


def folder_of(run: RunDirectory) -> Path:
    """The folder that the run was started in: relative paths of its recipe start there.

    Raises:
        CheckpointError: it was moved, or several processes worked on it.
    """
    try:
        facts = json.loads(run.environment.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        facts = {}
    if (processes := facts.get("processes", 1)) != 1:
        raise CheckpointError(
            f"{run.path}: {processes} processes worked on it, and the app starts one. Resume it with the command that "
            "started it."
        )
    folder = started_in(run)
    if folder is None or (folder / where_it_was(run.recipe)).resolve() != run.path:
        found = "does not say where it was started" if folder is None else f"was started in {folder} as another folder"
        raise CheckpointError(f"{run.path} {found}. Resume it with the command that started it.")
    return folder


def read_records(metrics: Path) -> list[dict[str, Any]]:
    """The whole lines of ``metrics.jsonl``; empty where there is none yet."""
    try:
        lines = metrics.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:  # being written
            continue
        if isinstance(record, dict) and type(record.get("step")) is int:
            found.append(record)
    return found


def stamp(run: Path) -> tuple[int, ...]:
    """Changes where what is shown of a run changed."""
    names = ("metrics.jsonl", "samples.jsonl", "process.json", "resumed.log", "report.html")
    return tuple((run / name).stat().st_mtime_ns if (run / name).is_file() else 0 for name in names)


def look_words(record: Mapping[str, Any]) -> str | None:
    """What the last reading of the look meter says; None: there was none."""
    judged = next((name for name in ("other", "blank") if f"looking/{name}/low" in record), None)
    if judged is None:
        return None
    picture = "another picture" if judged == "other" else "a white picture"
    low, high = record[f"looking/{judged}/low"], record[f"looking/{judged}/high"]
    verdict = "the preference does not depend on the picture" if record.get("looking/blind") else "it looks"
    if not record.get("looking/blind") and low <= 0 <= high:
        verdict = "not certain yet"
    return (
        f"Does it look? At step {record['step']} training had added {record['looking/margin']:+.3g} to the margin, "
        f"of which {picture} takes {record[f'looking/{judged}']:+.3g} away [{low:+.3g}, {high:+.3g}]: {verdict}."
    ).replace("-", "−")


def run_html(run: Path, standing: Standing, folders: Folders) -> str:
    """State, look meter, curves, samples, and what else the folder tells of a run."""
    records = read_records(run / "metrics.jsonl")
    looked = next((words for record in reversed(records) if (words := look_words(record))), None)
    notes = [standing.words, *([looked] if looked else [])]
    if not records:
        notes.append("Nothing was logged yet.")
    flat = unchanged(records) if records else {}
    text = "\n".join(f"{name}  {value:.6g}" for name, value in flat.items())
    details = [Detail(title=f"Figures with one value throughout ({len(flat)})", text=text)] if flat else []
    for title, name in (("First row as the model sees it", "first_row.txt"), ("Recipe", "recipe.yaml")):
        if (run / name).is_file():
            details.append(Detail(title=title, text=(run / name).read_text(encoding="utf-8", errors="replace")))
    if (said := _said(run / "resumed.log")) and standing.state != "running":
        details.insert(0, Detail(title="What the resumed run said last", text=said))
    bad = [broken] if records and (broken := not_finite(records)) else []
    gallery: list[GalleryItem] = []
    try:
        gallery = last_samples(run, folders)
    except DataError as error:
        bad.append(str(error))
    curves = training_curves(records) if records else []
    return fragment(bad=bad, notes=notes, curves=curves, gallery=gallery, details=details)


def _said(log: Path) -> str:
    try:
        return log.read_bytes()[-_LOG:].decode("utf-8", "replace").strip()
    except OSError:
        return ""


def last_samples(run: Path, folders: Folders) -> list[GalleryItem]:
    """The last groups that an online run sampled. Pictures outside of the folders are left out."""
    path = run / "samples.jsonl"
    if not path.is_file():
        return []
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        lines = file.read().split(b"\n")
    whole = lines[(path.stat().st_size > _TAIL) : -1][-_SAMPLES:]
    groups = [group_of_line(line, str(path), relative_to(run)) for line in whole if line.strip()]
    return [kept(item, folders) for item in gallery_of(reversed(groups))]
