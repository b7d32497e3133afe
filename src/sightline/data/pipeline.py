"""Chunks of rows on their way through worker processes, and into a store in their order.

What a worker finds wrong, and whatever depends on the rows before a row, is settled by the main process, which reads
such a row as if it were alone: results and messages are those of one process.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from sightline.data.building import Finished, Made, Output, Reading, Relating, begin, do, look, unchecked, with_suffix
from sightline.data.picture_files import Verdict
from sightline.data.readers.rows import Row
from sightline.data.reading import Account, refuse, renamed
from sightline.data.stored import decode
from sightline.errors import DataError

_ROWS, _BYTES = 256, 1 << 21
"""Most rows of a chunk, and bytes after which it is closed (rows may hold pictures)."""
_LOOKS = 64
"""Pictures that are looked at in one go."""

Errors = list[tuple[Row, DataError]]


@contextmanager
def _workers(count: int, work: Any) -> Iterator[ProcessPoolExecutor | None]:
    """Processes that work at a copy of ``work`` in which pictures are not looked at; None: there are none to be had."""
    if count < 2 or sys.platform != "linux":
        yield None
        return
    copy = replace(work, source=work.source.copy(unchecked(work.source.account)))
    forked = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(count, mp_context=forked, initializer=begin, initargs=(copy,))
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


Looks = list[tuple[list[str], "Future[list[Verdict]]"]]


@dataclass(kw_only=True)
class _Pipeline:
    """Chunks on their way through the workers, in their order."""

    work: Any
    pool: ProcessPoolExecutor | None
    count: int
    late: Errors = field(default_factory=list)
    making: deque[tuple[list[Any], Future[Finished]]] = field(default_factory=deque)
    looking: deque[tuple[list[Any], Finished, Looks]] = field(default_factory=deque)
    asked: set[str] = field(default_factory=set)
    """Pictures that somebody is looking at."""

    def __post_init__(self) -> None:
        self.account: Account = self.work.source.account
        self.output: Output = self.work.output

    def run(self, chunks: Iterable[list[Any]]) -> None:
        for chunk in chunks:
            if self.pool is None:
                self.alone(chunk)
                continue
            self.making.append((chunk, self.pool.submit(do, chunk)))
            self._move(2 * self.count, self.count)
        self._move(0, 0)

    def alone(self, chunk: list[Any]) -> None:
        """Does all of a chunk in this process."""
        self._take(chunk, Finished([None] * len(chunk), []), [])

    def _move(self, most_making: int, most_looking: int) -> None:
        """Lets chunks go on until no more are waited for."""
        while len(self.making) > most_making:
            chunk, future = self.making.popleft()
            finished = future.result()
            self.looking.append((chunk, finished, self._look(finished)))
            if len(self.looking) > max(most_looking, self.count):
                self._take(*self.looking.popleft())
        while len(self.looking) > most_looking:
            self._take(*self.looking.popleft())

    def _look(self, finished: Finished) -> Looks:
        """Has pictures looked at that nobody has looked at yet."""
        if not self.account.checks.images or self.pool is None:
            return []
        files, unknown = self.account.files, list[str]()
        for path in (path for made in finished.rows if made is not None for path in made.pictures):
            if path in files.seen or path in self.asked:
                continue
            if (known := files.remembered(path)) is not None:
                files.seen[path] = known
            else:
                self.asked.add(path)
                unknown.append(path)
        parts = [unknown[start : start + _LOOKS] for start in range(0, len(unknown), _LOOKS)]
        return [(part, self.pool.submit(look, part)) for part in parts]

    def _take(self, chunk: list[Any], finished: Finished, looks: Looks) -> None:
        for paths, future in looks:
            self.account.files.seen.update(zip(paths, future.result(), strict=True))
            self.asked.difference_update(paths)
        self.output.absent.update(finished.absent)
        for item, made in zip(chunk, finished.rows, strict=True):
            settled = self._settled(item, made)
            if settled is not None and settled.late:
                self.late.append((self.work.row(item), self._lacks(settled)))
            elif settled is not None:
                self.output.add(settled)
        self.output.rows += len(chunk)
        self.output.shown(self.output.rows, len(self.account.files.seen))

    def _lacks(self, made: Made) -> DataError:
        try:
            self.work.source.complete(decode(made.line.group))
        except DataError as error:
            return error
        raise AssertionError("the row lacks something")

    def _settled(self, item: Any, made: Made | None) -> Made | None:
        """The row as it is kept; None: it is bad, and told."""
        if made is None or not self._agrees(made):
            try:
                group = self.work.group(item)
            except DataError as error:
                refuse(self.work.row(item), error, self.account)
                return None
            return self._keyed(self.work.made(item, group))
        if isinstance(self.work, Reading):
            made = self._named(item, made)
        self.work.source.left_out.update(made.left_out)
        return self._keyed(made)

    def _agrees(self, made: Made) -> bool:
        """Whether nothing that other rows brought speaks against a row."""
        files, by_name = self.account.files, self.work.source.pictures.found_by_name
        if self.account.checks.images and any(files.verdict(path).fault for path in made.pictures):
            return False
        if any(by_name.get(file, given) != given for file, given in made.by_name):
            return False
        by_name.update(made.by_name)
        return True

    def _named(self, item: Any, made: Made) -> Made:
        """The row under an id that no other has."""
        suffix = self.work.source.suffix(made.line.id, item)
        if suffix and made.prompts == 1:
            made = with_suffix(made, suffix)
        elif suffix:
            made = self.work.made(item, renamed(decode(made.line.group), suffix))._replace(left_out=made.left_out)
        self.account.ids.add(made.line.id)
        return made

    def _keyed(self, made: Made) -> Made:
        if made.line.keys or not self.account.checks.images:
            return made
        files = self.account.files
        keys = tuple(dict.fromkeys(files.verdict(path).content for path in made.pictures))
        return made._replace(line=made.line._replace(keys=keys))


def read_into(work: Reading, rows: Iterator[Row], workers: int) -> Errors:
    """Reads all rows of a source into its output.

    Returns:
        What rows lack that the algorithm needs.

    Raises:
        DataError: A bad row, where the account asks for an end.
        RecipeError: The layout of the rows is not recognised.
    """
    first = _Pipeline(work=work, pool=None, count=1)
    while work.source.format is None and (row := next(rows, None)) is not None:  # workers are to know the layout
        first.alone([row])
    late = first.late
    if (row := next(rows, None)) is not None:
        late += _through(_chunks(row, rows), work, workers)
    work.output.absent.update(work.source.pictures.absent)
    return late


def relate_into(work: Relating, workers: int) -> Errors:
    """The same for groups that are related."""
    count = len(work.base)
    return _through((list(range(start, min(start + _ROWS, count))) for start in range(0, count, _ROWS)), work, workers)


def _through(chunks: Iterable[list[Any]], work: Any, workers: int) -> Errors:
    with _workers(workers, work) as pool:
        pipeline = _Pipeline(work=work, pool=pool, count=workers)
        pipeline.run(chunks)
    return pipeline.late


def _chunks(first: Row, rows: Iterator[Row]) -> Iterator[list[Row]]:
    chunk, held = [first], 0
    for row in rows:
        if len(chunk) == _ROWS or held > _BYTES:
            yield chunk
            chunk, held = [], 0
        chunk.append(row)
        held += _held(row.content)
    yield chunk


def _held(content: Any) -> int:
    """Bytes of a row, roughly: of its texts and pictures."""
    if isinstance(content, bytes | str):
        return len(content)
    if isinstance(content, dict):
        return sum(map(_held, content.values()))
    if isinstance(content, list):
        return sum(map(_held, content))
    return 8


def cores() -> int:
    """How many processes may run at once."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
