"""Checkpoints that are there as a whole or not at all.

A checkpoint is written into a folder aside, a manifest of sizes and hashes last, and takes its name as a whole
(``sightline.files``). A kill at any moment leaves the previous checkpoint in place; ``latest`` reads only folders
whose manifest holds.

Files: ``weights.safetensors`` (trainable state), ``optimizer.pt``, ``ranks.pt`` (random numbers and open
metrics of each rank), ``progress.json`` (step, source, counters), ``manifest.json``.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sightline.errors import CheckpointError
from sightline.files import replace_folder

_MANIFEST = "manifest.json"
_FORMAT = 2


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """All that a run needs to go on as if it had never stopped."""

    step: int
    """Optimizer steps done."""
    weights: Mapping[str, Tensor]
    """Trainable state, on any device."""
    optimizer: Mapping[str, Any]
    ranks: list[dict[str, Any]]
    """One entry per rank: plain values and tensors."""
    progress: Mapping[str, Any]
    """Plain JSON: source state, counters."""


def save_checkpoint(run_dir: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Writes a checkpoint and removes all but the newest ``keep``. For the main process only.

    Returns:
        Its folder, ``checkpoints/step-00000012``.
    """
    final = checkpoint_folder(run_dir, checkpoint.step)

    def write(folder: Path) -> None:
        weights = {name: value.detach().cpu().contiguous() for name, value in checkpoint.weights.items()}
        save_file(weights, folder / "weights.safetensors")
        torch.save(dict(checkpoint.optimizer), folder / "optimizer.pt")
        torch.save(checkpoint.ranks, folder / "ranks.pt")
        progress = {"format": _FORMAT, "step": checkpoint.step, **checkpoint.progress}
        (folder / "progress.json").write_text(json.dumps(progress), encoding="utf-8")
        manifest = {path.name: [path.stat().st_size, _sha256(path)] for path in sorted(folder.iterdir())}
        (folder / _MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")

    replace_folder(final, write)
    drop_older(final, keep)
    return final


def drop_older(newest: Path, keep: int) -> None:
    """Removes the checkpoints before a whole one, but for ``keep - 1``, and what kills left of others."""
    for half in newest.parent.glob("*.tmp"):
        shutil.rmtree(half)
    older = [folder for folder in _folders(newest.parents[1]) if folder.name < newest.name]
    for old in older[: max(0, len(older) - keep + 1)]:
        shutil.rmtree(old)


def latest(run_dir: Path) -> Path | None:
    """The newest whole checkpoint of a run, or None. Half-written and damaged ones are passed over."""
    return next((folder for folder in reversed(_folders(run_dir)) if _is_whole(folder)), None)


def whole_checkpoints(run_dir: Path) -> dict[int, Path]:
    """Whole checkpoints of a run by their step, the oldest first."""
    return {int(path.name.rpartition("-")[2]): path for path in _folders(run_dir) if _is_whole(path)}


def newest_step(run_dir: Path) -> int | None:
    """Step of the newest checkpoint, by its name alone: nothing of it is read."""
    folders = _folders(run_dir)
    return int(folders[-1].name.removeprefix("step-")) if folders else None


def load_checkpoint(folder: Path) -> Checkpoint:
    """Reads a checkpoint, tensors on the CPU.

    Raises:
        CheckpointError: it was written in another format.
    """
    progress = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
    if progress.pop("format") != _FORMAT:
        raise CheckpointError(f"{folder} was written by another version of Sightline, in another format. Start anew.")
    return Checkpoint(
        step=progress.pop("step"),
        weights=load_file(folder / "weights.safetensors"),
        optimizer=torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True),
        ranks=torch.load(folder / "ranks.pt", map_location="cpu", weights_only=True),
        progress=progress,
    )


def checkpoint_folder(run_dir: Path, step: int) -> Path:
    """Folder of the checkpoint after so many optimizer steps."""
    return _folder(run_dir) / f"step-{step:08d}"


def _folder(run_dir: Path) -> Path:
    return run_dir / "checkpoints"


def _folders(run_dir: Path) -> list[Path]:
    """Finished checkpoints by their name, oldest first."""
    return sorted(path for path in _folder(run_dir).glob("step-*") if path.is_dir() and not path.suffix)


def _is_whole(folder: Path) -> bool:
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return False
    files = [(folder / name, size, digest) for name, (size, digest) in manifest.items()]
    return all(
        path.is_file() and path.stat().st_size == size and _sha256(path) == digest for path, size, digest in files
    )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
