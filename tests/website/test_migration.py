"""Every key and value that the page about other programs names is one of a recipe."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter

from sightline.algorithms.aot import AOT
from sightline.algorithms.registry import build_algorithm
from sightline.recipes.csr import CsrSpec
from sightline.recipes.load import load_recipe
from sightline.recipes.loop import LoopRecipe
from sightline.recipes.schema import Recipe
from sightline.recipes.terms import TERMS

PAGE = Path(__file__).parents[2] / "docs/migration.md"
ALGORITHMS = ("sft", "reward_model", "dpo", "dpo_listwise", "aot", "orpo", "simpo", "cpo", "kto", "grpo", "ppo")


def named() -> Iterator[tuple[str, str]]:
    """(section, what stands between ticks) of the second column, and of sentences below a table."""
    section = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        section = line.removeprefix("## ") if line.startswith("## ") else section
        cells = line.strip().strip("|").split(" | ")
        if line.startswith("| ") and len(cells) > 1:
            yield from ((section, found) for found in re.findall(r"`([^`]+)`", cells[1]))


NAMED = list(dict.fromkeys(named()))
KEYS = [(section, text) for section, text in NAMED if not text.startswith(("DPOConfig", "GRPOConfig", "sightline "))]


def inside(hint: Any) -> Iterator[Any]:
    """What an annotation may be: members of unions, without their constraints."""
    if typing.get_origin(hint) is typing.Annotated:
        yield from inside(typing.get_args(hint)[0])
    elif typing.get_origin(hint) in (typing.Union, types.UnionType):
        for one in typing.get_args(hint):
            yield from inside(one)
    else:
        yield hint


def step(hint: Any, key: str) -> Iterator[Any]:
    """Annotations of ``key`` below one."""
    for one in inside(hint):
        if dataclasses.is_dataclass(one):
            hints = typing.get_type_hints(one, include_extras=True)
            if key in {field.name for field in dataclasses.fields(one)}:
                yield hints[key]
        elif typing.get_origin(one) is tuple and key.isdecimal():
            yield typing.get_args(one)[0]


def annotations(path: list[str]) -> list[Any]:
    found: list[Any] = [Recipe, LoopRecipe]
    for index, key in enumerate(path):
        if path[:index] in (["online", "reward"], ["method", "relevance"]):
            return [TERMS.get(key, object)]  # of a name that is no kind the mapping says which
        if path[:index] == ["method"]:
            found = [CsrSpec]
        found = [following for hint in found for following in step(hint, key)]
    return found


def understood(text: str) -> bool:
    path, colon, value = text.partition(": ")
    keys, given = path.split("."), yaml.safe_load(value) if colon else None
    if path == "algorithm":
        return build_algorithm(given) is not None
    if keys[0] == "algorithm":
        fields = (build_algorithm({"name": name}) for name in ALGORITHMS)
        owners = [one for one in fields if keys[1] in {field.name for field in dataclasses.fields(one)}]
        if colon:
            build_algorithm({"name": "dpo", keys[1]: given})
        return bool(owners) and len(keys) == 2
    if path == "online.reward.mine":
        return TypeAdapter(TERMS["function"]).validate_python(given) is not None
    for hint in (found := annotations(keys)):
        if colon:
            TypeAdapter(hint).validate_python(given)
    return bool(found)


@pytest.mark.parametrize(("section", "text"), KEYS, ids=lambda text: text)
def test_the_key_is_one_of_a_recipe(section: str, text: str) -> None:
    assert understood(text), text


def test_there_are_keys_of_every_program() -> None:
    sections = {"TRL", "LLaMA-Factory", "LLaVA-RLHF", "CSR", "OViP", "Vision-LLM-Alignment"}
    assert {section for section, _ in KEYS} == sections and len(KEYS) > 150


@pytest.mark.parametrize("text", ["train.lerning_rate", "model.parts.language: half", "algorithm: {name: dpo, bta: 1}"])
def test_a_wrong_key_is_noticed(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert not understood(text)


def row(options: str) -> str:
    (found,) = (line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith(f"| {options} |"))
    return found


def test_the_values_of_a_row_are_those_of_the_code_and_of_the_recipes() -> None:
    assert "| `algorithm: {name: aot}`, `algorithm: {name: aot, paired: false}` |" in row(
        "`loss_type: aot`, `aot_unpaired`"
    )
    assert AOT().paired  # which of the two that is, says its class
    ppo = load_recipe(PAGE.parents[1] / "recipes/papers/vision_llm_alignment_ppo.yaml").algorithm
    assert f"`algorithm: {{name: ppo, critic_warmup: {ppo['critic_warmup']}}}`" in row(
        "`ppo_epochs`, `skip_actor_model`"
    )
