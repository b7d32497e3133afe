"""A local function with the signature of TRL's reward functions."""

import sys
import types

import pytest
from answers import asked

from sightline.errors import DataError, RecipeError
from sightline.recipes.terms import FunctionSpec
from sightline.rewards.build import build_reward, build_term

SEEN = {}


def trl_style(prompts, completions, answer, **columns):
    """As TRL's documentation writes one: conversations, and a column of the data set."""
    SEEN.update(columns, prompts=prompts)
    contents = [completion[0]["content"] for completion in completions]
    return [1.0 if content == right else 0.0 for content, right in zip(contents, answer, strict=True)]


def of_texts(completions):
    return [None if not text else len(text) for text in completions]


@pytest.fixture(autouse=True)
def mine(monkeypatch):
    async def later(prompts, completions):
        return []

    module = types.ModuleType("mine")
    vars(module).update(
        trl_style=trl_style, of_texts=of_texts, later=later, number=3, Kind=type("Kind", (), {}),
        short=lambda completions: [1.0], word=lambda completions: "ab", text=lambda completions: ["1", "2"],
        nan=lambda completions: [float("nan"), 1], broken=lambda completions: 1 / 0,
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "mine", module)


def values(path, *groups, **options):
    return build_term(FunctionSpec(path=path, **options)).values(groups)


def test_a_function_of_trl_gets_prompts_completions_and_the_facts_as_columns():
    groups = [asked("dog", "cat", id="one", images=["a.png"], answer="dog", n=1), asked("hen", id="two", answer="hen")]
    assert values("mine:trl_style", *groups) == [[1, 0], [1]]
    assert SEEN["n"] == [1, 1, None] and SEEN["images"] == [["a.png"], ["a.png"], []]
    assert SEEN["completion_ids"] == [None] * 3
    assert SEEN["prompts"][0] == [dict(groups[0].prompts[0].messages[0])]


def test_a_function_may_take_texts_and_leave_answers_unjudged():
    reward = build_reward({"size": FunctionSpec(path="mine:of_texts", completions="text", weight=2.0)})
    (group,) = reward.rewards([asked("four", "")])
    assert [(r.reward, r.reward_error) for r in group.responses] == [(8.0, None), (None, "size: it gave None")]


def test_a_function_that_raises_fails_its_answers():
    (group,) = build_reward({"mine": FunctionSpec(path="mine:broken")}).rewards([asked("a")])
    assert group.responses[0].reward_error == "mine: ZeroDivisionError: division by zero"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("mine:short", "gave 1 values for 2 answers"),
        ("mine:word", "gave str for 2 answers"),
        ("mine:text", r"gave '1' \(str\)"),
        ("mine:nan", "reward mine: the term gave nan"),
        ("mine:trl_style", "wants 'answer', and no prompt has such a fact"),
    ],
)
def test_what_is_no_list_of_numbers_is_refused(path, words):
    with pytest.raises(DataError, match=words):
        build_reward({"mine": FunctionSpec(path=path)}).rewards([asked("a", "b")])


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("no_such_package.a:f", "'no_such_package' cannot be imported"),
        ("mine:other", "mine defines no other"),
        ("mine:number", "mine:number is int, expected a function"),
        ("mine:Kind", "mine:Kind is a class"),
        ("mine:later", "expected a function"),
    ],
)
def test_what_is_no_function_is_refused(path, words):
    with pytest.raises(RecipeError, match=words):
        values(path, asked("a"))
