"""Where rows lie: files by kind and compression, globs, folders of shards, folders and names of ``datasets``."""

from __future__ import annotations

import codecs
import csv
import glob
import gzip
import io
import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

from sightline.data.readers.lists import elements
from sightline.data.readers.rows import NotText, Row, RowError, parse_json, rows_of
from sightline.data.readers.tables import table_rows
from sightline.data.readers.tars import tar_records
from sightline.errors import DataError

_COMPRESSED = (".gz", ".zst")
_KINDS = (".json", ".jsonl", ".ndjson", ".parquet", ".csv", ".tsv", ".tar")
_KNOWN = ".json, .jsonl, .csv, .tsv (each also .gz or .zst), .parquet or .tar"
_SPLITS = ("train", "test", "validation", "valid", "val", "dev", "eval")
_NOT_ROWS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "metadata.json")
_WHOLE = 1 << 24
"""Bytes from which on a JSON list is read element by element."""
_WILD = frozenset("*?[")


def read_rows(path: str, *, split: str = "train", limit: int | None = None) -> Iterator[Row]:
    """The rows of a file, of all files of a glob or a folder, of a folder saved by ``datasets``, or a datasets name.

    Pictures that a table or a tar embeds come as ``{"bytes": ..., "path": ...}``, undecoded.

    Args:
        path: File, glob, folder, or name on the hub.
        split: Split of a folder or name.
        limit: First rows only.

    Raises:
        DataError: Nothing readable is there.
    """
    return itertools.islice(_all_rows(path, split), limit)


def folder_of(path: str) -> str | None:
    """The folder that relative paths of rows start from; None: the rows lie in no one folder."""
    if Path(path).exists():
        return path if Path(path).is_dir() else str(Path(path).parent)
    parent = Path(path).parent
    return str(parent) if _is_glob(path) and parent.is_dir() else None


def files_of(path: str, split: str = "train") -> list[str] | None:
    """The files that hold the rows of a source; None: rows that lie in no file.

    Raises:
        DataError: Nothing readable is there.
    """
    if _is_glob(path):
        return sorted(glob.glob(path, recursive=True))  # noqa: PTH207
    if Path(path).is_dir():
        if _saved_by_datasets(Path(path)):
            return [str(file) for file in sorted(Path(path).rglob("*")) if file.is_file()]
        return _shards(path, split)
    if _kind(path) or Path(path).is_file():
        return [path]
    return _cached_files(path, split)


def _is_glob(path: str) -> bool:
    return bool(_WILD & set(path)) and not Path(path).exists()


def _kind(path: str) -> str:
    """``.jsonl`` of ``rows.jsonl.gz``; empty where rows are not read from such a file."""
    name = Path(path)
    suffix = name.suffix.lower()
    if suffix in _COMPRESSED:
        inner = Path(name.stem).suffix.lower()
        return inner if inner in _KINDS and inner != ".parquet" else ""
    return suffix if suffix in _KINDS else ""


def _all_rows(path: str, split: str) -> Iterator[Row]:
    if _is_glob(path):
        return _of_files(sorted(glob.glob(path, recursive=True)), path)  # noqa: PTH207
    if Path(path).is_dir():
        if _saved_by_datasets(Path(path)):
            return _intact(lambda: _saved_rows(path, split), path)
        return _of_files(_shards(path, split), path)
    if not _kind(path):
        if Path(path).is_file():
            raise DataError(f"is no {_KNOWN} file", source=path, remedy="Name such a file, or give it its ending")
        return rows_of(_hub_dataset(path, split), path)
    if not Path(path).is_file():
        raise DataError("no such file", source=path, remedy="Relative paths start from the working directory")
    return _of_file(path)


def _of_files(files: list[str], path: str) -> Iterator[Row]:
    files = [file for file in files if Path(file).is_file()]
    if not files:
        raise DataError("no file matches", source=path, remedy="Relative paths start from the working directory")
    if other := [file for file in files if not _kind(file)]:
        raise DataError(f"{other[0]} is no {_KNOWN} file", source=path, remedy="Let the pattern match rows alone")
    return itertools.chain.from_iterable(map(_of_file, files))


def _of_file(path: str) -> Iterator[Row]:
    kind = _kind(path)
    if kind == ".parquet":
        return _intact(lambda: rows_of(_parquet_records(path), path), path)
    if kind in (".csv", ".tsv"):
        return _intact(lambda: _table(path, "," if kind == ".csv" else "\t"), path)
    if kind == ".tar":
        return _intact(lambda: rows_of(tar_records(path), path), path)
    return _intact(lambda: _json_rows(path), path)


def _intact(rows: Callable[[], Iterator[Row]], path: str) -> Iterator[Row]:
    """The rows of a file; damage that is found only on the way through it is told like other faults of data."""
    import pyarrow  # type: ignore[import-untyped]

    try:
        yield from rows()
    except (pyarrow.ArrowException, OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise DataError(f"is damaged ({error})", source=path, remedy="Restore the file") from error


# --- text -----------------------------------------------------------------------------------------


def _open(path: str) -> BinaryIO:
    """A file, decompressed as its name says."""
    suffix = Path(path).suffix.lower()
    if suffix == ".gz":
        return cast("BinaryIO", gzip.open(path, "rb"))
    if suffix == ".zst":
        import pyarrow

        return cast("BinaryIO", io.BufferedReader(pyarrow.input_stream(path, compression="zstd")))
    return Path(path).open("rb")


def _json_rows(path: str) -> Iterator[Row]:
    """Rows of a JSON list, or of JSON lines, whatever the file is called."""
    with _open(path) as file:
        start = file.read(4096)
        if start.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
            start += file.read(_WHOLE)
            if len(start) < _WHOLE:
                yield from rows_of(_listed(start, path), path)
                return
            ahead = cast("BinaryIO", io.BufferedReader(_Ahead(start, file)))
            yield from (
                Row(file=path, number=number, content=element)
                for number, element in enumerate(elements(ahead, path), start=1)
            )
            return
    with _open(path) as file:
        lines = ((number, line) for number, line in enumerate(file, start=1) if line.strip())
        yield from (Row(file=path, number=number, content=line) for number, line in lines)


class _Ahead(io.RawIOBase):
    """A file of which some was read before."""

    def __init__(self, start: bytes, file: BinaryIO) -> None:
        self._start, self._file = io.BytesIO(start), file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        found = self._start.read(len(buffer)) or self._file.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)


def _listed(text: bytes, path: str) -> list[Any]:
    try:
        found: list[Any] = parse_json(text, "Expected a list of objects, or one object on every line")
    except RowError as error:
        raise DataError(error.found, source=path, remedy=error.remedy) from error
    return found


def _table(path: str, delimiter: str) -> Iterator[Row]:
    with _open(path) as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as lines:
        try:
            yield from rows_of(table_rows(lines, delimiter, path), path)
        except csv.Error as error:
            remedy = "Close every quote, and write a quote inside a quoted cell twice"
            raise DataError(f"is no table ({error})", source=path, remedy=remedy) from error


# --- parquet, datasets ----------------------------------------------------------------------------


def _parquet_records(path: str) -> Iterator[Any]:
    import pyarrow
    import pyarrow.parquet  # type: ignore[import-untyped]

    try:
        table = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"not a parquet file ({error})", source=path) from error
    for batch in table.iter_batches(batch_size=64):
        try:
            yield from batch.to_pylist()
        except UnicodeDecodeError:  # in one of them
            yield from (_record_of(batch.slice(index, 1)) for index in range(batch.num_rows))


def _record_of(row: Any) -> Any:
    try:
        return row.to_pylist()[0]
    except UnicodeDecodeError as error:
        return NotText(f"byte {error.object[error.start]:#04x}")


def _saved_by_datasets(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))


def _shards(path: str, split: str) -> list[str]:
    """The files of a folder with rows of a split, by name: a copy of a repository of the hub, or any folder of shards.

    A file is of the split that its name begins with (``train-00000-of-00002.parquet``) or its folder is called by.

    Raises:
        DataError: There are none, or of several kinds.
    """
    root = Path(path)
    inside = [file for file in sorted(root.rglob("*")) if file.is_file() and file.name not in _NOT_ROWS]
    visible = [file for file in inside if not any(part.startswith(".") for part in file.relative_to(root).parts)]
    files = [file for file in visible if _kind(file.name)]
    splits = {file: _split_of(file, root, split) for file in files}
    found = [file for file in files if splits[file] == split]
    if not found and any(splits.values()):
        named = ", ".join(sorted({name for name in splits.values() if name}))
        raise DataError(f"has no split '{split}'", source=path, remedy=f"Set split to one of {named}")
    found = found or files
    if not found:
        remedy = "Name a file or a folder with such files, or a folder written by save_to_disk"
        found_none = f"is a folder, but not one that datasets saved, and it holds no {_KNOWN} file"
        raise DataError(found_none, source=path, remedy=remedy)
    kinds = sorted({_kind(file.name) for file in found})
    if len(kinds) > 1:
        remedy = f"Name one kind: {root / '**' / ('*' + kinds[0])}"
        raise DataError(f"holds files of several kinds ({', '.join(kinds)})", source=path, remedy=remedy)
    return [str(file) for file in found]


def _split_of(file: Path, root: Path, asked: str) -> str | None:
    for part in file.relative_to(root).parts[::-1]:
        for name in (asked, *_SPLITS):
            if part == name or (part.startswith(name) and not part[len(name)].isalnum()):
                return name
    return None


def _saved_rows(path: str, split: str) -> Iterator[Row]:
    import datasets

    loaded = datasets.load_from_disk(path)
    if isinstance(loaded, datasets.DatasetDict):
        if split not in loaded:
            raise DataError(f"has no split '{split}'", source=path, remedy=f"Set split to one of {', '.join(loaded)}")
        loaded = loaded[split]
    return rows_of(undecoded(loaded), path)


def _hub_dataset(name: str, split: str) -> Iterable[Mapping[str, Any]]:
    import datasets

    try:
        loaded = datasets.load_dataset(name, split=split)
    except (OSError, ValueError) as error:  # not found, no connection, offline mode, unknown split
        raise DataError(
            f"is no {_KNOWN} file, and as a datasets name it cannot be loaded ({error})",
            source=name,
            remedy="Check the name, the split and the connection",
        ) from error
    return undecoded(loaded)


def _cached_files(name: str, split: str) -> list[str] | None:
    """The files in which ``datasets`` keeps what it loaded by a name."""
    loaded: Any = _hub_dataset(name, split)
    return [str(file["filename"]) for file in loaded.cache_files] or None


def undecoded(dataset: Any) -> Iterable[Mapping[str, Any]]:
    """The dataset with its pictures as the bytes they were stored in."""
    import datasets

    for name, feature in dataset.features.items():
        if isinstance(feature, datasets.Image):
            dataset = dataset.cast_column(name, datasets.Image(decode=False))
        elif isinstance(feature, datasets.List) and isinstance(feature.feature, datasets.Image):
            dataset = dataset.cast_column(name, datasets.List(datasets.Image(decode=False)))
    return dataset
