"""Tokens of rows and of groups in each layout, counted by hand."""

from __future__ import annotations

import pytest

from sightline.data.inspect.figures import Found
from sightline.data.inspect.tokens import layout_seen, layout_tokens, scored_tokens, token_figures
from sightline.data.render import Lengths

PAIR = Lengths(prompts=(100,), pictures=(64,), trained=(0,), answers=((0, 10), (0, 30)))
VISUAL = Lengths(prompts=(100, 50), pictures=(64, 0), trained=(5, 0), answers=((0, 10), (1, 10)))


def test_rows_bring_the_prompt_with_every_answer_and_a_tree_once() -> None:
    assert layout_tokens(PAIR) == {"rows": 240, "packed": 240, "tree": 140}
    assert layout_tokens(VISUAL) == {"rows": 170, "packed": 170, "tree": 170}


def test_seen_pairs_are_the_areas_under_the_diagonal() -> None:
    seen = layout_seen(PAIR)
    assert seen["rows"] == seen["packed"] == 110**2 / 2 + 130**2 / 2
    assert seen["tree"] == 100**2 / 2 + 10 * (100 + 5) + 30 * (100 + 15)


def test_trained_history_is_scored_as_answers_are() -> None:
    assert (scored_tokens(PAIR), scored_tokens(VISUAL)) == (40, 25)


def test_figures_are_of_prompts_pictures_answers_and_rows() -> None:
    found = token_figures([PAIR, VISUAL], max_length=120, too_long=Found(count=1, rows=("rows.jsonl:1",)))
    assert found is not None and found.pictures is not None and found.answer is not None
    assert (found.prompt.count, found.prompt.mean) == (3, pytest.approx(250 / 3))
    assert (found.pictures.count, found.pictures.most) == (2, 64.0)
    assert (found.answer.count, found.answer.mean) == (4, 15.0)
    assert (found.total.count, found.total.least, found.total.most) == (2, 110.0, 130.0)
    assert found.too_long.count == 1
    assert token_figures([], max_length=None, too_long=Found()) is None
