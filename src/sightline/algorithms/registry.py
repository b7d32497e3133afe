"""From the ``algorithm`` block of a recipe to an algorithm: its dataclass fields are its schema."""

from __future__ import annotations

import difflib
import importlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from sightline.algorithms.presets import PRESETS
from sightline.errors import RecipeError
from sightline.types import Algorithm

BUILT_IN: Mapping[str, str] = {
    "sft": "sightline.algorithms.sft:SFT",
    "dpo": "sightline.algorithms.dpo:DPO",
    "dpo_listwise": "sightline.algorithms.listwise:ListwiseDPO",
    "aot": "sightline.algorithms.aot:AOT",
    "orpo": "sightline.algorithms.orpo:ORPO",
    "simpo": "sightline.algorithms.simpo:SimPO",
    "cpo": "sightline.algorithms.cpo:CPO",
    "kto": "sightline.algorithms.kto:KTO",
    "reward_model": "sightline.algorithms.reward_model:RewardModel",
    **dict.fromkeys(PRESETS, "sightline.algorithms.policy_gradient:PolicyGradient"),
}
"""Short names; anything else is ``package.module:Class``."""


def build_algorithm(options: Mapping[str, Any]) -> Algorithm:
    """The algorithm that a recipe asks for.

    Args:
        options: ``name`` and any fields of the dataclass it stands for.

    Raises:
        RecipeError: no or an unknown name, an unknown field (the nearest valid one is named), a missing
            field, a value of a wrong type or outside its range.

    >>> build_algorithm({"name": "dpo", "beta": 0.2}).beta
    0.2
    """
    if "name" not in options:
        raise RecipeError(f"The algorithm block has no name. Add algorithm.name: one of {', '.join(BUILT_IN)}.")
    name = str(options["name"])
    cls = _algorithm_class(name)
    preset = PRESETS[name].fields if name in PRESETS else {}
    values = {**preset, **{key: value for key, value in options.items() if key != "name"}}
    valid = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    for key in values:
        if key not in valid:
            raise RecipeError(f"algorithm.{_shown(key)[1:-1]} is not an option of {name}. {_nearest(key[:160], valid)}")
    try:
        # strict, so that "0.5" and true are no numbers; as JSON, where a list may stand for a tuple
        algorithm: Algorithm = TypeAdapter(cls).validate_json(_as_json(name, values), strict=True)
    except ValidationError as error:
        raise RecipeError(_first_problem(name, error)) from error
    return algorithm


def _as_json(name: str, values: Mapping[str, Any]) -> str:
    written = []
    for key, value in values.items():
        try:
            written.append(f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}")
        except (ValueError, TypeError, RecursionError) as error:
            found = f"algorithm.{key} of {name} is {_shown(value)}"
            raise RecipeError(f"{found}; it must be a plain value, and numbers finite.") from error
    return f"{{{', '.join(written)}}}"


def _algorithm_class(name: str) -> type[Algorithm]:
    module_name, _, class_name = BUILT_IN.get(name, name).partition(":")
    if not class_name:
        raise RecipeError(
            f"algorithm.name is {_shown(name)}. {_nearest(name[:160], list(BUILT_IN))} Or give package.module:Class."
        )
    if not all(part.isidentifier() for part in [*module_name.split("."), class_name]):
        raise RecipeError(
            f"algorithm.name is {_shown(name)}, expected a built-in one or package.module:Class. Correct it."
        )
    try:
        found = vars(importlib.import_module(module_name))[class_name]
    except ModuleNotFoundError as error:
        raise RecipeError(
            f"algorithm.name is {_shown(name)}, but {error.name!r} cannot be imported. Install it, or run where it is "
            "found."
        ) from error
    except KeyError as error:
        raise RecipeError(f"algorithm.name is {_shown(name)}, but {module_name} defines no {class_name}.") from error
    if not (isinstance(found, type) and issubclass(found, Algorithm) and is_dataclass(found)):
        raise RecipeError(f"{name} is not an algorithm. Make it a frozen dataclass derived from types.Algorithm.")
    return found


def _nearest(name: str, valid: list[str]) -> str:
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    listed = f"Valid are: {', '.join(valid)}."
    return f"Did you mean {close[0]!r}? {listed}" if close else listed


def _first_problem(name: str, error: ValidationError) -> str:
    problems = error.errors(include_url=False)
    causes = [problem.get("ctx", {}).get("error") for problem in problems]
    if own := [cause for cause in causes if isinstance(cause, RecipeError)]:
        return str(own[0])
    problem = max(problems, key=lambda one: len(one["loc"]))  # of a field of several types, where it went farthest
    key = ".".join(str(part) for part in problem["loc"])
    return f"algorithm.{key} of {name} is {_shown(problem['input'])}. {problem['msg']}."


def _shown(value: Any) -> str:
    """A value of any length, as a message shows it."""
    text = repr(value)
    return text if len(text) <= 160 else f"{text[:80]}... ({len(text):,} characters)"
