"""Loss curves of 20 steps on a tiny LLaVA and drawn scenes, all seeds fixed.

Write the stored numbers anew, and look at what moved, after a change that is meant to change them:

    OMP_NUM_THREADS=1 python tests/golden/curves.py --write
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sightline.data.schema import write_groups
from sightline.models.assemble import TinyLlava
from sightline.recipes.schema import (
    DatasetSpec,
    DataSpec,
    ModelSpec,
    OnlineSpec,
    PartsSpec,
    Recipe,
    SamplingSpec,
    TrainSpec,
)
from sightline.scenes.world import Scenes
from sightline.train.loop import train
from sightline.types import Edge, Group, Response

STORED = Path(__file__).with_name("curves.json")
STEPS = 20
WORLD = Scenes(seed=0)

Curve = dict[str, list[float]]
"""Figures of the metrics, one value per step."""


def sft(folder: Path) -> Curve:
    """Captions and questions."""
    rows = write(folder, WORLD.groups("train", 40, folder / "images", questions_per_scene=2))
    return curve(folder, ["loss", "grad_norm"], algorithm={"name": "sft"}, data=offline(rows), learning_rate=1e-3)


def dpo(folder: Path) -> Curve:
    """True captions over captions that name an absent companion, the reference kept as a copy."""
    rows = write(folder, pairs(folder / "images"))
    return curve(
        folder,
        ["loss", "rewards/margins"],
        algorithm={"name": "dpo", "beta": 0.1},
        reference="copy",
        data=offline(rows),
        learning_rate=3e-4,
    )


def online_dpo(folder: Path) -> Curve:
    """The best of four own answers over the worst, scored against the scene."""
    rows = write(folder, WORLD.prompts("train", 32, folder / "images"))
    rounds = OnlineSpec(
        prompts=DataSpec(path=str(rows)),
        reward="scenes",
        sampling=SamplingSpec(n=4, max_new_tokens=12),
        steps_per_round=2,
    )
    return curve(
        folder,
        ["loss", "reward", "completions/mean_length"],
        algorithm={"name": "dpo", "beta": 0.1},
        reference="copy",
        online=rounds,
        learning_rate=3e-4,
        batch_size=4,
    )


CURVES: dict[str, Callable[[Path], Curve]] = {"sft": sft, "dpo": dpo, "online_dpo": online_dpo}


def pairs(images: Path) -> Iterator[Group]:
    """Scenes whose two captions, without and with the language prior, differ."""
    true, prior = (replace(WORLD, prior=dial).groups("train", 80, images, kinds=("caption",)) for dial in (0.0, 1.0))
    for chosen, rejected in zip(true, prior, strict=True):
        answers = chosen.responses[0].text, rejected.responses[0].text
        if answers[0] != answers[1]:
            edge = Edge(winner=0, loser=1)
            yield replace(chosen, responses=tuple(Response(text=text) for text in answers), edges=(edge,))


def write(folder: Path, groups: Iterator[Group]) -> Path:
    write_groups(folder / "rows.jsonl", groups)
    return folder / "rows.jsonl"


def offline(rows: Path) -> DatasetSpec:
    return DatasetSpec(train=(DataSpec(path=str(rows)),))


def curve(folder: Path, figures: list[str], *, learning_rate: float, batch_size: int = 8, **recipe: Any) -> Curve:
    """Trains ``STEPS`` steps. Figures that only some steps have are listed for those.

    ``epsilon`` is large, so that Adam does not turn the rounding of a gradient near zero into a whole step: the
    curves are then as smooth in the rounding as in the weights.
    """
    model = TinyLlava(vision_hidden=32, hidden=64).build(folder / "model", WORLD.vocabulary(), seed=0)
    result = train(
        Recipe(
            name="golden",
            output_dir=str(folder / "run"),
            model=ModelSpec(path=str(model), parts=PartsSpec(vision="full")),
            train=TrainSpec(
                max_steps=STEPS,
                batch_size=batch_size,
                learning_rate=learning_rate,
                epsilon=1e-4,
                schedule="cosine",
                warmup=4,
                workers=0,
            ),
            **recipe,
        ),
        quiet=True,
    )
    records = [json.loads(line) for line in (result.run_dir / "metrics.jsonl").read_text().splitlines()]
    return {name: [record[name] for record in records if name in record] for name in figures}


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the stored curves with new ones, or write them.")
    parser.add_argument("--write", action="store_true", help="store the new curves")
    torch.set_num_threads(1)
    written = parser.parse_args().write
    stored = json.loads(STORED.read_text()) if STORED.exists() else {}
    curves: dict[str, Curve] = {}
    for name, make in CURVES.items():
        with tempfile.TemporaryDirectory() as folder:
            curves[name] = make(Path(folder))
        for figure, values in curves[name].items():
            old = stored.get(name, {}).get(figure, [])
            moved = max((abs(a - b) / max(abs(b), 1e-3) for a, b in zip(values, old, strict=False)), default=0.0)
            print(f"{name} {figure}: {values[0]:.4f} ... {values[-1]:.4f}, largest relative change {moved:.1e}")
    if written:
        STORED.write_text(json.dumps(curves, indent=1) + "\n")


if __name__ == "__main__":
    main()
