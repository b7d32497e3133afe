"""``docs/python.md`` as a reader runs it: every block, in order, with a tiny model as ``my/model``."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from slices import Slices

import sightline as sl
from doc_blocks import python_blocks, run_page
from sightline.scenes.world import Scenes
from sightline.types import Response

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/python.md"


@pytest.fixture
def folder(tiny: dict[str, Path], pictures: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with what a reader has: a model, recipes, pictures, a benchmark."""
    (tmp_path / "my").mkdir()
    (tmp_path / "my/model").symlink_to(tiny["llava"])
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    (tmp_path / "cat.jpg").symlink_to(pictures[0])
    (tmp_path / "dog.jpg").symlink_to(pictures[1])
    Slices(tmp_path / "eval_data").pope()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_runs(folder: Path) -> None:
    assert len(python_blocks(PAGE)) > 8
    names = run_page(PAGE)
    assert names["run"].steps == 4 and names["run"].stopped is None
    for left in ("runs/watched/report.html", "eval/compare.html", "models/aligned/config.json", "pairs.jsonl"):
        assert (folder / left).is_file()


def test_the_readme_runs(folder: Path) -> None:
    row = {"prompt": "Is there a moon?", "chosen": "No.", "rejected": "Yes.", "images": [Image.open("cat.jpg")]}
    names = run_page(ROOT / "README.md", {"rows": [row]})
    assert names["run"].steps == 1 and (folder / "eval/dpo_llava_lora_model/pope/results.json").is_file()


def test_the_page_of_scenes_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked = Scenes(seed=1, prior=0.75).prompts("held_out", 3, "pictures")
    answered = [replace(group, responses=(Response(text="There is a moon."),)) for group in asked]
    names = run_page(ROOT / "docs/scenes.md", {"answered": answered})
    assert len(names["groups"]) >= 100 and all(one.responses[0].reward is not None for one in names["scored"])


def test_every_page_with_python_is_run_by_some_test() -> None:
    run = {"concepts", "cookbook", "data", "guides/ovip", "models", "python", "scenes"}  # and the README
    assert {
        page.relative_to(ROOT / "docs").with_suffix("").as_posix()
        for page in (ROOT / "docs").rglob("*.md")
        if python_blocks(page)
    } == run


def test_every_name_of_the_page_and_of_the_readme_is_there() -> None:
    told = PAGE.read_text(encoding="utf-8") + (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\bsl\.(\w+)", told))
    assert named <= set(sl.__all__)
    assert {name for name in sl.__all__ if name[0].islower()} <= named, "a call that no page shows"
