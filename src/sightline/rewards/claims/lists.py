"""Lists in the replies of language models: strict enough that half a reply is never taken for a whole one."""

from __future__ import annotations

import json
import re
from typing import Any, Final

_MARK: Final = re.compile(r"^\s*(?:[-*•–—‣·]|\(?(?:\d{1,3}|[a-z])[.)])\s+(?=\S)")
"""What stands before an entry: a dash, a star, a dot, a number or a letter."""
_HEADING: Final = re.compile(r"^\s*(?:#+\s|.*:\s*\**\s*$)")
_NONE: Final = frozenset({"none", "n/a", "nothing", "no claims", "no facts", "there are none", "there are no claims"})
_BLANKS: Final = re.compile(r"^(?:\{.*\}|\[.*\]|<.*>|[^\w]*)$", re.DOTALL)
"""An entry of a form that was not filled in."""
_FENCE: Final = re.compile(r"^```\w*\n(.*?)\n?```$", re.DOTALL)


def read_list(reply: str) -> tuple[str, ...] | None:
    """The entries of a list, in order; empty where the reply says that there are none; None where it holds no list.

    A list is JSON, lines with a mark before them, or the lines below a heading. What stands around a marked list is
    left out; a line that begins with blanks goes on with the entry above it.

    >>> read_list("Here are the claims:\\n- A dog sits.\\n- **It is not** brown.\\n\\nAnything else?")
    ('A dog sits.', 'It is not brown.')
    >>> read_list("- none"), read_list("I cannot see the picture.")
    ((), None)
    """
    text = reply.strip()
    if fenced := _FENCE.match(text):
        text = fenced[1].strip()
    entries = _of_json(text)
    if entries is None:
        entries = _of_lines(text.splitlines())
    if entries is None:
        return () if _says_none(text) else None
    kept = [entry for entry in map(_plain, entries) if not _BLANKS.match(entry)]
    if not kept:
        return () if not entries and text.startswith(("[", "{")) else None
    return () if len(kept) == 1 and _says_none(kept[0]) else tuple(kept)


def _of_json(text: str) -> list[str] | None:
    if not text.startswith(("[", "{")):
        return None
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(found, dict) and len(found) == 1:
        (found,) = found.values()
    return found if isinstance(found, list) and all(isinstance(one, str) for one in found) else None


def _of_lines(lines: list[str]) -> list[str] | None:
    entries: list[str] = []
    for line in lines:
        if mark := _MARK.match(line):
            entries.append(line[mark.end() :])
        elif entries and line[:1].isspace() and line.strip():
            entries[-1] += " " + line.strip()
    if entries:
        return entries
    heading = next((n for n, line in enumerate(lines) if _HEADING.match(line)), None)
    below = [] if heading is None else [line for line in lines[heading + 1 :] if line.strip()]
    return below or None


def _plain(entry: str) -> str:
    text = entry.replace("**", "").replace("__", "").strip()
    return text[1:-1].strip() if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'`" else text


def _says_none(text: str) -> bool:
    return text.lower().strip(" .()[]-*\"'") in _NONE
