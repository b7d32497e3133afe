"""Text-only, one-picture and many-picture rows in one batch: two processes neither hang nor differ from one, and rows
together not from rows one by one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import family_processes
import pytest
import torch
import train_runs

MODELS = ("llava", "qwen2_5_vl", "gemma3", "llava_next")
Found = dict[str, Any]


@pytest.fixture(scope="module")
def measured(folder_of: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Found, Found]:
    """By one process, and by two."""
    models, folder = [folder_of(name) for name in MODELS], tmp_path_factory.mktemp("two")
    one = family_processes.measure(tmp_path_factory.mktemp("one"), models)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, family_processes.__file__, str(folder), *map(str, models)]
    families = Path(family_processes.__file__).parent
    environment = train_runs.environment()
    shared = [families, families.parent / "equivalence", families.parent / "train"]
    environment["PYTHONPATH"] = ":".join([*map(str, shared), environment["PYTHONPATH"]])
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-4000:]
    return one, torch.load(folder / "found.pt", weights_only=True)


@pytest.mark.processes
@pytest.mark.parametrize("size", family_processes.SIZES)
@pytest.mark.parametrize("model", MODELS)
def test_rows_of_all_kinds_in_one_batch(measured: tuple[Found, Found], model: str, size: str) -> None:
    one, two = measured
    expected = one[f"{model}, one by one"]
    assert len(expected["losses"]) == 2 and expected["gradients"] and len(set(expected["losses"])) == 2
    scale = max(float(gradient.abs().max()) for gradient in expected["gradients"].values())
    for side in (one, two):
        found = side[f"{model}, {size}"]
        assert found["losses"] == pytest.approx(expected["losses"], rel=2e-5)
        assert found["gradients"].keys() == expected["gradients"].keys()
        for name, gradient in expected["gradients"].items():
            torch.testing.assert_close(
                found["gradients"][name], gradient, rtol=1e-4, atol=5e-6 * scale, msg=lambda m, n=name: f"{n}: {m}"
            )
