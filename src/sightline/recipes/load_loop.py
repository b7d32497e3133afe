"""Loop recipes from YAML files, as strict as those of a training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from sightline.errors import RecipeError
from sightline.recipes.load import conflicts
from sightline.recipes.loop import LoopRecipe, training_recipe
from sightline.recipes.refusals import refusal
from sightline.recipes.source import KeyPath, read_source

_LOOP = TypeAdapter(LoopRecipe)


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
    try:
        loop = _LOOP.validate_json(json.dumps(source.values), strict=True)
    except ValidationError as error:
        raise refusal(source, error, LoopRecipe) from None
    faults = [f"{source.origin(where)}: {text}" for where, text in loop_conflicts(loop)]
    if faults:
        raise RecipeError("\n".join(faults))
    return loop


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
    return [*found, *_exam_conflicts(loop)]


def _exam_conflicts(loop: LoopRecipe) -> list[tuple[KeyPath, str]]:
    exam, found = loop.exam, list[tuple[KeyPath, str]]()
    if exam is None:
        if loop.stop.patience is not None:
            text = "found stop.patience, but no exam to see a gain by. Add an exam, or remove it."
            found.append((("stop", "patience"), text))
        return found
    names = [bench.bench.rpartition(":")[2] if ":" in bench.bench else bench.bench for bench in exam.benches]
    if twice := {name for name in names if names.count(name) > 1}:
        found.append((("exam", "benches"), f"exam.benches: {min(twice)} stands twice. Give each benchmark once."))
    if not exam.best.partition("/")[2]:
        text = f"exam.best: found {exam.best!r}, expected BENCH/METRIC, such as {names[0]}/METRIC."
        found.append((("exam", "best"), text))
    return found
