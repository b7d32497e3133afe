import errno
import json
import re

import pytest
import torch
from safetensors import SafetensorError

from sightline.errors import CheckpointError
from sightline.train.checkpoint import Checkpoint, drop_older, latest, load_checkpoint, save_checkpoint


def checkpoint(step):
    return Checkpoint(
        step=step,
        weights={"w": torch.full((2, 2), float(step))},
        optimizer={"state": {0: {"exp_avg": torch.tensor([1.5])}}, "param_groups": [{"lr": 0.1}]},
        ranks=[{"rng": {"python": (3, (1, 2), None), "torch": torch.arange(3, dtype=torch.uint8)}}],
        progress={"source": {"round": 4}, "tokens": 12.0},
    )


def test_what_is_saved_is_loaded(tmp_path):
    folder = save_checkpoint(tmp_path, checkpoint(7), keep=2)
    assert latest(tmp_path) == folder
    found = load_checkpoint(folder)
    assert found.step == 7
    assert torch.equal(found.weights["w"], torch.full((2, 2), 7.0))
    assert found.optimizer["state"][0]["exp_avg"].item() == 1.5
    assert found.ranks[0]["rng"]["python"] == (3, (1, 2), None)
    assert found.progress == {"source": {"round": 4}, "tokens": 12.0}


def test_only_the_newest_are_kept(tmp_path):
    for step in (9, 10, 100):
        save_checkpoint(tmp_path, checkpoint(step), keep=2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000010", "step-00000100"]


def test_no_checkpoint_is_none(tmp_path):
    assert latest(tmp_path) is None


def spoil_manifest(folder):
    (folder / "manifest.json").unlink()


def spoil_size(folder):
    with (folder / "weights.safetensors").open("r+b") as file:
        file.truncate(10)


def spoil_bytes(folder):
    path = folder / "optimizer.pt"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def spoil_manifest_text(folder):
    path = folder / "manifest.json"
    path.write_text(path.read_text()[:-5])


def remove_file(folder):
    (folder / "ranks.pt").unlink()


@pytest.mark.parametrize("spoil", [spoil_manifest, spoil_size, spoil_bytes, spoil_manifest_text, remove_file])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, spoil):
    good = save_checkpoint(tmp_path, checkpoint(1), keep=5)
    spoil(save_checkpoint(tmp_path, checkpoint(2), keep=5))
    assert latest(tmp_path) == good


def test_a_kill_while_writing_leaves_the_one_before(tmp_path, monkeypatch):
    """Stops at every call that writes or flushes, one after the other: the name never holds half a checkpoint."""
    good = save_checkpoint(tmp_path, checkpoint(1), keep=5)
    import sightline.files as module

    real, calls = module._flush, []

    class Killed(BaseException):
        pass

    for stop in range(6):
        calls.clear()

        def flush(path, stop=stop):
            calls.append(path)
            if len(calls) > stop:
                raise Killed
            real(path)

        monkeypatch.setattr(module, "_flush", flush)
        with pytest.raises(Killed):
            save_checkpoint(tmp_path, checkpoint(2), keep=5)
        assert latest(tmp_path) == good
    monkeypatch.setattr(module, "_flush", real)
    assert load_checkpoint(save_checkpoint(tmp_path, checkpoint(2), keep=5)).step == 2  # over what was left behind
    assert not list((tmp_path / "checkpoints").glob("*.tmp"))


def test_another_format_is_refused(tmp_path):
    folder = save_checkpoint(tmp_path, checkpoint(1), keep=1)
    path = folder / "progress.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 0}))
    with pytest.raises(CheckpointError, match="another format"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), True),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 58752 vs 58640"), True),
        (RuntimeError("CUDA error: out of memory"), False),
    ],
)
def test_a_full_disk_says_so_and_keeps_the_one_before(tmp_path, monkeypatch, error, told):
    before = save_checkpoint(tmp_path, checkpoint(3), keep=2)

    def fail(*_):
        raise error

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(CheckpointError if told else RuntimeError) as raised:
        save_checkpoint(tmp_path, checkpoint(4), keep=2)
    if told:
        assert re.search(
            r"step-00000004 could not be written.* MB are free there.*Make room, and run", str(raised.value)
        )
    else:
        assert raised.value is error
    monkeypatch.undo()
    assert latest(tmp_path) == before
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000003"]
    assert save_checkpoint(tmp_path, checkpoint(4), keep=2) == latest(tmp_path)


def test_a_damaged_checkpoint_never_costs_a_whole_one(tmp_path):
    whole = save_checkpoint(tmp_path, checkpoint(1), keep=1)
    spoil_size(save_checkpoint(tmp_path, checkpoint(2), keep=2))
    (tmp_path / "checkpoints/step-00000003.tmp").mkdir()
    drop_older(latest(tmp_path), keep=1)
    assert latest(tmp_path) == whole
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000001", "step-00000002"]
