"""Lists in replies: read in every form that models give them, and never half."""

import random

import pytest

from sightline.rewards.claims.lists import read_list

TWO = ("A dog sits.", "It is not brown.")


@pytest.mark.parametrize(
    "reply",
    [
        "- A dog sits.\n- It is not brown.",
        "### Facts:\n- A dog sits.\n- It is not brown.\n",
        "Here are the claims:\n\n* A dog sits.\n* It is not brown.\n\nLet me know if I can help.",
        "1. A dog sits.\n2. It is not brown.",
        "(1) A dog sits.\n(2) It is not brown.",
        "a) A dog sits.\nb) It is not brown.",
        "• A dog\n  sits.\n• It is\n\tnot brown.",
        '- **A dog sits.**\n- "It is not brown."',
        '["A dog sits.", "It is not brown."]',
        '```json\n{"claims": ["A dog sits.", "It is not brown."]}\n```',
        "```\n- A dog sits.\n- It is not brown.\n```",
        "Claims:\nA dog sits.\nIt is not brown.",
        "- A dog sits.\r\n- It is not brown.\r\n- {claim 3}\r\n- ...",
    ],
)
def test_every_form_of_a_list(reply):
    assert read_list(reply) == TWO


@pytest.mark.parametrize(
    "reply", ["- none", "None.", "There are no claims.", "[]", '{"claims": []}', "- (none)", "N/A"]
)
def test_a_reply_that_says_there_are_none(reply):
    assert read_list(reply) == ()


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "I cannot see the picture.",
        "A dog sits. It is not brown.",
        "-",
        "- {Extracted fact 1}\n- {Extracted fact 2}\n- ...",
        '["A dog sits.", 3]',
        '{"a": ["x"], "b": ["y"]}',
        "[" * 100_000,
        "Claims:",
    ],
)
def test_a_reply_without_a_list_is_none_and_never_an_empty_list(reply):
    assert read_list(reply) is None


def test_numbers_and_words_that_begin_a_claim_are_part_of_it():
    """The published script takes the first sign off every line, whatever it is."""
    assert read_list("- 3 dogs sit.\n- A. Smith stands.\n- -5 degrees") == (
        "3 dogs sit.",
        "A. Smith stands.",
        "-5 degrees",
    )
    assert read_list("10. A dog.\n11. A cat.") == ("A dog.", "A cat.")


def test_whatever_comes_is_read_without_an_error():
    rng = random.Random(0)
    signs = '-*•1. )(#\n\t ":{}[]`abc\u2028é\x00'
    for _ in range(3000):
        found = read_list("".join(rng.choice(signs) for _ in range(rng.randint(0, 40))))
        assert found is None or all(isinstance(one, str) and one.strip() for one in found)
