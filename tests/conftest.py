"""Fixtures: tiny models on disk, drawn pictures, the folder of real records."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

sys.path.extend(str(folder) for folder in Path(__file__).parent.rglob("*") if folder.is_dir())  # shared test modules


import pytest
import torch
from PIL import Image, ImageDraw

import sightline.models  # noqa: F401  (makes torchvision importable, also where tests are handed out and warnings read)
from sightline import cli  # here: the width of its tables is that of the environment when it is imported

torch.set_num_threads(1)
os.environ["SIGHTLINE_CACHE"] = tempfile.mkdtemp(prefix="sightline-tests-")  # nothing goes to the home folder
atexit.register(shutil.rmtree, os.environ["SIGHTLINE_CACHE"], ignore_errors=True)


LONG = ("families/", "fuzz/", "train/", "loops/", "demo/", "real/", "test_notebooks.py", "recipes/", "equivalence/")
"""Where the files of half a minute are: they are begun first, so that no worker is left alone with one at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.removeprefix("tests/").startswith(LONG))


def pytest_configure(config: pytest.Config) -> None:
    config.option.loadscopereorder = False  # by the number of tests in a file, which is least in the longest


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command line; gives its exit code, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sightline", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        return stopped.value.code or 0, out, err

    return call


@pytest.fixture(scope="session", autouse=True)
def verified_here() -> Iterator[None]:
    """What is exported is read again in this process: one of its own would import torch for five seconds each time.
    ``fresh_process`` and ``make fuzz`` have it."""
    from sightline.models import reload

    def here(command: list[str], **_: object) -> SimpleNamespace:
        reload.answer_request(Path(command[3]), Path(command[4]))
        return SimpleNamespace(returncode=0, stderr="")

    with pytest.MonkeyPatch.context() as patch:
        if os.environ.get("SIGHTLINE_FUZZ", "1") == "1":
            patch.setattr(reload, "subprocess", SimpleNamespace(run=here))
        yield


@pytest.fixture
def fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is exported is read again in a process of its own, as outside the tests."""
    from sightline.models import reload

    monkeypatch.setattr(reload, "subprocess", subprocess)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folder of one tiny random model per family."""
    from tiny_models import FAMILIES, save_tiny

    root = tmp_path_factory.mktemp("tiny")
    return {family: save_tiny(family, root / family) for family in FAMILIES}


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Six drawn pictures of different sizes."""
    root = tmp_path_factory.mktemp("pictures")
    paths = []
    for index, size in enumerate([(40, 30), (64, 64), (30, 50), (48, 96), (33, 33), (96, 40)]):
        picture = Image.new("RGB", size, (20 * index, 255 - 30 * index, 90))
        ImageDraw.Draw(picture).ellipse((4, 4, size[0] // 2 + index, size[1] // 2), fill=(255, 40 * index, 0))
        paths.append(str(root / f"{index}.png"))
        picture.save(paths[-1])
    return paths


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real records beside the checkout."""
    folder = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the folder of real records (../shared/data) is absent")
    return folder
