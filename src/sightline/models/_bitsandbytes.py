"""Imports bitsandbytes so that it runs nothing but what is installed.

On a CPU with AVX512-BF16 it asks the package `kernels`, which tree-recurrence brings along, for compiled code from the
hub, downloads it and runs it, all on ``import``. Without `kernels` it computes with torch. PEFT imports it wherever it
is installed, so it must be imported before.
"""

from __future__ import annotations

import logging
import sys
from importlib.util import find_spec


def import_bitsandbytes() -> None:
    """Does nothing where it is absent, is imported already, or finds no `kernels`."""
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # it complains of what it misses
    if "bitsandbytes" in sys.modules or find_spec("bitsandbytes") is None or find_spec("kernels") is None:
        return
    there = sys.modules.get("kernels")
    sys.modules["kernels"] = None  # type: ignore[assignment]
    try:
        import bitsandbytes  # noqa: F401
    finally:
        del sys.modules["kernels"]
        if there is not None:
            sys.modules["kernels"] = there
