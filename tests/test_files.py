"""What is written is there as a whole or not at all, wherever the process dies."""

import errno
import os
from pathlib import Path

import pytest
from killing import killed
from safetensors import SafetensorError

from sightline.errors import CheckpointError
from sightline.files import (
    check_free,
    leftovers,
    read_settings,
    replace_file,
    replace_folder,
    replacing,
    restore_folder,
    working_folder,
)


def fill(folder, text):
    (folder / "inside").mkdir()
    for name in ("a.txt", "b.txt", "inside/c.txt"):
        (folder / name).write_text(text)


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    for text in ("old", "new"):
        replace_folder(tmp_path / "model", lambda folder, text=text: (folder / text).write_text(text) and None)
    assert content(tmp_path / "model") == {"new": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_is_whole_wherever_its_replacement_dies(tmp_path):
    whole = {text: dict.fromkeys(("a.txt", "b.txt", "inside/c.txt"), text) for text in ("old", "new")}
    at, found = 1, []
    while True:
        final = tmp_path / str(at) / "model"
        replace_folder(final, lambda folder: fill(folder, "old"))
        done = killed(lambda final=final: replace_folder(final, lambda folder: fill(folder, "new")), final, at=at)
        assert not final.exists() or content(final) in whole.values()
        restore_folder(final)
        found.append(content(final))
        assert found[-1] in whole.values() and [path.name for path in final.parent.iterdir()] == ["model"]
        replace_folder(final, lambda folder: fill(folder, "new"))
        assert content(final) == whole["new"]
        if done:
            break
        at += 1
    assert at > 12 and found == sorted(found, key=lambda one: one == whole["new"])


def test_a_file_is_whole_wherever_its_replacement_dies(tmp_path):
    path, found = tmp_path / "some/where.json", []
    replace_file(path, "old")
    while not killed(lambda: replace_file(path, "new" * 99), path, at=len(found) + 1):
        found.append(path.read_text())
    assert path.read_text() == "new" * 99
    assert found == ["old"] * 3 + ["new" * 99]  # dies before: opening, flushing, renaming, looking for leftovers


def test_what_fails_leaves_what_was_there_and_nothing_beside_it(tmp_path):
    path = tmp_path / "figures.json"
    replace_file(path, b"old")
    with pytest.raises(ZeroDivisionError), replacing(path) as aside:
        aside.write_text("half")
        raise ZeroDivisionError
    with pytest.raises(UnicodeEncodeError):
        replace_file(path, "\ud83d")
    assert content(tmp_path) == {"figures.json": "old"}
    replace_file(path, "\ud83d", errors="backslashreplace")
    assert path.read_text() == "\\ud83d"


def test_links_are_followed_and_what_is_no_file_stays(tmp_path):
    (tmp_path / "big").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "big")
    (tmp_path / "name").symlink_to(tmp_path / "big/file")
    replace_folder(tmp_path / "link", lambda folder: (folder / "new").write_text("x") and None)
    assert (tmp_path / "link").is_symlink() and content(tmp_path / "big") == {"new": "x"}
    replace_file(tmp_path / "name", "y")
    assert (tmp_path / "name").is_symlink() and (tmp_path / "big/file").read_text() == "y"
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    replace_file(tmp_path / "pipe", "through")
    assert os.read(reader, 99) == b"through" and (tmp_path / "pipe").is_fifo()
    os.close(reader)


def test_messages_name_the_file_that_was_meant(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    for path, kind in ((tmp_path / "folder", IsADirectoryError), (tmp_path / "file/x.json", OSError)):
        with pytest.raises(kind) as caught:
            replace_file(path, "x")
        assert (".tmp" not in str(caught.value) and "file" in str(caught.value)) or "folder" in str(caught.value)


def test_damaged_settings_are_no_traceback(tmp_path):
    replace_file(tmp_path / "budget.json", '{"steps": ')
    with pytest.raises(CheckpointError, match=r"budget\.json is damaged: found no JSON .* Remove it"):
        read_settings(tmp_path / "budget.json")


def test_leftovers_are_named_after_the_folder():
    assert [path.name for path in leftovers(Path("run/model"))] == ["model.tmp", "model.replaced.tmp"]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/pictures/cat.png"), False),
        (PermissionError(errno.EACCES, "Permission denied", "/pictures/cat.png"), False),
        (OSError("image file is truncated"), False),
        (SafetensorError("Error while deserializing header: header too small"), False),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (PermissionError(errno.EACCES, "Permission denied", "model.tmp/a.txt"), True),
        (PermissionError(errno.EACCES, "Permission denied", "."), True),
    ],
)
def test_a_full_disk_is_what_could_not_be_written_and_nothing_else(tmp_path, monkeypatch, error, told):
    monkeypatch.chdir(tmp_path)
    replace_folder(tmp_path / "model", lambda folder: fill(folder, "old"))

    def write(_):
        raise error

    with pytest.raises(CheckpointError if told else type(error)) as caught:
        replace_folder(tmp_path / "model", write)
    assert told or caught.value is error
    assert (tmp_path / "model/a.txt").read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_takes_the_place_of_a_file_and_what_a_kill_put_aside_is_not_free(tmp_path):
    final = tmp_path / "model"
    final.write_text("a file")
    replace_folder(final, lambda folder: fill(folder, "old"))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    aside, old = leftovers(final)
    final.rename(old)
    aside.write_text("left by an earlier version")
    (tmp_path / "model.work.tmp/whole").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="is there already"):
        check_free(final, overwrite=False)
    assert [path.name for path in tmp_path.iterdir()] == ["model"] and (final / "a.txt").read_text() == "old"


def test_a_working_folder_lies_beside_and_replaces_what_a_kill_left(tmp_path):
    left = tmp_path / "some/model.work.tmp/whole"
    left.mkdir(parents=True)
    with pytest.raises(ZeroDivisionError), working_folder(tmp_path / "some/model") as folder:
        assert folder == left.parent and not list(folder.iterdir())
        raise ZeroDivisionError
    assert not list((tmp_path / "some").iterdir())
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(CheckpointError, match=r"file/model could not be written"),
        working_folder(tmp_path / "file/model"),
    ):
        pass
