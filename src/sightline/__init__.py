"""Sightline: align vision-language models so that they say what is in the picture.

    import sightline as sl

    run = sl.train(sl.load_recipe("recipes/dpo_llava_lora.yaml", "model.path=my/model"), rows=rows)
    print(sl.load(run).answer("cat.jpg", "What is on the table?").texts)

``docs/python.md`` shows all of it on one page. What a name stands for is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sightline.api.checking import DataCheck, Scoring, check, preferences
    from sightline.api.evaluating import Comparison, compare, evaluate, first_answers, grade, questions
    from sightline.api.folders import assemble, convert, export, merge
    from sightline.api.groups import Groups, pairs, read_groups, read_rows, score, write_groups
    from sightline.api.league import league
    from sightline.api.model import Model, load
    from sightline.api.quantised import QuantisedModel
    from sightline.api.run import Run
    from sightline.api.training import explain, load_recipe, loop, open_run, report, train
    from sightline.demo.sizes import LeagueSize, LoopSize, OnlineSize
    from sightline.errors import SightlineError
    from sightline.evaluation.results import Measured
    from sightline.evaluation.run import Grading
    from sightline.evaluation.stages import AnswerSpec
    from sightline.recipes.preferences import SelectionSpec
    from sightline.recipes.schema import DataSpec, Recipe, SamplingSpec
    from sightline.rewards.base import load_reward
    from sightline.train.callback import Callback
    from sightline.train.quantised import Quantizing
    from sightline.types import Edge, Group, Prompt, Response

__version__ = "0.1.0"

_HOMES = {
    "api.checking": ("DataCheck", "Scoring", "check", "preferences"),
    "api.evaluating": ("Comparison", "compare", "evaluate", "first_answers", "grade", "questions"),
    "api.folders": ("assemble", "convert", "export", "merge"),
    "api.groups": ("Groups", "pairs", "read_groups", "read_rows", "score", "write_groups"),
    "api.league": ("league",),
    "api.model": ("Model", "load"),
    "api.quantised": ("QuantisedModel",),
    "api.run": ("Run",),
    "api.training": ("explain", "load_recipe", "loop", "open_run"),
    "demo.sizes": ("LeagueSize", "LoopSize", "OnlineSize"),
    "errors": ("SightlineError",),
    "evaluation.results": ("Measured",),
    "evaluation.run": ("Grading",),
    "evaluation.stages": ("AnswerSpec",),
    "recipes.preferences": ("SelectionSpec",),
    "recipes.schema": ("DataSpec", "Recipe", "SamplingSpec"),
    "rewards.base": ("load_reward",),
    "train.callback": ("Callback",),
    "train.quantised": ("Quantizing",),
    "types": ("Edge", "Group", "Prompt", "Response"),
}
"""Where each name is defined. ``train`` and ``report`` are packages that are called (``callable_package``)."""
_PLACES = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AnswerSpec",
    "Callback",
    "Comparison",
    "DataCheck",
    "DataSpec",
    "Edge",
    "Grading",
    "Group",
    "Groups",
    "LeagueSize",
    "LoopSize",
    "Measured",
    "Model",
    "OnlineSize",
    "Prompt",
    "QuantisedModel",
    "Quantizing",
    "Recipe",
    "Response",
    "Run",
    "SamplingSpec",
    "Scoring",
    "SelectionSpec",
    "SightlineError",
    "assemble",
    "check",
    "compare",
    "convert",
    "evaluate",
    "explain",
    "export",
    "first_answers",
    "grade",
    "league",
    "load",
    "load_recipe",
    "load_reward",
    "loop",
    "merge",
    "open_run",
    "pairs",
    "preferences",
    "questions",
    "read_groups",
    "read_rows",
    "report",
    "score",
    "train",
    "write_groups",
]


def __getattr__(name: str) -> Any:
    if name in ("report", "train"):
        return importlib.import_module(f"sightline.{name}")
    if name not in _PLACES:
        raise AttributeError(f"module 'sightline' has no attribute {name!r}")
    found = vars(importlib.import_module(f"sightline.{_PLACES[name]}"))[name]
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
