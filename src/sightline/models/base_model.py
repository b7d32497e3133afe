"""Which model an adapter belongs to: a fingerprint of the base, kept beside the adapter.

An adapter of another base of the same sizes loads without a word and gives numbers that mean nothing.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from sightline.errors import RecipeError

FILE = "sightline_base.json"
"""Name of the file in an adapter's folder. PEFT passes over it."""
_SAMPLES = 64
"""Entries that are read of every parameter."""


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """A model without adapters, as it was loaded."""

    path: str
    """Where from; for messages only."""
    fingerprint: str
    """SHA-256 over all parameters: their shapes and some of their values."""

    @classmethod
    def of(cls, model: nn.Module, path: str) -> BaseModel:
        """
        Args:
            model: before any adapter is laid over it.
            path: as the recipe names it.
        """
        return cls(path=path, fingerprint=fingerprint(model))

    def save(self, folder: Path) -> None:
        """Writes it beside an adapter."""
        (folder / FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    def check(self, adapter: str | Path) -> None:
        """Whether an adapter belongs to this model. One that brings no fingerprint is taken at its word.

        Raises:
            RecipeError: It was trained on another one.
        """
        file = Path(adapter) / FILE
        if not file.is_file():
            return
        there = BaseModel(**json.loads(file.read_text(encoding="utf-8")))
        if there.fingerprint != self.fingerprint:
            raise RecipeError(
                f"adapter {adapter} was trained on {there.path} (fingerprint {there.fingerprint[:12]}), and "
                f"{self.path} holds other weights ({self.fingerprint[:12]}). Name the model that it was trained on; "
                f"or remove {FILE} from its folder to load it all the same"
            )


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of the shapes, and of some values, of all parameters of floating-point type.

    The same for the same weights in float32 and in bfloat16, and whatever their names, which change between
    versions of transformers. Reads some thousand values: milliseconds for models of any size.
    """
    return hashlib.sha256("".join(sorted(map(_digest, model.parameters()))).encode()).hexdigest()


@torch.no_grad()
def _digest(parameter: nn.Parameter) -> str:
    if not parameter.is_floating_point():  # packed by a quantiser
        return ""
    flat = parameter.reshape(-1)
    some = flat[:: max(1, flat.shape[0] // _SAMPLES)][:_SAMPLES].to("cpu", torch.bfloat16)
    digest = hashlib.sha256(f"{tuple(parameter.shape)}".encode())
    digest.update(some.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
