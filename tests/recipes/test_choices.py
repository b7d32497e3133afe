"""The choices of a key: `sightline show --explain` lists them for every key that has some."""

from dataclasses import fields
from typing import Any, Literal

import pytest

from command_line import sightline
from recipe_files import LOOPS, TRAININGS
from sightline.algorithms.registry import BUILT_IN
from sightline.recipes.choices import choices, hints, kinds, named_kinds, notes
from sightline.recipes.field_docs import field_docs
from sightline.recipes.loop import LoopRecipe
from sightline.recipes.schema import ModelSpec, Recipe, SamplingSpec
from sightline.recipes.terms import TERMS, AnyTerm


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (Literal["a", "b"], ["a", "b"]),
        (Literal["a", "b"] | None, ["a", "b", "null"]),
        (bool | None, ["true", "false", "null"]),
        (bool, ["true", "false"]),
        (Literal["a", "b"] | int, []),  # and any number
        (str | None, []),
        (None | ModelSpec, []),
    ],
)
def test_words_of_a_type(hint: Any, words: list[str]) -> None:
    assert choices(hint) == words


def test_every_literal_of_a_recipe_is_told() -> None:
    """Also those of specs inside specs."""

    def walk(kind: type) -> set[type]:
        inside = {one for hint in hints(kind).values() for one in kinds(hint) if one is not kind}
        return {kind}.union(*map(walk, inside))

    specs = walk(Recipe) | walk(LoopRecipe)
    assert len(specs) > 40
    for kind in specs:
        for field in fields(kind):
            if str(field.type).startswith("Literal[") and "," in str(field.type):
                assert " of: " in notes(kind)[field.name], f"{kind.__name__}.{field.name}"


def test_what_is_one_of_several_kinds_lists_the_others() -> None:
    assert named_kinds(hints(LoopRecipe)["method"]) == {"name": ["csr", "ovip", "rlaif_v", "self_rewarding"]}
    assert set(named_kinds(AnyTerm)["kind"]) == set(TERMS)
    assert notes(SamplingSpec)["n"] == field_docs(SamplingSpec)["n"]  # no choices: as it was


@pytest.mark.parametrize(
    ("name", "shown"), [(TRAININGS[0], "# One of: sft, dpo, "), (LOOPS[0], "# One of: csr, ovip, ")]
)
def test_explained_recipes_list_the_choices(name: Any, shown: str) -> None:
    said = sightline("show", name, "--explain").out
    assert shown in said and "# One of: float32, bfloat16, null." in said
    assert all(word in said.replace("\n  # ", " ") for word in BUILT_IN)
