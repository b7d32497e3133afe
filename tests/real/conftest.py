"""Models of the shapes of real ones, and the documented recipes run on the records beside the checkout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from examples.tiny_model import FAMILIES, save_tiny_model

from command_line import Done, Train, sightline

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> dict[str, Path]:
    """Folder of a tiny model of each family, made as the guide makes it: 336 pixels, or native sizes."""
    root = tmp_path_factory.mktemp("models")
    return {family: save_tiny_model(family, root / family) for family in FAMILIES}


@pytest.fixture(scope="session")
def train(shared_data: Path) -> Train:
    """``sightline train`` of a documented recipe, from the root of the checkout, where its paths start."""

    def call(recipe: str, out: Path, *overrides: str) -> tuple[Done, list[dict[str, Any]]]:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(ROOT)
            done = sightline("train", f"recipes/{recipe}.yaml", f"output_dir={out}", *overrides, "--quiet")
        assert done.code == 0, done.err
        return done, [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]

    return call
