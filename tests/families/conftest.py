"""A tiny model of each family, made when the first test asks for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tiny_families import save_family


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of the tiny model of a ``model_type``."""
    root = tmp_path_factory.mktemp("families")
    return cache(lambda model_type: save_family(model_type, root / model_type))
