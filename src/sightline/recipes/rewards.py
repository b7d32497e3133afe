"""The reward of a recipe: a sum of named terms. Imports no torch.

``reward: {coverage: {kind: objects, measure: coverage, world: scenes}, no_end: {weight: 0.5}}``. The key is the name
under which a term is logged and stored; ``kind`` may be left out where it is the name. A term set to null is off.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import PlainValidator, TypeAdapter, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from sightline.recipes.terms import TERMS, AnyTerm

_OWN = ("conflict", "reward_type", "term_kind", "term_name")
"""Types of findings that are not pydantic's."""


def kind_of(name: str, values: object) -> str:
    """The kind of a term that is written under ``name``."""
    kind = values.get("kind", name) if isinstance(values, Mapping) else name
    return kind if isinstance(kind, str) else name


def _terms(value: Any) -> str | dict[str, AnyTerm]:
    """A name as it stands, or the terms of a mapping; null ones are left out."""
    if isinstance(value, str) and value:
        return value
    if not isinstance(value, Mapping):
        raise PydanticCustomError("reward_type", "the name of a reward, or a mapping of terms")
    terms: dict[str, AnyTerm] = {}
    faults: list[InitErrorDetails] = []
    for name, one in value.items():
        try:
            if one is not None:
                terms[name] = _term(name, one)
        except ValidationError as error:
            faults += [carried(dict(fault), str(name)) for fault in error.errors(include_url=False)]
        except PydanticCustomError as error:
            faults.append({"type": error, "loc": (str(name),), "input": one})
    if not faults and not terms:
        raise PydanticCustomError("reward_type", "at least one term that is not null")
    if faults:
        raise ValidationError.from_exception_data("reward", faults)
    return terms


def _term(name: str, values: Any) -> AnyTerm:
    if not re.fullmatch(r"[A-Za-z]\w*", name):
        raise PydanticCustomError("term_name", "a name of letters, digits and _")
    if type(values) in TERMS.values():
        term: AnyTerm = values
        return term
    kind = kind_of(name, values)
    if kind not in TERMS:
        raise PydanticCustomError("term_kind", "a kind of reward", {"kind": kind})
    # JSON mode, as recipes are read: no "3" for 3, and lists for tuples
    checked: AnyTerm = TypeAdapter(TERMS[kind]).validate_json(json.dumps(values), strict=True)
    return checked


def carried(fault: dict[str, Any], *where: str) -> InitErrorDetails:
    """A finding of a part, as one of the whole in which the part stands ``where``."""
    if fault["type"] == "value_error":  # of a __post_init__, which knows the whole term
        kind: Any = PydanticCustomError("conflict", "{told}", {"told": str(fault["ctx"]["error"])})
        return {"type": kind, "loc": (*where, *fault["loc"]), "input": fault["input"]}
    if fault["type"] in _OWN:
        kind = PydanticCustomError(fault["type"], fault["msg"], fault.get("ctx"))
        return {"type": kind, "loc": (*where, *fault["loc"]), "input": fault["input"]}
    details: InitErrorDetails = {"type": fault["type"], "loc": (*where, *fault["loc"]), "input": fault["input"]}
    return {**details, "ctx": fault["ctx"]} if "ctx" in fault else details


RewardSpec = Annotated[str | dict[str, AnyTerm], PlainValidator(_terms)]
"""The name of a reward, or named terms whose weighted sum it is."""


def pairs_of(text: str) -> dict[str, dict[str, float]] | None:
    """Terms of ``name=weight,name=weight``, as a command line gives them; None where the text is none of that."""
    found = [re.fullmatch(r"\s*([A-Za-z]\w*)=([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*", part) for part in text.split(",")]
    pairs = {match[1]: {"weight": float(match[2])} for match in found if match}
    return pairs if len(pairs) == len(found) else None


def weights_of(reward: str | Mapping[str, AnyTerm], *, overlong: bool = False) -> dict[str, float]:
    """Weight of each named part of ``Response.rewards``; empty where the reward is one name, whose parts are its own.

    Args:
        reward: of the recipe.
        overlong: whether ``online.overlong_buffer`` adds a part.
    """
    if isinstance(reward, str):
        return {}
    return {name: one.weight for name, one in reward.items()} | ({"overlong": 1.0} if overlong else {})
