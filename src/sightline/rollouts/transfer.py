"""Whole weights from a trainer to the workers of a vLLM server: one broadcast per tensor in a group of their own.

Both sides run this file, each in its own environment, so that it reads torch alone. Gloo where the weights lie on a
CPU, NCCL where they lie on GPUs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

TRAINER = 0
"""Rank of the trainer; the workers follow."""


@dataclass(frozen=True, kw_only=True)
class Meeting:
    """Where the members of a group find each other."""

    address: str
    port: int
    """Where the trainer listens."""
    size: int
    """The trainer and all workers."""
    seconds: float
    """How long a member waits for the others."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What is sent, in its order."""

    names: list[str]
    dtypes: list[str]
    shapes: list[list[int]]

    @classmethod
    def of(cls, tensors: Iterable[tuple[str, Tensor]]) -> Manifest:
        listed = [(name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)) for name, tensor in tensors]
        names, dtypes, shapes = (list(column) for column in zip(*listed, strict=True))
        return cls(names=names, dtypes=dtypes, shapes=shapes)


class Group:
    """The trainer and the workers of one server, apart from every other process group."""

    def __init__(self, meeting: Meeting, rank: int, device: torch.device, *, listening: dist.TCPStore | None = None):
        """
        Args:
            meeting: where the members find each other.
            rank: of this member.
            device: where its tensors lie.
            listening: the trainer's own store (:func:`listen`); None: a worker, who goes there.
        """
        patience = timedelta(seconds=meeting.seconds)
        store = listening or dist.TCPStore(meeting.address, meeting.port, is_master=False, timeout=patience)
        self._store, self._device = store, device
        backend: Any
        if device.type == "cuda":
            options = dist.ProcessGroupNCCL.Options()
            options._timeout = patience
            backend = dist.ProcessGroupNCCL(store, rank, meeting.size, options)
        else:
            backend = dist.ProcessGroupGloo(store, rank, meeting.size, patience)
        self._backend = backend

    def send(self, tensors: Iterable[Tensor]) -> None:
        """From the trainer, in the order of the manifest."""
        for tensor in tensors:
            self._backend.broadcast(tensor.detach().to(self._device).contiguous(), TRAINER).wait()

    def receive(self, manifest: Manifest) -> Iterator[tuple[str, Tensor]]:
        """At a worker: names and tensors, one at a time."""
        for name, dtype, shape in zip(manifest.names, manifest.dtypes, manifest.shapes, strict=True):
            tensor = torch.empty(shape, dtype=vars(torch)[dtype], device=self._device)
            self._backend.broadcast(tensor, TRAINER).wait()
            yield name, tensor

    def close(self) -> None:
        self._backend.shutdown()


def listen(seconds: float) -> dist.TCPStore:
    """The trainer's store on a free port; ``store.port`` tells which."""
    return dist.TCPStore(
        "0.0.0.0", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=seconds)
    )  # workers may run on other machines
