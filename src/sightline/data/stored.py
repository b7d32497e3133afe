"""Groups on disk as a sequence: an Arrow file that is mapped into memory, and a Group made of a row when it is asked
for."""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from sightline.data.identity import identity
from sightline.types import Edge, Group, Prompt, Response

_BATCH = 1024
"""Rows of a batch; only the last may have fewer, so that a row is found by its number."""
_RESPONSE = tuple(field.name for field in fields(Response))
_TUPLES = tuple(place for place, field in enumerate(fields(Response)) if str(field.type).startswith("tuple"))


class Line(NamedTuple):
    """One group as it is stored."""

    id: str
    group: bytes
    """:func:`encode` of it."""
    keys: tuple[bytes, ...]
    """What it has in common with rows that must stay on its side of a split: digests of its pictures, or of its
    question where it has none."""
    pair: bool
    """It compares answers under a picture (``relations.pairs.first_pair``)."""
    responses: int
    pictured: bool


def encode(group: Group) -> bytes:
    """A group as JSON, whole: what :func:`decode` gives back is equal to it."""
    plain = [
        [[p.id, p.messages, p.images, p.facts] for p in group.prompts],
        [list(vars(response).values()) for response in group.responses],
        [[e.winner, e.loser, e.kind, e.weight] for e in group.edges],
        group.source,
    ]
    return json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode(errors="surrogatepass")


def decode(text: bytes) -> Group:
    """The group of :func:`encode`."""
    prompts, responses, edges, source = json.loads(text.decode(errors="surrogatepass"))
    return Group(
        prompts=tuple(Prompt(id=p[0], messages=tuple(p[1]), images=tuple(p[2]), facts=p[3]) for p in prompts),
        responses=tuple(map(_response, responses)),
        edges=tuple(Edge(winner=e[0], loser=e[1], kind=e[2], weight=e[3]) for e in edges),
        source=source,
    )


def _response(values: list[Any]) -> Response:
    for place in _TUPLES:
        if values[place] is not None:
            values[place] = tuple(values[place])
    named = dict(zip(_RESPONSE, values, strict=True))
    named["columns"] = {name: tuple(column) for name, column in named["columns"].items()}
    return Response(**named)


class Sink:
    """Writes an Arrow file of groups, a batch at a time."""

    def __init__(self, path: Path) -> None:
        """
        Args:
            path: of a folder that is written aside (``files.keep_folder``).
        """
        import pyarrow  # type: ignore[import-untyped]

        self._schema = pyarrow.schema(
            [
                ("group", pyarrow.large_binary()),
                ("id", pyarrow.large_binary()),
                ("keys", pyarrow.large_list(pyarrow.binary(16))),
                ("pair", pyarrow.bool_()),
                ("responses", pyarrow.uint32()),
            ]
        )
        self._file = pyarrow.OSFile(str(path), "wb")
        self._writer = pyarrow.ipc.new_file(self._file, self._schema)
        self._lines: list[Line] = []
        self.path = path
        self.pictured: list[bool] = []
        """Of every group, whether it has pictures."""

    def add(self, line: Line) -> None:
        self._lines.append(line)
        self.pictured.append(line.pictured)
        if len(self._lines) == _BATCH:
            self._flush()

    def close(self) -> None:
        if self._lines:
            self._flush()
        self._writer.close()
        self._file.close()

    def _flush(self) -> None:
        import pyarrow

        lines, self._lines = self._lines, []
        columns = [
            [line.group for line in lines],
            [line.id.encode(errors="surrogatepass") for line in lines],
            [line.keys for line in lines],
            [line.pair for line in lines],
            [line.responses for line in lines],
        ]
        arrays = [pyarrow.array(column, kind) for column, kind in zip(columns, self._schema.types, strict=True)]
        self._writer.write_batch(pyarrow.record_batch(arrays, schema=self._schema))


class StoredGroups(Sequence[Group]):
    """Groups of a file, made when they are asked for. A slice is such a sequence as well. Picklable, and thread-safe.

    Holds a map of the file and the numbers of its groups, and no group.
    """

    def __init__(
        self,
        path: Path,
        *,
        places: Sequence[int] | None = None,
        read: Callable[[Group], Group] | None = None,
        fingerprint: str = "",
    ) -> None:
        """
        Args:
            path: of a file that a :class:`Sink` wrote.
            places: numbers of the groups in the file; None: all.
            read: what makes of each group what is read; None: as it is.
            fingerprint: of these groups, where it is known.
        """
        import pyarrow

        file = pyarrow.ipc.open_file(pyarrow.memory_map(str(path)))
        self._path, self._read = path, read
        self._batches = [file.get_batch(number) for number in range(file.num_record_batches)]
        total = sum(batch.num_rows for batch in self._batches)
        self.places: Sequence[int] = range(total) if places is None else places
        self.fingerprint = fingerprint

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, place: int) -> Group: ...
    @overload
    def __getitem__(self, place: slice) -> StoredGroups: ...
    def __getitem__(self, place: int | slice) -> Group | StoredGroups:
        if isinstance(place, slice):
            return self._with(self.places[place])
        group = decode(self._value("group", int(self.places[place])))
        return group if self._read is None else self._read(group)

    def __iter__(self) -> Iterator[Group]:
        return (self[place] for place in range(len(self)))

    def __copy__(self) -> StoredGroups:
        """Of the same map: the file may be gone, as stores may be at any time."""
        made = object.__new__(StoredGroups)
        vars(made).update(vars(self))
        return made

    def __reduce__(self) -> Any:
        return _opened, (self._path, self.places, self._read, self.fingerprint)

    def pick(self, places: Iterable[int]) -> StoredGroups:
        """Those at some places of this sequence."""
        return self._with(np.asarray(self.places)[np.fromiter(places, np.int64)])

    def reading(self, read: Callable[[Group], Group] | None, fingerprint: str) -> StoredGroups:
        """The same groups, as they are read."""
        made = copy.copy(self)
        made._read, made.fingerprint = read, fingerprint
        return made

    def ids(self) -> Iterator[str]:
        """Of all groups, none of which is made."""
        return (self._value("id", place).decode(errors="surrogatepass") for place in self.places)

    def keys(self) -> Iterator[tuple[bytes, ...]]:
        """Digests of the pictures of each, or of its question."""
        return map(self.key, range(len(self)))

    def key(self, place: int) -> tuple[bytes, ...]:
        """Those of one."""
        return tuple(self._value("keys", int(self.places[place])))

    def pairs(self) -> list[int]:
        """Places of those that compare answers under a picture."""
        return np.flatnonzero(self._column("pair")).tolist()

    def responses(self) -> list[int]:
        """How many each has."""
        return self._column("responses").astype(np.int64).tolist()

    def _with(self, places: Any) -> StoredGroups:
        made = copy.copy(self)
        made.places = places
        made.fingerprint = self.fingerprint if np.array_equal(places, self.places) else ""
        return made

    def _value(self, name: str, place: int) -> Any:
        batch, row = divmod(int(place), _BATCH)
        return self._batches[batch].column(name)[row].as_py()

    def _column(self, name: str) -> NDArray[Any]:
        parts = [batch.column(name).to_numpy(zero_copy_only=False) for batch in self._batches]
        return np.concatenate([np.zeros(0, np.int64), *parts])[np.asarray(self.places, np.int64)]


def _opened(path: Path, places: Sequence[int], read: Callable[[Group], Group] | None, known: str) -> StoredGroups:
    return StoredGroups(path, places=places, read=read, fingerprint=known)


class JoinedGroups(Sequence[Group]):
    """Sequences of groups one behind the other, none of them copied."""

    def __init__(self, *parts: Sequence[Group]) -> None:
        self._parts = [part for part in parts if len(part)]

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def __iter__(self) -> Iterator[Group]:
        return itertools.chain.from_iterable(self._parts)

    @overload
    def __getitem__(self, place: int) -> Group: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Group]: ...
    def __getitem__(self, place: int | slice) -> Group | Sequence[Group]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        left = place + len(self) if place < 0 else place
        for part in self._parts:
            if 0 <= left < len(part):
                return part[left]
            left -= len(part)
        raise IndexError(place)


def at_places(groups: Sequence[Group], places: Sequence[int]) -> Sequence[Group]:
    """The groups at some places."""
    return groups.pick(places) if isinstance(groups, StoredGroups) else [groups[place] for place in places]


def fingerprint(groups: Sequence[Group]) -> str:
    """SHA-256 of what groups ask, answer, weigh and compare, in their order. Of pictures the number counts: files may
    move."""
    if isinstance(groups, StoredGroups) and groups.fingerprint:
        return groups.fingerprint
    digest = hashlib.sha256()
    for group in groups:
        digest.update(identity(group))
    return digest.hexdigest()
