"""Loop recipes from YAML files, as strict as those of a training."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError

from sightline.errors import RecipeError
from sightline.recipes.load import conflicts
from sightline.recipes.loop import LoopRecipe, training_recipe
from sightline.recipes.refusals import refusal
from sightline.recipes.rlaif_v import CLAIMS_BENCH, held_out_conflict
from sightline.recipes.schema import DataSpec
from sightline.recipes.source import Dumper, KeyPath, read_source

_LOOP = TypeAdapter(LoopRecipe)
_PLAIN = DataSpec(path="prompts")
_UNREAD = {
    "relation": "answers of prompts are not read",
    "train_on": "answers of prompts are not read",
    "visual": "prompts have no answers to compare",
    "weight": "prompts come from one source",
}
"""Fields of ``prompts`` that nothing reads, and why."""


def load_loop(path: str | Path, overrides: Sequence[str] = ()) -> LoopRecipe:
    """Read the recipe of a loop, lay overrides over it and check it.

    Args:
        path: A YAML file.
        overrides: Dotted, the value in YAML: ``("rounds=5", "method.sampling.n=16")``.

    Raises:
        RecipeError: All that is wrong with the file, each with its line (or override), what was found, what was
            expected and the nearest valid key.
    """
    source = read_source(path, overrides)
    if "method" not in source.values and {"data", "online"} & set(source.values):
        raise RecipeError(f"{path} is the recipe of a training, not of a loop. Run it with: sightline train {path}")
    try:
        loop = _LOOP.validate_json(json.dumps(source.values), strict=True)
    except ValidationError as error:
        raise refusal(source, error, LoopRecipe) from None
    faults = [f"{source.origin(where)}: {text}" for where, text in loop_conflicts(loop)]
    if faults:
        raise RecipeError("\n".join(faults))
    return loop


def is_loop(path: str | Path) -> bool:
    """Whether a file is the recipe of a loop, and not of a training.

    Raises:
        RecipeError: It is not there, or no recipe.
    """
    return "method" in read_source(path).values


def dump_loop(loop: LoopRecipe) -> str:
    """The resolved recipe as YAML that :func:`load_loop` reads back to an equal recipe."""
    return yaml.dump(dataclasses.asdict(loop), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100)


def loop_conflicts(loop: LoopRecipe) -> list[tuple[KeyPath, str]]:
    """What is wrong between fields that are each valid: the place, and the message."""
    if loop.model.adapter is not None:
        text = (
            f"found model.adapter: {loop.model.adapter}, but a loop starts from a whole model. Merge it first: "
            f"sightline merge {loop.model.adapter} -o MERGED, and set model.path to MERGED."
        )
        return [(("model", "adapter"), text)]
    found = conflicts(training_recipe(loop, 1, loop.model, f"{loop.output_dir}/round-1"))
    parts = loop.model.parts
    has_adapter = parts is not None and "lora" in (parts.language, parts.projector, parts.vision)
    if loop.merge.dtype is not None and not has_adapter:
        text = "found merge.dtype, but no part has mode lora, so that nothing is merged. Remove it."
        found.append((("merge", "dtype"), text))
    for name, text in _UNREAD.items():
        if vars(loop.prompts)[name] != vars(_PLAIN)[name]:
            found.append((("prompts", name), f"{text}, so that {name} says nothing here. Remove it."))
    if loop.train.eval_every is not None:
        text = "a round holds out no rows: its model is judged by the exam. Remove train.eval_every."
        found.append((("train", "eval_every"), text))
    return [*found, *_exam_conflicts(loop)]


def _exam_conflicts(loop: LoopRecipe) -> list[tuple[KeyPath, str]]:
    exam, found = loop.exam, list[tuple[KeyPath, str]]()
    if exam is None:
        if loop.stop.patience is not None:
            text = "found stop.patience, but no exam to see a gain by. Add an exam, or remove it."
            found.append((("stop", "patience"), text))
        return found
    names = [bench.bench for bench in exam.benches]
    if twice := {name for name in names if names.count(name) > 1}:
        found.append((("exam", "benches"), f"exam.benches: {min(twice)} stands twice. Give each benchmark once."))
    told = (held_out_conflict(loop.method, Path(bench.data)) for bench in exam.benches if bench.bench == CLAIMS_BENCH)
    found += [(("exam", "benches"), text) for text in told if text is not None]
    if not exam.best.partition("/")[2]:
        text = f"exam.best: found {exam.best!r}, expected BENCH/METRIC, such as {names[0]}/METRIC."
        found.append((("exam", "best"), text))
    return found
