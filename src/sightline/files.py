"""Files and folders that are there as a whole or not at all.

Everything is written under another name beside its own, forced to the disk and renamed. A kill at any moment leaves
what was there before, or what came after, and perhaps a ``.tmp`` beside it that nothing reads.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError

from sightline.errors import CheckpointError

_TORCH_WRITER = "inline_container"
"""In what torch says when a file that it writes cannot grow; a plain RuntimeError."""
_UNWRITABLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM})


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives the name of a file aside; when the block ends, what was written there takes the name ``path``.

    Folders on the way are made, links are followed, and what is no file (``/dev/null``) is written as it is. Where
    the block raises, what had the name stays.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        yield path
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_native_id()}.tmp")
    try:
        yield aside
        _flush(aside)
        aside.replace(path)
    except OSError as error:
        if error.filename == str(aside):
            error.filename = str(path)  # the name that the user knows
        raise
    finally:
        aside.unlink(missing_ok=True)


def replace_file(
    path: Path, content: str | bytes, *, errors: Literal["strict", "replace", "backslashreplace"] = "strict"
) -> None:
    """Writes a file as a whole, text as UTF-8; ``errors``: what becomes of half a character."""
    with replacing(path) as aside:
        aside.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", errors))


def replace_folder(final: Path, write: Callable[[Path], None]) -> None:
    """Fills a folder aside, flushes it to the disk and gives it its name; what had the name goes.

    Between two renames nothing has the name: :func:`restore_folder` finds what had it. Nothing half-written or half
    removed ever has it. For one process at a time.

    Raises:
        CheckpointError: It cannot be written: the disk is full, or not ours to write to. What had the name stays. Other
            errors of what fills it go through.
    """
    final = final.resolve()
    aside, old = leftovers(final)
    restore_folder(final)
    try:
        aside.mkdir(parents=True)
        write(aside)
        for path in [*aside.rglob("*"), aside]:
            _flush(path)
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        if not _of_disk(error, aside):
            raise
        raise _unwritable(final, error) from error
    if final.exists():
        final.rename(old)
    aside.rename(final)
    _flush(final.parent)
    if old.exists():
        old.rename(aside)  # so that the name of a whole folder never holds one that is half removed
        _remove(aside)


def check_free(out: Path, *, overwrite: bool) -> None:
    """What a kill left there is tidied up first.

    Raises:
        CheckpointError: something is where a folder is to be written, and it is not to go.
    """
    restore_folder(out)
    shutil.rmtree(_work_of(out), ignore_errors=True)
    if out.exists() and not overwrite and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(
            f"{out} is there already. Choose another --out, or pass --overwrite (in Python overwrite=True)"
        )


def keep_folder(final: Path, write: Callable[[Path], None]) -> None:
    """Fills a folder aside and gives it its name: of a cache, whose folders several processes may fill at once.

    What had the name goes; whoever reads it at the moment keeps what it has opened. Where the block raises, nothing
    changes.
    """
    aside = _free_name(final)
    aside.mkdir(parents=True)
    try:
        write(aside)
        for path in [*aside.rglob("*"), aside]:
            _flush(path)
        old = _free_name(final)
        with contextlib.suppress(FileNotFoundError):
            final.rename(old)
        with contextlib.suppress(OSError):  # another process was faster: its folder is as good
            aside.rename(final)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def clear_asides(folder: Path, age: float) -> None:
    """Removes what killed processes left of a :func:`keep_folder`, once it is older than ``age`` seconds."""
    for aside in folder.glob("*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - aside.stat().st_mtime > age:
                shutil.rmtree(aside)


def _free_name(path: Path) -> Path:
    return path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")


@contextmanager
def working_folder(final: Path) -> Iterator[Path]:
    """An empty folder beside one that will be written, so on its disk, for what is made on the way. It goes when the
    block ends; what a killed block left is replaced.

    Raises:
        CheckpointError: It cannot be made.
    """
    folder = _work_of(final)
    try:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
    except OSError as error:
        raise _unwritable(final, error) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def cleared(final: Path) -> Iterator[None]:
    """Around a :func:`replace_folder` whose writing may be refused: what was written aside goes where it fails."""
    try:
        yield
    except BaseException:
        shutil.rmtree(leftovers(final.resolve())[0], ignore_errors=True)
        raise


def restore_folder(final: Path) -> None:
    """Removes what a killed :func:`replace_folder` left; a folder that was on its way out gets its name back."""
    final = final.resolve()
    aside, old = leftovers(final)
    if aside.exists():
        _remove(aside)
    if old.exists() and not final.exists():
        old.rename(final)
    elif old.exists():
        old.rename(aside)
        _remove(aside)


def leftovers(final: Path) -> tuple[Path, Path]:
    """The folder being filled and the one on its way out, which a killed :func:`replace_folder` may leave."""
    return final.with_name(f"{final.name}.tmp"), final.with_name(f"{final.name}.replaced.tmp")


def read_settings(path: Path) -> Any:
    """The value of a JSON file that Sightline wrote.

    Raises:
        CheckpointError: It is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(
            f"{path} is damaged: found no JSON ({error}), expected what Sightline wrote. Remove it with what it "
            "belongs to, or choose another place."
        ) from error


def _flush(path: Path) -> None:
    """Forces a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _work_of(final: Path) -> Path:
    final = final.resolve()
    return final.with_name(f"{final.name}.work.tmp")


def _remove(path: Path) -> None:
    """What had a name: a folder, or a file that a folder took the place of."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _of_disk(error: OSError | RuntimeError | SafetensorError, folder: Path) -> bool:
    """Whether it says that a folder cannot be written, and not that something else could not be read."""
    if isinstance(error, RuntimeError):
        return _TORCH_WRITER in str(error)
    if isinstance(error, SafetensorError):
        return "deserializing" not in str(error)
    named = folder if error.filename is None else Path(str(error.filename)).resolve()
    return error.errno in _UNWRITABLE and (named.is_relative_to(folder) or folder.is_relative_to(named))


def _unwritable(final: Path, error: Exception) -> CheckpointError:
    there = next(folder for folder in final.parents if folder.is_dir())
    return CheckpointError(
        f"{final} could not be written: the disk is full, or forbids it ({error}). Without it, "
        f"{shutil.disk_usage(there).free / 1e6:.1f} MB are free there. What was whole before is kept. Make room, and "
        "run the same command again: it goes on from there."
    )
