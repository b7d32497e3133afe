"""``llms.txt`` and ``AGENTS.md`` say what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from test_docs import CLI, every_command
from website import agents

ROOT = Path(__file__).parents[2]
AGENTS = (ROOT / "AGENTS.md").read_text(encoding="utf-8")


def test_llms_txt_is_current() -> None:
    assert agents.LLMS.read_text(encoding="utf-8") == agents.llms(), "python -m website.agents"


def test_llms_txt_lists_every_page_with_what_it_says() -> None:
    listed = re.findall(r"^- \[(.+?)\]\((\S+)\): (.+)$", agents.llms(), re.MULTILINE)
    assert {link.removeprefix(f"{agents.SITE}/") for _, link, _ in listed} == {
        page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")
    }
    assert all(len(summary) > 20 for _, _, summary in listed)


def test_agents_md_has_every_command_and_target() -> None:
    """The tables are held to the code by ``test_tables``; here that they are complete."""
    for path, command in every_command(CLI, ()):
        if hasattr(command, "commands"):
            continue
        assert f"| `sightline {' '.join(path)}` |" in AGENTS
    for target in re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE):
        assert f"| `make {target}` |" in AGENTS


def test_agents_md_tells_the_budgets_that_are_tested() -> None:
    limits = [int(number) for number in re.findall(r"^\| (\d+) \|", AGENTS, re.MULTILINE)]
    source = (ROOT / "tests/contracts/test_budgets.py").read_text()
    assert f"= {', '.join(map(str, limits))}\n" in source


def test_the_order_of_imports_names_every_package() -> None:
    packages = {path.parent.name for path in (ROOT / "src/sightline").glob("*/__init__.py")}
    assert packages - {"algorithms"} <= set(re.findall(r"\w+", agents.imports()))


@pytest.mark.parametrize("page", ["guides/csr.md", "start.md"])
def test_a_summary_is_a_whole_sentence(page: str) -> None:
    _, summary = agents.title_and_summary(page)
    assert summary.endswith(".") and "et al." not in summary[-8:]
