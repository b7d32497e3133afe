"""A tiny model of each family, made when the first test asks for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of the tiny model of a ``model_type``."""
    from tiny_families import save_family  # once torchvision is importable

    root = tmp_path_factory.mktemp("families")
    return cache(lambda model_type: save_family(model_type, root / model_type))
