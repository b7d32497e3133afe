"""What all tabs stand on."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sightline.app.folders import Folders, Found
from sightline.app.labels import SUFFIX, Labels, open_labels
from sightline.app.rows import Shelf
from sightline.app.runs import Runs
from sightline.app.speakers import Speaker
from sightline.data.render import Renderer
from sightline.errors import DataError
from sightline.evaluation.known import Annotated
from sightline.services.bounds import Bounds


@dataclass(kw_only=True)
class Desk:
    """The folders, the models and the work under way."""

    folders: Folders
    speakers: Sequence[Speaker]
    scratch: Path
    """For copies of uploads, drawn scenes and compared results; goes when the app ends."""
    annotated: Sequence[Annotated] = ()
    """Benchmarks that know what is in their pictures."""
    bounds: Bounds = field(default_factory=Bounds)
    """Bytes and pixels of a picture."""
    shelf: Shelf = field(init=False)
    runs: Runs = field(init=False)
    last: tuple[str, str] | None = None
    """Key of the labels that were opened last: a page that is loaded anew goes on there."""
    _labels: dict[tuple[Path, Path], Labels] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.shelf, self.runs = Shelf(folders=self.folders), Runs(folders=self.folders)

    @property
    def renderer(self) -> Renderer | None:
        """Of the first model."""
        return self.speakers[0].engine.renderer if self.speakers else None

    def look(self) -> Found:
        return self.folders.look()

    def choices(self, paths: Sequence[Path]) -> list[tuple[str, str]]:
        """Names and values of a list to choose from."""
        return [(self.folders.name_of(path), str(path)) for path in paths]

    def open_labels(self, source: str, out: str) -> tuple[str, str]:
        """Opens a file to be labelled, anew where nobody has.

        Returns:
            Its key for :meth:`labels`.

        Raises:
            DataError: outside of the folders, or nothing in it to choose from.
        """
        if not source:
            raise DataError("no file was chosen", remedy="Choose a Group file with several answers to each prompt")
        read = self.folders.inside(source)
        written = self.folders.inside(read.parent / out.strip()) if out.strip() else labels_of(read)
        if written.suffix != ".jsonl" or written.is_dir():
            raise DataError("labels are written into a .jsonl file", source=str(written), remedy="Name it NAME.jsonl")
        with self._lock:
            self._labels[read, written] = open_labels(read, written)
            key = self.last = str(read), str(written)
        return key

    def labels(self, key: tuple[str, str] | None) -> Labels:
        """
        Raises:
            DataError: no file is open.
        """
        found = self._labels.get((Path(key[0]), Path(key[1]))) if key else None
        if found is None:
            raise DataError("no file is open", remedy="Choose a file and open it")
        return found


def labels_of(source: Path) -> Path:
    """Where labels of a file go where nothing else is said."""
    return source.with_name(f"{source.stem}{SUFFIX}")
