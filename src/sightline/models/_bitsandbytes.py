"""Imports bitsandbytes late, and so that it runs nothing but what is installed.

PEFT imports it as soon as it is imported itself, which takes most of a second and which only quantised weights,
adapters beside them and 8-bit optimizers need. And on a CPU with AVX512-BF16 it asks the package `kernels`, which
tree-recurrence brings along, for compiled code from the hub, downloads it and runs it, all on ``import``; without
`kernels` it computes with torch.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from types import ModuleType
from typing import Any

_NAME = "bitsandbytes"


class _Alone(MetaPathFinder):
    """Finds bitsandbytes, and lets it believe on import that `kernels` is not there."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name == _NAME else None
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def run_alone(module: ModuleType) -> None:
            there = sys.modules.get("kernels")
            sys.modules["kernels"] = None  # type: ignore[assignment]
            try:
                run(module)
            finally:
                del sys.modules["kernels"]
                if there is not None:
                    sys.modules["kernels"] = there

        spec.loader.exec_module = run_alone  # type: ignore[method-assign]
        return spec


class _Later(ModuleType):
    """Stands for bitsandbytes where PEFT keeps it, until something of it is asked for."""

    def __getattr__(self, name: str) -> Any:
        import bitsandbytes

        return getattr(bitsandbytes, name)


def import_bitsandbytes_late() -> None:
    """To be called before PEFT is imported, which it imports. Does nothing where bitsandbytes is absent or there
    already."""
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # it complains of what it misses
    # layers of 8 bits say on every call that they compute in 16
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    if _NAME in sys.modules or find_spec(_NAME) is None:
        return
    sys.meta_path.insert(0, _Alone())
    later = _Later(_NAME)
    later.__spec__ = find_spec(_NAME)
    sys.modules[_NAME] = later
    try:
        import peft  # noqa: F401
    finally:
        if sys.modules.get(_NAME) is later:
            del sys.modules[_NAME]
