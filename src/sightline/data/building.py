"""Rows to stored Groups: what is done to each row, by the same rule in workers and in the main process."""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from sightline.data.identity import identity, pictures_of, question_digest
from sightline.data.picture_files import PictureFiles, Verdict, look_at
from sightline.data.readers.rows import Row
from sightline.data.reading import Account, SourceReader
from sightline.data.stored import Line, Sink, StoredGroups, encode
from sightline.data.validate import check_group
from sightline.errors import DataError, RecipeError
from sightline.relations.pairs import first_pair
from sightline.types import Group

_PR_SET_PDEATHSIG = 1


class Made(NamedTuple):
    """A good row, as a worker gives it back."""

    line: Line
    """Its ``keys`` are those of its question where it has no picture, and otherwise empty until its pictures are
    looked at."""
    identity: bytes
    before: bytes
    """The encoded group that ``visual`` started from; empty: the same."""
    pictures: tuple[str, ...]
    by_name: tuple[tuple[str, str], ...]
    """Of pictures that were found by their bare name: the file, and the path that the row gives."""
    left_out: dict[str, int]
    prompts: int
    late: bool
    """It lacks what the algorithm needs, which is told once all rows are read."""


class Finished(NamedTuple):
    """A chunk of rows; None: a row that the main process is to look at."""

    rows: list[Made | None]
    absent: list[str]
    """Paths at which there was no file."""


@dataclass(kw_only=True)
class Output:
    """What the groups of a part are written to."""

    groups: Sink
    digest: Any
    """SHA-256 over what all groups are."""
    compared: Sink | None = None
    """Gets each group as its row compares answers, where ``visual`` makes other groups of some."""
    read: Callable[[Group], Group] | None = None
    """What makes of each group what is trained."""
    shown: Callable[[int, int], None] = field(default=lambda rows, pictures: None)
    """Told now and then how many rows and pictures are done."""
    absent: set[str] = field(default_factory=set)
    rows: int = 0

    def add(self, made: Made) -> None:
        self.groups.add(made.line)
        self.digest.update(made.identity)
        if self.compared is not None:
            self.compared.add(made.line._replace(group=made.before or made.line.group))


@dataclass(kw_only=True)
class Reading:
    """Rows of a file to groups."""

    source: SourceReader
    output: Output
    last: bool
    """No relation comes behind, so that a group is whole."""

    def group(self, item: Row) -> Group:
        return self.source.group(item)

    def made(self, item: Row, group: Group) -> Made:
        return _made(group, self.source, self.output.read if self.last else None, last=self.last)

    def row(self, item: Row) -> Row:
        return item


@dataclass(kw_only=True)
class Relating:
    """Groups to groups with other comparisons."""

    source: SourceReader
    output: Output
    base: StoredGroups
    relate: Callable[[Group], Group]
    last: bool
    visual: bool

    def group(self, item: int) -> Group:
        """Checked again: other pictures and other answers may take more tokens."""
        group, account = self.relate(self.base[item]), self.source.account
        check_group(group, account.checks, account.files)
        return group

    def made(self, item: int, group: Group) -> Made:
        made = _made(group, self.source, self.output.read if self.last else None, last=self.last)
        line = made.line._replace(keys=self.base.key(item))
        if not self.visual:
            return made._replace(line=line)
        before = self.base[item]  # a meter reads comparisons of answers, whatever is trained
        return made._replace(line=line._replace(pair=first_pair(before) is not None), before=encode(before))

    def row(self, item: int) -> Row:
        file, _, number = self.base[item].source.rpartition(":")
        return Row(file=file, number=int(number), content=b"")


def _made(group: Group, source: SourceReader, read: Callable[[Group], Group] | None, *, last: bool) -> Made:
    pictures, late = pictures_of(group), False
    if last:
        try:
            source.complete(group)
        except DataError:
            late = True
    known = source.pictures.found_by_name
    line = Line(
        id=group.id,
        group=encode(group),
        keys=() if pictures else (question_digest(group),),
        pair=first_pair(group) is not None,
        responses=len(group.responses),
        pictured=bool(pictures),
    )
    return Made(
        line=line,
        identity=identity(group if read is None or late else read(group)) if last else b"",
        before=b"",
        pictures=pictures,
        by_name=tuple((path, known[path]) for path in pictures if path in known) if known else (),
        left_out={},
        prompts=len(group.prompts),
        late=late,
    )


def with_suffix(made: Made, suffix: str) -> Made:
    """A row of one prompt under its id with a suffix: what laying it out anew would give, in a tenth of the time.

    Ids that come again are common: LLaVA's are those of pictures.
    """
    assert made.prompts == 1
    old, new = made.line.id, made.line.id + suffix
    texts = [json.dumps(id, ensure_ascii=False).encode(errors="surrogatepass") for id in (old, new)]
    line = made.line._replace(id=new, group=_begun(made.line.group, b"[[[", *texts))
    told = _begun(made.identity, b"([(", repr(old).encode(), repr(new).encode()) if made.identity else b""
    return made._replace(line=line, identity=told)


def _begun(text: bytes, before: bytes, old: bytes, new: bytes) -> bytes:
    assert text.startswith(before + old)
    return before + new + text[len(before) + len(old) :]


# --- in a worker ----------------------------------------------------------------------------------

_work: list[Any] = []
"""What this process works at: set when it is forked, so that nothing of it is pickled."""


def begin(work: Any) -> None:
    """A worker ends with its parent, however that ends, and leaves interrupts to it."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is not None and os.getppid() != parent.pid:  # it ended before the line above
        os._exit(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)  # the threads of the parent are not there
    _work[:] = [work]


def do(items: list[Any]) -> Finished:
    work = _work[0]
    source: SourceReader = work.source
    source.pictures.absent.clear()
    rows: list[Made | None] = []
    for item in items:
        source.left_out.clear()
        source.account.ids.clear()
        try:
            made = work.made(item, work.group(item))
        except (DataError, RecipeError):
            rows.append(None)
            continue
        rows.append(made._replace(left_out=dict(source.left_out)))
    return Finished(rows, list(source.pictures.absent))


def look(paths: list[str]) -> list[Verdict]:
    return [look_at(path) for path in paths]


class _Unchecked(PictureFiles):
    """Looks at no picture."""

    def check(self, path: str) -> None:
        """Passes."""


def unchecked(account: Account) -> Account:
    """The account of a worker: the main process has each picture looked at once, and knows the ids of all rows."""
    return replace(account, files=_Unchecked(), ids=set())
