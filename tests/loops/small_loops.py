"""A loop of two rounds on a tiny model of the built-in world, and how two of them are compared."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import yaml

from sightline.data.schema import write_groups
from sightline.errors import DataError
from sightline.models.assemble import TinyLlava
from sightline.recipes.load_loop import load_loop
from sightline.recipes.loop import LoopRecipe
from sightline.scenes.world import Scenes

TIMED = {"environment.json", "process.json", "metrics.jsonl", "report.html", "state.json", ".lock"}
"""Files that hold times."""
RECIPE = {
    "name": "small",
    "rounds": 2,
    "method": {
        "name": "self_rewarding",
        "reward": "scenes",
        "sampling": {"n": 3, "max_new_tokens": 8, "batch_size": 1},
    },
    "train": {"max_steps": 2, "batch_size": 2, "learning_rate": 1e-2, "save_every": 1, "looking": {"every": 5}},
    "exam": {"best": "scenes/length", "better": "higher", "kl_prompts": 2, "kl_tokens": 4},
}


class Told:
    """A reward that ranks answers by their place, unless it is told otherwise."""

    how, stops = "rank", Path("nowhere")

    def reward(self, group):
        if list(Told.stops.glob("*")):
            raise DataError("the reward is away")
        scores = {"rank": float, "even": lambda _: 1.0, "fail": lambda place: None if place else 1.0}[Told.how]
        rewards = [scores(place) for place, _ in enumerate(group.responses)]
        given = zip(group.responses, rewards, strict=True)
        answers = (replace(r, reward=s, reward_error="the judge is away" if s is None else None) for r, s in given)
        return replace(group, responses=tuple(answers))


def world_of(root: Path, *, prompts: int = 5) -> Path:
    """A folder with a tiny model, prompts and an exam."""
    world = Scenes(seed=0)
    TinyLlava(hidden=16, layers=1).build(root / "base", world.vocabulary(), seed=0)
    write_groups(root / "prompts.jsonl", world.prompts("train", prompts, root / "images", kind="caption"))
    (root / "exam").mkdir()
    (root / "exam/scenes.json").write_text('{"scenes": 3, "questions": 0}')
    return root


def loop_of(world: Path, out: Path, *overrides: str) -> LoopRecipe:
    """The recipe of a loop on such a folder."""
    bench = {"bench": "scenes", "data": str(world / "exam"), "selects": True, "max_new_tokens": 6}
    values = {
        **RECIPE,
        "output_dir": str(out),
        "model": {"path": str(world / "base")},
        "prompts": {"path": str(world / "prompts.jsonl")},
        "exam": {**RECIPE["exam"], "benches": [bench]},  # type: ignore[dict-item]
    }
    file = out.with_suffix(".yaml")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(values))
    return load_loop(file, overrides)


def held(folder: Path) -> dict[str, bytes]:
    """What a loop leaves, by the name of the file; without times, and wherever it lies."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    place = str(folder).encode()
    found = {n: path.read_bytes().replace(place, b"LOOP") for n, path in files.items() if path.name not in TIMED}
    found["losses"] = json.dumps(
        [
            [json.loads(line)["loss"] for line in path.read_text().splitlines()]
            for name, path in sorted(files.items())
            if path.name == "metrics.jsonl"
        ]
    ).encode()
    state = json.loads((folder / "state.json").read_text())
    for entry in state["stages"].values():
        for timed in ("seconds", "cpu_seconds", "gpu_seconds", "starts"):
            del entry[timed]
    return {**found, "state": json.dumps(state).encode(), "names": json.dumps(sorted(files)).encode()}
