"""Started on two gloo processes by test_family_processes.py: ``family_processes.py FOLDER MODEL...``; the main process
writes FOLDER/found.pt."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import train_runs
from groups import user

from sightline.data.schema import write_groups
from sightline.models.family import family_of
from sightline.recipes.schema import DatasetSpec, DataSpec, ModelSpec, PartsSpec, Recipe
from sightline.train.loop import train_step
from sightline.train.report import report
from sightline.train.runtime import Runtime
from sightline.train.session import open_session
from sightline.types import Group, Prompt, Response

SIZES = {"together": 8192, "one by one": 1}
"""Tokens of a micro-batch: all rows of a process at once, or a row each."""
PICTURES = ((), (0,), (1, 2, 3), (), (2,), (), (3, 0))
"""Of each row; with two processes one may look at none while the other looks at three."""


def rows(folder: Path) -> Path:
    """Text-only, one-picture and many-picture rows."""
    drawn = train_runs.draw(folder / "pictures")
    groups = []
    for index, places in enumerate(PICTURES):
        question = user(*(None for _ in places), f"what is it, in {index} words?")
        prompt = Prompt(id=f"{index}", messages=(question,), images=tuple(drawn[place] for place in places))
        groups.append(Group(prompts=(prompt,), responses=(Response(text=train_runs.ANSWERS[index % 4]),)))
    path = folder / "rows.jsonl"
    write_groups(path, groups)
    return path


def recipe(model: Path, folder: Path, tokens: int) -> Recipe:
    from transformers import AutoConfig  # not before sightline.models

    layout = "tree" if "tree" in family_of(AutoConfig.from_pretrained(model)).layouts else "rows"
    spec = ModelSpec(path=str(model), parts=PartsSpec(vision="full"), layout=layout)  # type: ignore[arg-type]
    options = {"batch_size": 4, "epochs": 1, "micro_batch_tokens": tokens, "shuffle": False, "max_grad_norm": 0}
    made = train_runs.recipe(model, folder, model=spec, **options)
    return replace(made, data=DatasetSpec(train=(DataSpec(path=str(rows(folder))),)))


def measure(folder: Path, models: list[Path]) -> dict[str, Any]:
    """Gradients of the first step and losses of all, by model and size of micro-batches."""
    runtime, found = Runtime(), dict[str, Any]()
    for model in models:
        for name, tokens in SIZES.items():
            place = folder / model.name / name
            one = runtime.gather_objects(recipe(model, place, tokens) if runtime.is_main else None)[0]
            found[f"{model.name}, {name}"] = two_steps(one)
    return found


def two_steps(one: Recipe) -> dict[str, Any]:
    """Their losses, and the gradients of the first."""
    with open_session(one) as session:
        named = [pair for part in session.policy.parts().values() for pair in part]
        step, gradients, losses = session.optimizer.step, dict[str, torch.Tensor](), []

        def noted() -> None:
            if not gradients:
                gradients.update({name: p.grad.clone() for name, p in named if p.grad is not None})
            step()

        session.optimizer.step = noted
        for _ in range(2):
            train_step(session)
            losses.append((report(session) or {})["loss"])
    return {"gradients": gradients, "losses": losses}


if __name__ == "__main__":
    torch.set_num_threads(1)
    result = measure(Path(sys.argv[1]), [Path(argument) for argument in sys.argv[2:]])
    if Runtime().is_main:
        torch.save(result, Path(sys.argv[1]) / "found.pt")
