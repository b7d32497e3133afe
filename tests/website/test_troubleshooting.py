"""Every message that the page about errors quotes is one that the code writes."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GAP = "…"
MESSAGES = re.findall(r"^#### `(.+)`$", (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)


@cache
def templates() -> str:
    """All texts of the package, values in them as gaps, one a line."""
    texts = []
    for path in (ROOT / "src/sightline").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else GAP for part in node.values)
                texts.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(" ".join(text.split()) for text in texts)


def pieces(message: str) -> list[str]:
    """What of a message is the same in every run, longest first."""
    return sorted((piece.strip(" .:,'") for piece in message.split(GAP)), key=len, reverse=True)


def missing(message: str) -> list[str]:
    return [piece for piece in pieces(message) if len(piece) > 4 and piece not in templates()]


def test_there_are_messages() -> None:
    assert len(MESSAGES) > 40 and len(set(MESSAGES)) == len(MESSAGES)


@pytest.mark.parametrize("message", MESSAGES)
def test_the_code_says_so(message: str) -> None:
    assert len(pieces(message)[0]) > 8, "nothing of it could be searched for"
    assert missing(message) == []


def test_a_message_that_changed_is_noticed() -> None:
    assert missing("… is not installed. Please run: pip install 'sightline[…]'") == [
        "is not installed. Please run: pip install 'sightline["
    ]
