"""What README, docs, recipes and --help tell a reader to open or to run is there: links, commands, options, keys."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from examples.tiny_model import FAMILIES

from recipe_files import LOOPS, TRAININGS
from sightline.algorithms.registry import build_algorithm, build_mixed
from sightline.cli.app import app
from sightline.recipes.load import check_algorithm, load_recipe
from sightline.recipes.load_loop import load_loop
from sightline.recipes.loop import LoopRecipe
from sightline.recipes.mix import mixed_options
from sightline.recipes.schema import Recipe

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
CLI = typer.main.get_command(app)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists() and ROOT in target.parents, link
        assert not anchor or anchor in anchors(target), link


def test_the_design_says_what_every_package_holds() -> None:
    package = ROOT / "src/sightline"
    folders = {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    files = {path.name for path in package.glob("*.py")} - {"__init__.py", "__main__.py"}
    table = (ROOT / "docs/design.md").read_text(encoding="utf-8").partition("## Where each thing lives")[2]
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    assert sorted(re.findall(r"`([^`]+)`", " ".join(rows))) == sorted(folders | files)


def lines_of(text: str) -> Iterator[str]:
    """Command lines, continued ones joined, without prompts."""
    for line in re.sub(r"\s*\\\n\s*#?", " ", text).splitlines():
        found = re.match(r"(?:\$ |torchrun \S+ \S+ -m |cat \S+ \| )?((?:sightline|python|make) .*)", line.strip("# "))
        if found:
            yield found[1]


def commands() -> Iterator[tuple[str, str]]:
    """(where it stands, command line) of every whole command."""
    for page in PAGES:
        for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            yield from ((name_of(page), line) for line in lines_of(block))
    for recipe in (*TRAININGS, *LOOPS):
        comments = "\n".join(line for line in recipe.read_text().splitlines() if line.startswith("#   "))
        yield from ((name_of(recipe), line) for line in lines_of(comments))
    for path, command in every_command(CLI, ()):
        for example in re.findall(r"Example: `(.*?)`", command.help or "", re.DOTALL):
            yield f"{' '.join(path)} --help", " ".join(example.split())


def every_command(group: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        yield (*path, name), command
        if hasattr(command, "commands"):
            yield from every_command(command, (*path, name))


def parsed(arguments: list[str]) -> tuple[Any, Any]:
    """(command, context) of what follows ``sightline``; what the command line would refuse raises."""
    command, context = CLI, None
    while hasattr(command, "commands") and arguments:
        context = command.make_context(command.name, list(arguments), parent=context, resilient_parsing=True)
        _, command, arguments = command.resolve_command(context, list(arguments))
    return command, command.make_context(command.name, list(arguments), parent=context)


def check(recipe: Path, overrides: Sequence[str] = ()) -> None:
    """All that can be said of a recipe without its model and its rows."""
    if recipe in LOOPS:
        load_loop(recipe, overrides)
        return
    found = load_recipe(recipe, overrides)
    check_algorithm(found, build_algorithm(found.algorithm), build_mixed(mixed_options(found)))


COMMANDS = list(dict.fromkeys(commands()))


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 120
    assert {where.partition("/")[0] for where, _ in COMMANDS} >= {"README.md", "docs", "recipes", "train --help"}


@pytest.mark.parametrize(("where", "line"), COMMANDS, ids=lambda text: text)
def test_the_command_is_understood(where: str, line: str) -> None:
    program, *arguments = shlex.split(line.partition(" | ")[0], comments=True)
    if program == "make":
        assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif program == "python" and arguments[0] == "-m":
        module = ROOT.joinpath(*arguments[1].split("."))
        assert module.with_suffix(".py").is_file() or arguments[1].startswith("sightline.")
    elif program == "python":
        assert (ROOT / arguments[0]).is_file() and arguments[1] in FAMILIES
    else:
        command, context = parsed(arguments)
        words = [context.params.get("recipe"), context.params.get("overrides")]
        if command.name in ("train", "show", "engine") and str(words[0]).startswith("recipes/"):
            check(ROOT / str(words[0]), words[1] or ())
        elif command.name == "loop" and str(words[0]).startswith("recipes/"):
            load_loop(ROOT / str(words[0]), words[1] or ())
        elif command.name == "check" and words[0] and words[0][0].startswith("recipes/"):
            load_recipe(ROOT / words[0][0], words[0][1:])


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_named_in_a_sentence_exist(page: Path) -> None:
    for quoted in re.findall(r"`sightline ([^`]+)`", prose(page)):
        words, command, context = shlex.split(quoted), CLI, None
        while hasattr(command, "commands") and words and not words[0].startswith("-"):
            context = command.make_context(command.name, list(words), parent=context, resilient_parsing=True)
            _, command, words = command.resolve_command(context, list(words))
        known = {option for parameter in command.params for option in parameter.opts + parameter.secondary_opts}
        assert {word for word in words if word.startswith("-") and word != "-"} <= known | {"--help"}, quoted


SECTIONS = [
    (page, yaml.safe_load(block))
    for page in PAGES
    for block in re.findall(r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
]


OF_LOOPS = {field.name for field in dataclasses.fields(LoopRecipe)} - {f.name for f in dataclasses.fields(Recipe)}
"""What the recipe of a loop has, and that of a training has not."""


@pytest.mark.parametrize(
    ("page", "section"), SECTIONS, ids=lambda part: name_of(part) if isinstance(part, Path) else ""
)
def test_the_section_of_a_recipe_is_understood(page: Path, section: dict[str, Any], tmp_path: Path) -> None:
    """What a page leaves out is filled in."""
    if set(section) & OF_LOOPS:
        method = {"name": "self_rewarding", "reward": "scenes"}
        whole = {"name": "x", "output_dir": "x", "model": {"path": "x"}, "prompts": {"path": "x"}, "method": method}
        (tmp_path / "loop.yaml").write_text(yaml.safe_dump({**whole, **section}))
        load_loop(tmp_path / "loop.yaml")
        return
    if not set(section) <= {field.name for field in dataclasses.fields(Recipe)}:  # terms of a reward by themselves
        section = {"online": {"reward": section.get("reward", section)}}
    learner = {"name": "reward_model" if "reads" in section.get("data", {}) else "dpo"}
    model = {"path": "x", "parts": {"language": "lora", "projector": "frozen"}}
    whole = {"name": "x", "output_dir": "x", "model": model, "algorithm": learner}
    if "online" in section:
        section["online"] = {"prompts": {"path": "x"}, "reward": "scenes", **section["online"]}
    else:
        section["data"] = {"train": [{"path": "x"}], **section.get("data", {})}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**whole, **section}))
    check(tmp_path / "recipe.yaml")
