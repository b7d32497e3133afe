"""A whole step of a run, as on a device: the host reads one thing of it, whether loss and gradient are finite."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import train_runs
from reads import Reads, moved, on_device

from sightline.recipes.schema import ModelSpec, PartsSpec, Recipe
from sightline.train.loop import train_step
from sightline.train.session import open_session
from sightline.types import Batch


def reads_of_a_step(recipe: Recipe, monkeypatch: pytest.MonkeyPatch, *, before: int) -> list[str]:
    """Where the step after ``before`` others reads."""
    with open_session(recipe, overwrite=True, quiet=True) as session:
        for _ in range(before):
            train_step(session)
        with Reads(session.policy.parameters()) as reads, monkeypatch.context() as patch:

            def to(batch: Batch, device: Any) -> Batch:
                there = moved(batch)
                reads.put(on_device(there))
                return there

            patch.setattr(Batch, "to", to)
            patch.setattr(Batch, "sent", lambda batch, found: found.clone())
            train_step(session)
        return reads.found


RUNS: dict[str, dict[str, Any]] = {
    "dpo": {"algorithm": {"name": "dpo", "sft_weight": 0.5}},
    "dpo with an adapter": {"reference": "adapter"},
    "dpo on a cache": {"reference": "cache"},
    "dpo desensitised": {"algorithm": {"name": "dpo", "ld_alpha": 0.5, "anchor_weight": 1.0, "per": "group"}},
    "dpo in bfloat16": {"dtype": "bfloat16", "gradient_checkpointing": True},
    "dpo packed": {"layout": "packed", "parts": PartsSpec(projector="frozen")},
    "orpo": {"algorithm": {"name": "orpo"}, "reference": "none"},
    "sft": {"algorithm": {"name": "sft", "responses": "chosen"}, "reference": "none"},
    "simpo": {"algorithm": {"name": "simpo"}, "reference": "none"},
    "reward model": {"algorithm": {"name": "reward_model", "objective": "plackett_luce"}, "reference": "none"},
}


@pytest.mark.parametrize("name", RUNS)
def test_a_step_reads_once(tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    options = dict(RUNS[name])
    model = train_runs.lora(tiny["llava"]) if "adapter" in name else ModelSpec(path=str(tiny["llava"]))
    changed = {key: options.pop(key) for key in tuple(options) if key in ModelSpec.__dataclass_fields__}
    options["model"] = replace(model, **changed)
    recipe = train_runs.recipe(tiny["llava"], tmp_path, responses=2, batch_size=4, micro_batch_tokens=1, **options)
    found = reads_of_a_step(recipe, monkeypatch, before=1)
    assert len(found) == 1 and "tolist at" in found[0] and "train/report.py" in found[0], found


@pytest.mark.parametrize("name", ["grpo", "gspo", "rloo", "cispo", "dapo", "ppo"])
def test_a_step_on_answers_that_were_sampled_reads_once(
    tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    algorithm = {"name": name} if name == "ppo" else {"name": name, "beta": 0.1}
    recipe = train_runs.online(tiny["llava"], tmp_path, "train_runs:CountsE", algorithm=algorithm)
    assert recipe.online is not None
    recipe = replace(recipe, online=replace(recipe.online, relation="none"))
    found = reads_of_a_step(recipe, monkeypatch, before=1)  # the second of its round: nothing is sampled
    assert len(found) == 1 and "tolist at" in found[0] and "train/report.py" in found[0], found
