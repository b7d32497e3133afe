"""Which model an adapter belongs to: a fingerprint of the base, kept beside the adapter.

An adapter of another base of the same sizes loads without a word and gives numbers that mean nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sightline.errors import RecipeError

FILE = "sightline_base.json"
"""Name of the file in an adapter's folder. PEFT passes over it."""
_SAMPLES = 64
"""Entries that are read of every parameter."""
_NO_NUMBERS = frozenset(("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache"))
"""Entries of a config, at any depth, that change nothing that is computed: the recipe says the type."""


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """A model without adapters, as it was loaded."""

    path: str
    """Where from; for messages only."""
    fingerprint: str
    """SHA-256 over all parameters: their shapes and some of their values."""
    settings: str = ""
    """Of its ``config.json``, which says what is computed with them; empty: there is none on this machine."""

    @classmethod
    def of(cls, model: nn.Module, path: str) -> BaseModel:
        """
        Args:
            model: before any adapter is laid over it.
            path: as the recipe names it.
        """
        return cls(path=path, fingerprint=fingerprint(model), settings=_settings(Path(path)))

    def save(self, folder: Path) -> None:
        """Writes it beside an adapter."""
        of = {"path": self.path, "fingerprint": self.fingerprint}
        (folder / FILE).write_text(json.dumps(of, indent=2) + "\n", encoding="utf-8")

    def told(self) -> dict[str, str]:
        """What a checkpoint keeps of it."""
        return {"base": self.fingerprint, "settings": self.settings}

    def is_of(self, progress: Mapping[str, Any]) -> bool:
        """Whether a checkpoint was made with this model; one that keeps nothing is taken at its word."""
        return all(progress.get(what, value) == value for what, value in self.told().items())

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


def _settings(folder: Path) -> str:
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return hashlib.sha256(json.dumps(_numbers(values), sort_keys=True).encode()).hexdigest()


def _numbers(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {name: _numbers(inner) for name, inner in value.items() if name not in _NO_NUMBERS}


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
