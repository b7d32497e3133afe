"""What makes a host wait for its device: operations that need values of a tensor there before they can go on.

They can be told on a CPU as well. What is on the device is followed from the parameters and the batch through all that
is computed of them; what an algorithm finds out on the host, by ``Batch.structure``, may be read.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sightline.types import Batch

_READ = frozenset(
    {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "bincount", "repeat_interleave"}
    | {"_unique2", "unique_dim", "unique_consecutive"}
)
_INDEXED = frozenset({"index", "index_put", "index_put_", "_index_put_impl_"})
"""They look for the true entries of an index of booleans."""


class Reads(TorchDispatchMode):
    """Notes where values of tensors on the device are read."""

    def __init__(self, on_device: Iterable[Tensor]) -> None:
        super().__init__()
        self.found: list[str] = []
        self._there: dict[int, torch.UntypedStorage] = {}
        self.put(on_device)

    def put(self, tensors: Iterable[Any]) -> None:
        for one in tensors:
            if torch.is_tensor(one):
                self._there[one.untyped_storage()._cdata] = one.untyped_storage()  # kept, or its number comes again

    def _is_there(self, value: Any) -> bool:
        return torch.is_tensor(value) and value.untyped_storage()._cdata in self._there

    def _note(self, name: str) -> None:
        last = [frame for frame in traceback.extract_stack()[:-2] if "site-packages" not in frame.filename][-1]
        self.found.append(f"{name} at {last.filename}:{last.lineno}: {last.line}")

    def __enter__(self) -> Reads:
        """Also watches what is no operation on a CPU."""
        self._methods = {name: getattr(Tensor, name) for name in ("tolist", "numpy", "cpu")}
        for name, method in self._methods.items():

            def watched(tensor: Tensor, *given: Any, name: str = name, method: Any = method, **more: Any) -> Any:
                if self._is_there(tensor):
                    self._note(name)
                return method(tensor, *given, **more)

            setattr(Tensor, name, watched)
        super().__enter__()
        return self

    def __exit__(self, *ended: Any) -> None:
        super().__exit__(*ended)
        for name, method in self._methods.items():
            setattr(Tensor, name, method)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = [value for value in tree_leaves((args, kwargs)) if torch.is_tensor(value)]
        made = func(*args, **(kwargs or {}))
        if any(map(self._is_there, given)):
            name = func._schema.name.removeprefix("aten::")
            places = args[1] if name in _INDEXED else ()
            if name in _READ or any(place is not None and place.dtype == torch.bool for place in places):
                self._note(name)
            self.put(tree_leaves(made))
        return made


def moved(batch: Batch) -> Batch:
    """As a batch is that came from the host."""
    copies = {name: value.clone() for name, value in vars(batch).items() if torch.is_tensor(value)}
    return replace(batch, on_host=replace(batch, **copies, vision={}, plans={}))  # type: ignore[arg-type]


def on_device(batch: Batch) -> list[Tensor]:
    """What of a batch goes to the device."""
    tensors = {name: value for name, value in vars(batch).items() if name not in ("parent", "length", "on_host")}
    return [value for value in tree_leaves((tensors, dict(batch.vision))) if torch.is_tensor(value)]


@contextmanager
def none_read(batch: Batch, parameters: Iterable[Tensor]) -> Iterator[None]:
    """Fails where values on the device are read. ``batch``: of :func:`moved`."""
    with Reads([*on_device(batch), *parameters]) as reads:
        yield
    assert not reads.found, "\n".join(sorted(set(reads.found)))
