"""Pairs from multiple-choice questions: the right option over a wrong one."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from typing import Literal

from sightline.errors import DataError
from sightline.types import Edge, Group, Prompt, Response

Wording = Literal["letter", "text", "letter_and_text"]

FACTS = ("label", "answer")
"""Facts of a prompt that may name the right option."""
_LINE = re.compile(r"^[ \t]*\(([A-Z])\)[ \t]*(.*?)[ \t]*$", re.MULTILINE)
_INLINE = re.compile(r"\(([A-Z])\)[ \t]*(.*?)(?=[ \t]*\([A-Z]\)|[ \t]*$)", re.MULTILINE)
_LETTER = re.compile(r"^\s*\(?([A-Z])[).:]?\s*$")


def option_pair(group: Group, *, seed: int = 0, wording: Wording = "letter") -> Group:
    """The group with two responses: the right option, and a wrong one drawn by ``seed``.

    The question lists its options as ``(A) ... (B) ...``, one per line or in a line. The right one is
    the answer of the group (its letter, or its words), or the fact ``label`` or ``answer``.

    Args:
        group: One prompt, and at most one response.
        seed: The wrong option is a function of it and of the group's id alone.
        wording: What the responses say: ``C``, ``Saint Lucia`` or ``C. Saint Lucia``.

    Raises:
        DataError: No options in the question, no right one among them, or label and answer disagree.

    >>> prompt = Prompt(id="q", messages=({"role": "user", "content": "Sky? (A) red (B) blue"},))
    >>> pair = option_pair(Group(prompts=(prompt,), responses=(Response(text="B"),)))
    >>> [response.text for response in pair.responses], pair.edges[0].winner
    (['B', 'A'], 0)
    """
    options = find_options(_question(group.prompts[0]))
    if len(options) < 2:
        raise DataError(
            f"the question lists {len(options)} options, expected two or more",
            remedy="Write them as (A) ..., (B) ..., or use another relation",
        )
    right = _right_option(group, options)
    wrong = random.Random(f"{seed}:{group.id}").choice([letter for letter in options if letter != right])
    responses = tuple(Response(text=_worded(letter, options[letter], wording)) for letter in (right, wrong))
    return replace(group, responses=responses, edges=(Edge(winner=0, loser=1),))


def find_options(question: str) -> dict[str, str]:
    """Letter and words of each option of a question, in order; the letters run from A without a gap."""
    by_line = _run_from_a(_LINE.findall(question))
    return by_line if len(by_line) > 1 else _run_from_a(_INLINE.findall(question))


def _run_from_a(found: list[tuple[str, str]]) -> dict[str, str]:
    options: dict[str, str] = {}
    for letter, words in found:
        if letter == chr(ord("A") + len(options)):
            options[letter] = words
    return options


def _question(prompt: Prompt) -> str:
    content = prompt.messages[-1]["content"]
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part["type"] == "text")


def _right_option(group: Group, options: dict[str, str]) -> str:
    facts = group.prompts[0].facts
    stated = [str(facts[name]) for name in FACTS if isinstance(facts.get(name), str)]
    stated += [response.text for response in group.responses[:1]]
    letters = {letter for letter in (_letter_of(text, options) for text in stated) if letter is not None}
    if len(letters) != 1:
        raise DataError(
            f"the right option is given as {stated or 'nothing'}, the options are {', '.join(options)}",
            remedy="Give one letter or the words of one option, as the answer or as 'label'",
        )
    return letters.pop()


def _letter_of(text: str, options: dict[str, str]) -> str | None:
    """The option that an answer names by its letter or by its words."""
    letter = _LETTER.match(text)
    if letter is not None:
        return letter[1] if letter[1] in options else None
    named = [letter for letter, words in options.items() if words.lower() == text.strip().lower()]
    return named[0] if len(named) == 1 else None


def _worded(letter: str, words: str, wording: Wording) -> str:
    return {"letter": letter, "text": words, "letter_and_text": f"{letter}. {words}"}[wording]
