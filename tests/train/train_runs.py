"""Small runs on a tiny LLaVA, for tests and for the processes that tests start."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from sightline.data.schema import write_groups
from sightline.recipes.schema import (
    DatasetSpec,
    DataSpec,
    LoraSpec,
    ModelSpec,
    OnlineSpec,
    PartsSpec,
    Recipe,
    SamplingSpec,
    TrainSpec,
)
from sightline.train.loop import train
from sightline.types import Edge, Group, Prompt, Response

ANSWERS = ("a red circle next to a blue square", "one green star", "two three four five six", "no, there is not")


def environment() -> dict[str, str]:
    """For a process of its own that imports what tests import."""
    folder = Path(__file__).parent
    folders = [str(folder), str(folder.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(folders)}


def draw(folder: Path, count: int = 4) -> list[str]:
    """Pictures of different sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index in range(count):
        picture = Image.new("RGB", (30 + 9 * index, 40), (60 * index, 200 - 40 * index, 90))
        ImageDraw.Draw(picture).ellipse((3, 3, 15 + 4 * index, 20), fill=(255, 50 * index, 10))
        paths.append(str(folder / f"{index}.png"))
        picture.save(paths[-1])
    return paths


def group(index: int, pictures: list[str], responses: int) -> Group:
    """A question about a picture (every third: without one) with its answers, the first preferred."""
    image = (pictures[index % len(pictures)],) if index % 3 != 2 else ()
    parts = [{"type": "image"}] * len(image) + [{"type": "text", "text": "describe the image " * (1 + index % 3)}]
    answers = [f"{ANSWERS[(index + n) % 4]} {'and more ' * ((index * 2 + n) % 4)}".strip() for n in range(responses)]
    return Group(
        prompts=(Prompt(id=f"row-{index}", messages=({"role": "user", "content": parts},), images=image),),
        responses=tuple(Response(text=text, reward=float(-n)) for n, text in enumerate(answers)),
        edges=(Edge(winner=0, loser=1),) if responses == 2 else (),
    )


def data(folder: Path, size: int, responses: int) -> Path:
    """A Group file of ``size`` rows."""
    pictures = draw(folder / "pictures")
    path = folder / f"{size}-{responses}.jsonl"
    write_groups(path, [group(index, pictures, responses) for index in range(size)])
    return path


def recipe(path: Path, folder: Path, *, size: int = 7, responses: int = 1, **options: Any) -> Recipe:
    """SFT on single answers, DPO on pairs; further options are those of ``train``, or of the recipe."""
    train = {"batch_size": 3, "learning_rate": 1e-2, "schedule": "linear", "warmup": 2, "epochs": 3, "shuffle": True}
    own = {name: options.pop(name) for name in tuple(options) if name in Recipe.__dataclass_fields__}
    rows = data(folder / "data", size, responses)
    base: dict[str, Any] = {
        "name": "test",
        "output_dir": str(folder / "run"),
        "model": ModelSpec(path=str(path), parts=PartsSpec(vision="full")),
        "algorithm": {"name": "sft"} if responses == 1 else {"name": "dpo"},
        "reference": "none" if responses == 1 else "copy",
        "data": DatasetSpec(train=(DataSpec(path=str(rows)),)),
        "train": TrainSpec(**(train | options)),
    }
    return Recipe(**(base | own))


def lora(model: Path) -> ModelSpec:
    return ModelSpec(
        path=str(model),
        parts=PartsSpec(language="lora", projector="lora", vision="frozen"),
        lora=LoraSpec(rank=4, alpha=8),
    )


def online(path: Path, folder: Path, reward: str, **options: Any) -> Recipe:
    """DPO on the policy's own samples."""
    spec = OnlineSpec(
        prompts=DataSpec(path=str(data(folder / "data", 5, 1))),
        reward=reward,
        sampling=SamplingSpec(n=3, max_new_tokens=6),
        steps_per_round=2,
    )
    own = {"algorithm": {"name": "dpo"}, "reference": "copy", "data": None, "online": spec}
    return recipe(path, folder, **({"batch_size": 2, "max_steps": 6} | own | options))


def figures(recipe: Recipe) -> list[dict[str, Any]]:
    """Every record of a run, without what the clock says."""
    lines = (Path(recipe.output_dir) / "metrics.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if not is_timed(name)} for line in lines]


def is_timed(name: str) -> bool:
    """Whether a figure depends on how fast the machine is."""
    return name in ("seconds", "tokens_per_second") or name.startswith("time/")


def stop(recipe: Recipe, step: int) -> None:
    """A run in this process that ends without a word once this step is logged, before its checkpoint."""

    class Stopped(BaseException):
        pass

    def end(record: Mapping[str, Any]) -> None:
        if record["step"] == step:
            raise Stopped

    with pytest.raises(Stopped):
        train(recipe, quiet=True, on_log=end)


def losses(run_dir: Path) -> dict[int, float]:
    """Loss of each logged step."""
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return {record["step"]: record["loss"] for record in records}


class CountsE:
    """Reward: how many letters e an answer has."""

    def reward(self, group: Group) -> Group:
        scored = tuple(replace(r, reward=float(r.text.count("e"))) for r in group.responses)
        return replace(group, responses=scored)
