"""The commands of docs/guides/real_records.md name recipes, keys and options that exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main
from examples.tiny_model import FAMILIES

from sightline.algorithms.registry import build_algorithm
from sightline.cli.app import app
from sightline.recipes.load import check_algorithm, load_recipe

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"^```\n(.*?)^```", (ROOT / "docs/guides/real_records.md").read_text(), re.MULTILINE | re.DOTALL)
COMMANDS = [
    shlex.split(line, comments=True)
    for block in BLOCKS
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith(("sightline ", "python "))
]


def test_the_guide_has_commands() -> None:
    assert len(COMMANDS) >= 10


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_command_is_understood(command: list[str]) -> None:
    program, name, *arguments = command
    if program == "python":
        assert (ROOT / name).is_file() and arguments[0] in FAMILIES
        return
    typer.main.get_command(app).commands[name].make_context(name, list(arguments))
    if name == "train":
        recipe = load_recipe(ROOT / arguments[0], arguments[1:])
        check_algorithm(recipe, build_algorithm(recipe.algorithm))
