"""Recipes from YAML files: strict, complete, with errors that name the file, the line and the remedy."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from sightline.errors import RecipeError
from sightline.recipes.engine_conflicts import engine_conflicts
from sightline.recipes.low_memory import low_memory_conflicts
from sightline.recipes.mix import check_mix, mix_conflicts, mixed_recipe
from sightline.recipes.mixture import mixture_conflicts
from sightline.recipes.preferences import UNCOMPARED
from sightline.recipes.refusals import nearest as nearest
from sightline.recipes.refusals import refusal
from sightline.recipes.rewards import RewardSpec, pairs_of
from sightline.recipes.rounds import check_rounds
from sightline.recipes.schema import DataSpec, LoraSpec, Mode, PartsSpec, Recipe
from sightline.recipes.source import Dumper, KeyPath, Source, read_source, shortened
from sightline.recipes.terms import AnyTerm
from sightline.recipes.unread import unread_options
from sightline.recipes.visual import visual_conflicts
from sightline.types import Algorithm

Spec = TypeVar("Spec")
_RECIPE = TypeAdapter(Recipe)
_TERMS: TypeAdapter[Any] = TypeAdapter(RewardSpec)


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, lay overrides over it and check it.

    Args:
        path: A YAML file.
        overrides: Dotted, the value in YAML: ``("train.learning_rate=1e-4", "data.train.0.limit=8")``.

    Returns:
        The complete recipe, defaults filled in. The fields of ``algorithm`` are checked by
        ``sightline.algorithms.registry.build_algorithm``, and with it by :func:`check_algorithm`.

    Raises:
        RecipeError: All that is wrong with the file, each with its line (or override), what was
            found, what was expected and the nearest valid key.
    """
    source = read_source(path, overrides)
    if "method" in source.values and "prompts" in source.values:
        raise RecipeError(f"{path} is the recipe of a loop, not of a training. Run it with: sightline loop {path}")
    try:
        # JSON mode is what lets strict types (no "3" for 3) accept lists for tuples.
        recipe = _RECIPE.validate_json(json.dumps(source.values), strict=True)
    except ValidationError as error:
        raise refusal(source, error, Recipe) from None
    faults = [f"{source.origin(where)}: {text}" for where, text in conflicts(recipe)]
    if faults:
        raise RecipeError("\n".join(faults))
    return recipe


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML that :func:`load_recipe` reads back to an equal recipe."""
    return yaml.dump(dataclasses.asdict(recipe), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100)


def check_spec(kind: type[Spec], where: str, /, **values: Any) -> Spec:
    """A part of a recipe from values that were given another way (command-line options).

    Args:
        kind: The dataclass.
        where: Names the values in messages: ``sampling options``.
        values: By field name.

    Raises:
        RecipeError: A value of the wrong type or out of its range.
    """
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        raise refusal(Source(values, {(): where}), error, kind) from None


def terms_of(text: str) -> dict[str, AnyTerm] | None:
    """The terms of a reward as a command line names them: ``name=weight,name=weight``, or a YAML file of them.

    Returns:
        None where the text is neither: the name of one reward.

    Raises:
        RecipeError: As :func:`load_recipe`.
    """
    pairs = pairs_of(text)
    if pairs is None and Path(text).suffix not in (".yaml", ".yml"):
        return None
    source = read_source(text) if pairs is None else Source(pairs, {(): f"--reward {shortened(text)}"})
    inside: KeyPath = ("online", "reward")
    try:
        terms: dict[str, AnyTerm] = _TERMS.validate_json(json.dumps(source.values), strict=True)
    except ValidationError as error:
        origins = {(*inside, *path): place for path, place in source.origins.items()}
        told = refusal(Source({"online": {"reward": source.values}}, origins), error, Recipe, under=inside)
        raise RecipeError(str(told).replace("online.reward.", "")) from None
    return terms


def check_algorithm(recipe: Recipe, algorithm: Algorithm, mixed: Algorithm | None = None) -> None:
    """Check what a recipe and its algorithm must agree on.

    Args:
        recipe: to check.
        algorithm: of the recipe.
        mixed: that of ``mix``, where the recipe has one.

    Raises:
        RecipeError: The algorithm reads reference log-probs and the recipe has no reference, or the
            other way round; rows are read as only a reward model may read them; or token weights or mismatched
            answers are asked for that it does not read.
    """
    name = recipe.algorithm["name"]
    _check_mixed(recipe, algorithm, mixed)
    needs = _compares(algorithm, mixed)
    if needs and recipe.reference == "none":
        choices = "adapter (with LoRA or model.adapter), copy or cache"
        raise RecipeError(
            f"{recipe.name}: {name} compares with a reference, found reference: none. Set it to {choices}."
        )
    if not needs and recipe.reference not in ("none", "auto"):
        raise RecipeError(
            f"{recipe.name}: found reference: {recipe.reference}, but {name} with these fields reads no reference. "
            "Set reference: none."
        )
    if recipe.data is not None and recipe.data.reads is not None and "reward" not in algorithm.heads:
        raise RecipeError(
            f"{recipe.name}: data.reads is what a reward model reads, but {name} trains a policy, which must read "
            "neither facts nor criteria. Remove data.reads."
        )
    if recipe.data is not None and recipe.data.segments is not None and "logprobs" not in algorithm.heads:
        raise RecipeError(f"{recipe.name}: data.segments weighs tokens, but {name} scores none. Remove data.segments.")
    if recipe.online is not None and "logprobs" not in algorithm.heads:
        raise RecipeError(
            f"{recipe.name}: online trains the policy that samples, and {name} trains none. Sample answers first "
            "(sightline sample), and name the file under data.train."
        )
    if recipe.online is not None and recipe.online.relation in UNCOMPARED and algorithm.compares:
        raise RecipeError(
            f"{recipe.name}: online.relation: {recipe.online.relation} makes no comparisons, and {name} learns from "
            "nothing else. Set it to best_worst or ranked."
        )
    check_rounds(recipe, algorithm)
    if algorithm.compares and any(spec.train_on != "all" for spec in _sources(recipe)):
        raise RecipeError(
            f"{recipe.name}: train_on says which turns of a conversation are trained, and {name} compares last answers "
            "alone. Remove train_on."
        )
    if "labels" in algorithm.needs and recipe.online is not None:
        raise RecipeError(
            f"{recipe.name}: {name} learns from labelled answers, and online gives sampled answers rewards and "
            "comparisons, no labels. Use an algorithm that compares (dpo), or sample, label and train on files."
        )
    if "labels" not in algorithm.needs and any(spec.relation == "mismatched" for spec in _sources(recipe)):
        raise RecipeError(
            f"{recipe.name}: relation: mismatched makes single labelled answers, which {name} does not read. "
            "Set relation: text, or algorithm.name: kto."
        )


def _check_mixed(recipe: Recipe, algorithm: Algorithm, mixed: Algorithm | None) -> None:
    alone = mixed_recipe(recipe)
    assert (alone is None) == (mixed is None)
    if mixed is not None and alone is not None:
        check_algorithm(alone, mixed)
        check_mix(recipe, algorithm, mixed)


def _compares(*algorithms: Algorithm | None) -> bool:
    """Whether any reads reference log-probabilities."""
    return any(one is not None and "ref_logprobs" in one.needs for one in algorithms)


def with_reference(recipe: Recipe, algorithm: Algorithm, mixed: Algorithm | None = None) -> Recipe:
    """The recipe with ``reference: auto`` decided, once it agrees with its algorithms (:func:`check_algorithm`)."""
    check_algorithm(recipe, algorithm, mixed)
    if recipe.reference != "auto":
        return recipe
    if not _compares(algorithm, mixed):
        return dataclasses.replace(recipe, reference="none")
    return dataclasses.replace(recipe, reference="adapter" if _has_adapter(recipe) else "copy")


def conflicts(recipe: Recipe) -> list[tuple[KeyPath, str]]:
    """What is wrong between fields that are each valid: the place, and the message."""
    return [
        *_data_conflicts(recipe),
        *visual_conflicts(recipe),
        *mixture_conflicts(recipe),
        *unread_options(recipe),
        *engine_conflicts(recipe),
        *_model_conflicts(recipe),
        *low_memory_conflicts(recipe, _modes(recipe)),
        *_reference_conflicts(recipe),
        *mix_conflicts(recipe, _data_conflicts),
    ]


def _data_conflicts(recipe: Recipe) -> list[tuple[KeyPath, str]]:
    found: list[tuple[KeyPath, str]] = []
    has_rows = recipe.data is not None and bool(recipe.data.train)
    if has_rows and recipe.online is not None:
        text = "found both data.train and online, expected one. Remove data.train (data.eval may stay), or online."
        found.append((("online",), text))
    if not has_rows and recipe.online is None:
        text = "found neither data.train nor online, expected one. Add rows under data.train, or an online section."
        found.append((("data",), text))
    if "name" not in recipe.algorithm:
        text = "missing key 'algorithm.name'. Add it: sft, dpo, or package.module:Class."
        found.append((("algorithm",), text))
    uncompared = sorted({spec.relation for spec in _sources(recipe)} & {"mismatched", "none"})
    if recipe.data is not None and recipe.data.segments is not None and uncompared:
        text = (
            f"weights of tokens come from compared answers, but a source has relation: {uncompared[0]}. "
            "Set relation: text, or remove segments."
        )
        found.append((("data", "segments"), text))
    return found


def _sources(recipe: Recipe) -> list[DataSpec]:
    return [] if recipe.data is None else [*recipe.data.train, *recipe.data.eval]


def _model_conflicts(recipe: Recipe) -> list[tuple[KeyPath, str]]:
    found: list[tuple[KeyPath, str]] = []
    modes = _modes(recipe)
    if set(modes.values()) == {"frozen"}:
        found.append((("model", "parts"), "every part of the model is frozen. Train one: set it to lora or full."))
    if recipe.model.lora not in (None, LoraSpec()) and "lora" not in modes.values():
        text = "found options of LoRA, but no part has mode lora. Remove them, or set a part of model.parts to lora."
        found.append((("model", "lora"), text))
    rates = {"projector": recipe.train.projector_learning_rate, "vision": recipe.train.vision_learning_rate}
    for part, rate in rates.items():
        if rate is not None and modes[part] == "frozen":
            key = f"{part}_learning_rate"
            text = f"found train.{key} = {rate:g}, but model.parts.{part} is frozen. Remove the rate or train the part."
            found.append((("train", key), text))
    return found


def _reference_conflicts(recipe: Recipe) -> list[tuple[KeyPath, str]]:
    where: KeyPath = ("reference",)
    if recipe.reference == "cache" and recipe.online is not None:
        text = "found reference: cache with online, but fresh answers have no stored numbers. Use adapter or copy."
        return [(where, text)]
    if recipe.reference == "adapter" and not _has_adapter(recipe):
        text = (
            "reference: adapter needs an adapter to switch, found no part with mode lora and no model.adapter. Set a "
            "part to lora, or use reference: copy or cache."
        )
        return [(where, text)]
    return []


def _has_adapter(recipe: Recipe) -> bool:
    return recipe.model.adapter is not None or "lora" in _modes(recipe).values()


def _modes(recipe: Recipe) -> dict[str, Mode]:
    if recipe.model.adapter is not None and recipe.model.parts is None:  # known when it is loaded
        return {"language": "lora", "projector": "lora", "vision": "lora"}
    parts = recipe.model.parts or PartsSpec()
    return {"language": parts.language, "projector": parts.projector, "vision": parts.vision}
