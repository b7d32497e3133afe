"""Pairs from multiple-choice questions."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from sightline.errors import DataError
from sightline.relations.options import find_options, option_pair
from sightline.types import Edge, Group, Prompt, Response

LINES = """Which country?
Options:\x20
(A) Barbados\x20
(B) the Dominican Republic\x20
(C) Saint Lucia
Hint: see (A) and (D)

Option:"""


def quiz(question: str, *answers: str, id: str = "q", **facts: Any) -> Group:
    prompt = Prompt(id=id, messages=({"role": "user", "content": [{"type": "text", "text": question}]},), facts=facts)
    return Group(prompts=(prompt,), responses=tuple(Response(text=answer) for answer in answers))


def test_options_are_found_by_line_or_in_a_line() -> None:
    assert find_options(LINES) == {"A": "Barbados", "B": "the Dominican Republic", "C": "Saint Lucia"}
    assert find_options("Sky? (A) deep red (B) blue\nAnswer:") == {"A": "deep red", "B": "blue"}
    assert find_options("The panel (B) above?") == {}


@pytest.mark.parametrize(
    "group",
    [
        quiz(LINES, "C"),
        quiz(LINES, "(C)"),
        quiz(LINES, "C."),
        quiz(LINES, "saint lucia"),
        quiz(LINES, label="C"),
        quiz(LINES, "C", label="C"),
    ],
)
def test_the_right_letter_is_preferred_over_a_wrong_one(group: Group) -> None:
    pair = option_pair(group)
    assert pair.responses[0].text == "C"
    assert pair.responses[1].text in ("A", "B")
    assert pair.edges == (Edge(winner=0, loser=1),)
    assert pair.prompts == group.prompts


def test_wording_says_letter_words_or_both() -> None:
    assert option_pair(quiz(LINES, "C"), wording="text").responses[0].text == "Saint Lucia"
    assert option_pair(quiz(LINES, "C"), wording="letter_and_text").responses[0].text == "C. Saint Lucia"


def test_the_wrong_option_is_drawn_by_seed_and_id_alone() -> None:
    def drawn(seed: int) -> list[str]:
        return [option_pair(quiz(LINES, "C", id=str(i)), seed=seed).responses[1].text for i in range(200)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert 70 < Counter(drawn(1))["A"] < 130


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (quiz("What is this?", "C"), "lists 0 options"),
        (quiz(LINES, "E"), "the right option is given as \\['E'\\], the options are A, B, C"),
        (quiz(LINES), "given as nothing"),
        (quiz(LINES, "C", label="B"), "given as \\['B', 'C'\\]"),
    ],
)
def test_questions_without_one_right_option_are_refused(group: Group, message: str) -> None:
    with pytest.raises(DataError, match=message):
        option_pair(group)
