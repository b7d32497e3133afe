"""``llms.txt``, the documentation in a list for machines, and the tables of ``AGENTS.md``.

``python -m website.agents`` writes the former; the latter are filled in by ``website.tables``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from sightline.files import replace_file
from website.navigation import placed

ROOT = Path(__file__).parents[1]
LLMS = ROOT / "docs/llms.txt"
SITE = "https://github.com/sightline-vlm/sightline/blob/main/docs"


_WHAT = (
    "Python toolkit that aligns vision-language models so that they say what is in the picture: SFT, reward models,",
    "the DPO family, KTO, policy gradients, PPO, visual preferences, loops, hallucination benchmarks. One YAML recipe",
    "a run, one command a stage, plain files between.",
)
_HOW = (
    "Recipes are strict: an unknown key is an error that names the nearest valid one. `sightline show RECIPE",
    "--explain` prints every key with its meaning; `sightline COMMAND --help` every option. Nothing is cut, dropped",
    "or downloaded in silence. Files between stages are Groups, one JSON line each (docs/data.md).",
)


def sections() -> dict[str, list[str]]:
    """Section of the site to its pages, as ``mkdocs.yml`` has them; pages that are made while building are left out."""
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    found: dict[str, list[str]] = {}
    for section in placed(nav, ROOT / "docs"):
        ((name, pages),) = section.items()
        found[name] = [page for page in pages if (ROOT / "docs" / page).is_file()]
    return {name: pages for name, pages in found.items() if pages}


def title_and_summary(page: str) -> tuple[str, str]:
    """The heading of a page, and the first sentence below it that is prose."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    title = re.search(r"^# (.+)$", text, re.MULTILINE)
    assert title is not None, page
    body = re.sub(r"^```.*?^```|<!--.*?-->", "", text[title.end() :], flags=re.MULTILINE | re.DOTALL)
    blocks = (block.strip() for block in body.split("\n\n"))
    prose = next((block for block in blocks if block and block[0] not in "#|![-$<"), "")
    plain = re.sub(r"\[([^\]]+)\]\([^)]*\)|[*`$]", lambda link: link[1] or "", " ".join(prose.split()))
    return title[1].replace("`", ""), _beginning(plain)


def _beginning(text: str) -> str:
    """Its first sentences, until they say something."""
    said = ""
    for sentence in re.split(r"(?<!et al)(?<=\.) (?=[A-Z])", text):
        said = f"{said} {sentence}".strip()
        if len(said) > 60:
            break
    return said


def llms() -> str:
    """The index in the form that https://llmstxt.org describes."""
    lines = ["# Sightline", "", *(f"> {line}" for line in _WHAT), "", *_HOW]
    for name, pages in sections().items():
        lines += ["", f"## {name}", ""]
        for page in pages:
            title, summary = title_and_summary(page)
            lines.append(f"- [{title}]({SITE}/{page}): {summary}")
    return "\n".join(lines) + "\n"


# --- AGENTS.md --------------------------------------------------------------------------------


def make_targets() -> str:
    """What ``make`` does."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    found = re.findall(r"^([a-z-]+):.*?## (.+)$", text, re.MULTILINE)
    return _table(("`make`", "what it does"), [(f"`make {name}`", told) for name, told in found])


def commands() -> str:
    """The commands, with the first sentence of their help."""
    import typer.main

    from sightline.cli.app import app

    rows = [(f"`sightline {' '.join(path)}`", told) for path, told in _every(typer.main.get_command(app), ())]
    return _table(("command", "what it does"), rows)


def _every(group: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    for name, command in group.commands.items():
        if "commands" in vars(command):
            yield from _every(command, (*path, name))
        else:
            told = " ".join((command.help or "").split())
            yield (*path, name), re.split(r"(?<=[.:]) ", told)[0].rstrip(".:").replace("|", "\\|")


def layout() -> str:
    """The packages, as the design has them."""
    text = (ROOT / "docs/design.md").read_text(encoding="utf-8").partition("## Where each thing lives")[2]
    table = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert table is not None
    return re.sub(r"\]\((?!https?:)", "](docs/", table[0])


def imports() -> str:
    """Which package may import which, as the design has it."""
    found = re.search(r"## Imports\n\n(`.+?`)", (ROOT / "docs/design.md").read_text(encoding="utf-8"))
    assert found is not None
    return found[1] + "\n"


def budgets() -> str:
    """The limits that ``tests/contracts`` holds the code to."""
    text = (ROOT / "tests/contracts/test_budgets.py").read_text(encoding="utf-8")
    found = re.search(r"^LINES, FUNCTION, NESTING, ARGUMENTS = (\d+), (\d+), (\d+), (\d+)$", text, re.MULTILINE)
    assert found is not None
    names = ("lines of a file", "lines of a function", "blocks in one another", "arguments of a function")
    return _table(("at most", ""), list(zip(found.groups(), names, strict=True)))


def _table(titles: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    return "".join(f"| {left} | {right} |\n" for left, right in (titles, ("---", "---"), *rows)).replace(
        "| --- | --- |", "|---|---|"
    )


if __name__ == "__main__":
    replace_file(LLMS, llms())
