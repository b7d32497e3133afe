"""What the cookbook and the pages before it tell a reader to run, run as it is written."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pages import blocks

from command_line import sightline

ROOT = Path(__file__).parents[2]
SHOWN = ("CSR", "OViP", "RLAIF-V")
"""Take minutes, and have tests of their own: their recipes are resolved here, and not trained."""


def commands(code: str) -> list[list[str]]:
    return [shlex.split(line, comments=True) for line in code.replace("\\\n", " ").splitlines()]


@pytest.fixture(scope="module")
def cooked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any], list[list[str]]]]:
    """The folder after all of the cookbook; what its Python left; the commands that were run."""
    folder, names, ran = tmp_path_factory.mktemp("cookbook"), {"__name__": "cookbook"}, []
    for name in ("recipes", "examples"):
        (folder / name).symlink_to(ROOT / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        for block in blocks("cookbook.md"):
            if block.file:
                Path(block.file).write_text(block.code)
            elif block.language == "python":
                exec(compile(block.code, block.heading, "exec"), names)
            else:
                ran += [run(command, block.heading) for command in commands(block.code)]
        yield folder, names, ran


def run(command: list[str], heading: str) -> list[str]:
    program, *arguments = command
    if program == "python":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", arguments)
            runpy.run_path(arguments[0], run_name="__main__")
        return command
    if heading in SHOWN:
        arguments = ["show", *arguments[1:]]
    done = sightline(*arguments)
    assert done.code == 0, (command, done.out, done.err)
    return command


def test_the_cookbook_runs(cooked: tuple[Path, dict[str, Any], list[list[str]]]) -> None:
    folder, _, ran = cooked
    assert len(ran) == sum(len(commands(one.code)) for one in blocks("cookbook.md") if one.language == "bash") > 15
    for name in ("sft_llava", "dpo_llava_lora", "reward_model", "ppo_scenes"):
        metrics = [json.loads(line) for line in (folder / f"runs/{name}/metrics.jsonl").read_text().splitlines()]
        assert any("loss" in line for line in metrics) and (folder / f"runs/{name}/model").is_dir(), name


def test_the_own_reward_is_in_the_sum(cooked: tuple[Path, dict[str, Any], list[list[str]]]) -> None:
    folder = cooked[0]
    scored = [json.loads(line) for line in (folder / "scored_twice.jsonl").read_text().splitlines()]
    answers = [answer for group in scored for answer in group["responses"] if answer.get("reward") is not None]
    assert answers
    for answer in answers:
        parts = answer["rewards"]
        assert answer["reward"] == pytest.approx(parts["scenes"] + 0.5 * parts["brief"])
        assert parts["brief"] == pytest.approx(min(1.0, 8 / len(answer["text"].split())))


def test_the_own_benchmark_has_its_figure(cooked: tuple[Path, dict[str, Any], list[list[str]]]) -> None:
    folder = cooked[0]
    result = json.loads((folder / "eval/stars/results.json").read_text())["results"]
    assert 0 <= result["stars_official"]["accuracy,none"] <= 100
    rows = json.loads((folder / "stars/stars.json").read_text())
    assert {row["star"] for row in rows} <= {True, False} and len(rows) == 4


def test_the_tree_of_the_concepts_is_the_one_that_is_computed(
    cooked: tuple[Path, dict[str, Any], list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page's own assertions, and the drawing: a line of it for each segment, an arrow for each parent."""
    monkeypatch.chdir(cooked[0])
    picture = next((cooked[0] / "pictures").glob("*.png"))
    (cooked[0] / "scene.png").write_bytes(picture.read_bytes())
    (block,) = blocks("concepts.md")
    names: dict[str, Any] = {}
    exec(compile(block.code, "concepts", "exec"), names)
    drawn = (ROOT / "docs/images/tree.svg").read_text()
    parents = names["batch"].parent.tolist()
    assert re.findall(r">segment (\d)<", drawn) == [str(number) for number in range(len(parents))]
    assert drawn.count("marker-end") == sum(parent >= 0 for parent in parents)
    for response in names["group"].responses:
        assert f">{response.text}<" in drawn
