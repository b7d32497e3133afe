"""Stores of Groups: what the rows of a part give is kept, and found again as long as nothing changed that decides it.

A store is a folder named by a key of everything that decides its content: the sources, each file of rows with its size
and time, the checks, tokenizer, template and image processor, the seed, and the code that reads. What cannot be known
before rows are read, the pictures, stands in the store with size and time of each, and is compared when it is found.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import sightline
from sightline.data.building import Output, Reading, Relating
from sightline.data.identity import pictures_of, question_digest
from sightline.data.load import Begun, close_source, counted, load_groups, open_source, settled
from sightline.data.picture_files import PictureFiles, Verdicts, stamp
from sightline.data.pipeline import Errors, cores, read_into, relate_into
from sightline.data.readers.sources import files_of
from sightline.data.reading import Account, SourceReader, refuse
from sightline.data.stored import Sink, StoredGroups
from sightline.data.validate import BadRow, DataReport, SourceCount
from sightline.errors import DataError
from sightline.files import clear_asides, keep_folder, replace_file
from sightline.recipes.schema import DataSpec
from sightline.types import Group

_FORMAT = 1
"""Of the folders; another number makes others."""
LEAST_BYTES = 8_000_000
"""Rows of fewer bytes are read into memory every time: that takes seconds."""
_OLD = 24 * 3600
"""Seconds after which what a killed process left is removed."""
_TICK, _COARSE = 20_000_000, 2_000_000_000
"""Nanoseconds in which the clocks of file systems may tell two changes of a file as one, and those of old ones."""
_STAMPED = 4096
"""Pictures whose stamps are compared in one go."""


_Stamp = tuple[str, int, int]
"""Path, size and time of a file."""


@dataclass(frozen=True, kw_only=True)
class Storing:
    """How the groups of a part are kept."""

    folder: Path
    """Where stores and verdicts on pictures lie."""
    always: bool = False
    """Also of few rows."""
    decided_by: str = ""
    """What decides the result beside sources and account, as text: how tokens are counted, how groups are read."""
    visual: str = ""
    """Folder that pictures of ``visual`` sources are made in."""
    read: Callable[[Group], Group] | None = None
    """What makes of each group what is trained; None: it is trained as it is."""
    shown: Callable[[int, int], None] = field(default=lambda rows, pictures: None)
    """Told now and then how many rows and pictures are done."""
    workers: int = field(default_factory=cores)
    """Processes that read."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """The groups of a part."""

    groups: Sequence[Group]
    compared: Sequence[Group]
    """The same as their rows compare answers, before comparisons of pictures are made of them and as no reward model
    reads them."""
    keys: Callable[[], Sequence[tuple[bytes, ...]]]
    """For each, digests of its pictures, or of its question."""


def default_folder() -> Path:
    """``SIGHTLINE_CACHE``, or ``sightline`` in ``XDG_CACHE_HOME`` or ``~/.cache``."""
    if named := os.environ.get("SIGHTLINE_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sightline"


def is_stored(specs: Sequence[DataSpec], storing: Storing) -> bool:
    """Whether the groups of some sources are stored."""
    return bool(specs) and _is_stored(_stamps(specs), storing)


def _is_stored(stamps: list[_Stamp] | None, storing: Storing) -> bool:
    return stamps is not None and (storing.always or sum(size for _, size, _ in stamps) >= LEAST_BYTES)


def load_part(specs: Sequence[DataSpec], account: Account, storing: Storing) -> Loaded:
    """The groups of some sources; read from their store where there is one, and stored where they are many.

    Args:
        specs: the sources.
        account: what they are read with, and into: its report is the same whichever way.
        storing: where stores are.

    Raises:
        DataError, RecipeError: as ``load_groups``.
    """
    stamps = _stamps(specs)
    if stamps is None or not specs or not _is_stored(stamps, storing):
        return _in_memory(specs, account, storing)
    final = storing.folder / f"groups-{_FORMAT}" / _key(specs, stamps, account, storing)
    if not _is_current(final, account):
        _build(final, specs, account, storing)
    meta = json.loads((final / "meta.json").read_text(encoding="utf-8"))
    account.report = _report(meta["report"])
    compared = StoredGroups(final / ("compared.arrow" if meta["compared"] else "groups.arrow"))
    groups = StoredGroups(final / "groups.arrow", read=storing.read, fingerprint=meta["fingerprint"])
    return Loaded(groups=groups, compared=compared, keys=lambda: list(compared.keys()))


def _in_memory(specs: Sequence[DataSpec], account: Account, storing: Storing) -> Loaded:
    account.checks = replace(account.checks, fits=_showing(account, storing))
    groups = [group for spec in specs for group in load_groups(spec, account)]
    compared = [account.before.get(group.id, group) for group in groups]

    def keys() -> list[tuple[bytes, ...]]:
        files = account.files
        pictures = [pictures_of(group) for group in compared]
        return [
            tuple(dict.fromkeys(files.verdict(path).content for path in paths)) or (question_digest(group),)
            for group, paths in zip(compared, pictures, strict=True)
        ]

    read = groups if storing.read is None else [storing.read(group) for group in groups]
    return Loaded(groups=read, compared=compared, keys=keys)


def _showing(account: Account, storing: Storing) -> Callable[[Group, int], bool] | None:
    """Shows how far the account is whenever a group is measured."""
    fits = account.checks.fits

    def shown(group: Group, most: int) -> bool:
        storing.shown(account.report.read, 0)
        return fits is not None and fits(group, most)

    return shown


# --- what decides a store -------------------------------------------------------------------------


def _stamps(specs: Sequence[DataSpec]) -> list[_Stamp] | None:
    """Of all files that hold rows; None: rows that lie in no file."""
    found: list[_Stamp] = []
    for spec in specs:
        rows, _ = settled(spec)
        files = files_of(rows.path, rows.split)
        if files is None:
            return None
        named = [spec.path, *files] if spec.entry is not None else files
        found += [(os.path.realpath(file), *_settled_stamp(file)) for file in named]
    return found


def _settled_stamp(file: str) -> tuple[int, int]:
    """The stamp of a file, once it is so old that a later change has another."""
    with contextlib.suppress(OSError):
        changed = Path(file).stat().st_ctime_ns
        tick = _TICK if changed % 1_000_000_000 else _COARSE
        time.sleep(min(max(0, changed + tick - time.time_ns()), tick) / 1e9)
    return stamp(file)


def _key(specs: Sequence[DataSpec], stamps: list[_Stamp], account: Account, storing: Storing) -> str:
    decides = {
        "sources": [dataclasses.asdict(replace(spec, weight=1.0)) for spec in specs],
        "here": str(Path.cwd()),  # messages and sources name paths as they are given
        "files": stamps,
        "checks": [account.checks.images, account.checks.answers, account.checks.max_length],
        "account": [account.on_bad_row, account.seed, account.prompts_only],
        "needs": None if account.needs is None else dataclasses.asdict(account.needs),
        "visual": storing.visual if any(spec.visual is not None for spec in specs) else "",
        "decided_by": storing.decided_by,
        "code": _code(),
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:32]


@functools.cache
def _code() -> str:
    """Digest of the code that makes groups of rows."""
    digest, root = hashlib.sha256(), Path(sightline.__file__).parent
    for part in ("data", "relations", "negatives"):
        for path in sorted((root / part).rglob("*.py")):
            digest.update(path.read_bytes())
    digest.update((root / "types.py").read_bytes())
    return digest.hexdigest()


def _is_current(folder: Path, account: Account) -> bool:
    """Whether a store is there and its pictures are as they were."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        pictures = json.loads((folder / "pictures.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if meta["kept_in"] not in ("", str(account.cache_dir)):  # another run keeps the pictures that rows embed
        return False
    paths, sizes, times = pictures["path"], pictures["size"], pictures["time"]
    starts = range(0, len(paths), _STAMPED)

    def same(start: int) -> bool:
        some = slice(start, start + _STAMPED)
        now = (stamp(path) for path in paths[some])
        return all(one == before for one, before in zip(now, zip(sizes[some], times[some], strict=True), strict=True))

    with ThreadPoolExecutor(8) as pool:  # a file system of a network takes its time
        return all(pool.map(same, starts))


# --- building -------------------------------------------------------------------------------------


def _build(final: Path, specs: Sequence[DataSpec], account: Account, storing: Storing) -> None:
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=final.parent):
            pass
    except OSError as error:
        raise DataError(
            f"what is kept of rows cannot be written there ({error.strerror})",
            source=str(storing.folder),
            remedy="Set data.cache_dir, or SIGHTLINE_CACHE, to a folder that can be written to",
        ) from error
    clear_asides(final.parent, _OLD)
    verdicts = Verdicts(storing.folder)
    account.files = PictureFiles(verdicts.load())
    try:
        keep_folder(final, lambda folder: _fill(folder, specs, account, storing))
    finally:
        verdicts.add(account.files.fresh())
        account.files, account.ids = PictureFiles(), set()


def _fill(folder: Path, specs: Sequence[DataSpec], account: Account, storing: Storing) -> None:
    compared = Sink(folder / "compared.arrow") if any(spec.visual is not None for spec in specs) else None
    output = Output(
        groups=Sink(folder / "groups.arrow"),
        digest=hashlib.sha256(),
        compared=compared,
        read=storing.read,
        shown=storing.shown,
    )
    with contextlib.ExitStack() as stack:
        for sink in [output.groups, *([] if compared is None else [compared])]:
            stack.callback(sink.close)
        for spec in specs:
            _one_source(spec, account, output, storing)
    seen = account.files.seen
    stamps = {path: verdict[:2] for path, verdict in seen.items()} | dict.fromkeys(output.absent, (-1, -1))
    kept_in = "" if account.cache_dir is None else str(account.cache_dir.absolute())
    embeds = bool(kept_in) and any(path.startswith(f"{kept_in}/") for path in seen)
    columns = {"path": list(stamps), "size": [s for s, _ in stamps.values()], "time": [t for _, t in stamps.values()]}
    meta = {
        "fingerprint": output.digest.hexdigest(),
        "compared": compared is not None,
        "kept_in": str(account.cache_dir) if embeds else "",
        "report": dataclasses.asdict(account.report),
    }
    for name, content in (("pictures.json", columns), ("meta.json", meta)):
        replace_file(folder / name, json.dumps(content))


def _one_source(spec: DataSpec, account: Account, output: Output, storing: Storing) -> None:
    opened = open_source(spec)
    source = SourceReader(opened.spec, account, opened.entry)
    begun, before = Begun.of(account.report), len(output.groups.pictured)
    relations = [] if account.prompts_only else source.relations()
    rows, late = counted(opened.rows, account.report), Errors()
    base: StoredGroups | None = None
    for number in range(len(relations) + 1):
        last = number == len(relations)
        own = output if last else replace(output, groups=_between(output, number), compared=None, digest=_Nothing())
        if base is None:
            late = read_into(Reading(source=source, output=own, last=last), rows, storing.workers)
        else:
            relate = relations[number - 1](base)
            work = Relating(
                source=source, output=own, base=base, relate=relate, last=last, visual=spec.visual is not None
            )
            late = relate_into(work, storing.workers)
        if not last:
            own.groups.close()
            base = StoredGroups(own.groups.path)
            own.groups.path.unlink()
    for row, error in late:
        refuse(row, error, account)
    output.absent |= source.pictures.absent
    close_source(source, begun, output.groups.pictured[before:], account)


def _between(output: Output, number: int) -> Sink:
    return Sink(output.groups.path.with_name(f"between-{number}.arrow"))


class _Nothing:
    """Stands for the digest of groups that are not the last."""

    def update(self, data: bytes) -> None:
        """Passes."""


def _report(plain: dict[str, Any]) -> DataReport:
    return DataReport(
        read=plain["read"],
        kept=plain["kept"],
        with_pictures=plain["with_pictures"],
        bad=[BadRow(**row) for row in plain["bad"]],
        notes=plain["notes"],
        sources=[SourceCount(**one) for one in plain["sources"]],
    )
