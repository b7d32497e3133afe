"""OViP online with stages that overlap, against the same run whose stages take turns.

    python -m benchmarks.stages                       # judge 0.5 s, picture 4 s, by the clock of the wall
    python -m benchmarks.stages --json out.json

A tiny model is trained for real. What is slow elsewhere is simulated by waiting: a judge that needs 0.5 s for an answer
and an image service that needs 4 s for a picture, both over HTTP in this process, asked by the judge and client that
a run uses; sampling and a training step are stretched to the seconds that ``--sampling`` and ``--training`` say. Both
contenders ask the same services with as many requests at once, all of a round where stages take turns, and end with the
same weights, which is checked.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.step import machine
from sightline.data.schema import write_groups
from sightline.models.assemble import TinyLlava
from sightline.models.load import hide_loading_bars
from sightline.recipes.negatives import DescribeSpec, GeneratedSpec, PaintSpec, StagesSpec
from sightline.recipes.preferences import BufferSpec, SelectionSpec
from sightline.recipes.schema import DataSpec, ModelSpec, OnlineSpec, Recipe, SamplingSpec, TrainSpec, VisualSpec
from sightline.recipes.terms import JudgeSpec
from sightline.rollouts.hf import HFEngine
from sightline.scenes.world import Scenes
from sightline.train import loop
from sightline.train.columns import fingerprint_weights
from sightline.train.loop import train
from sightline.train.session import open_session

WORLD = Scenes(seed=0)


class Services(ThreadingHTTPServer):
    """A judge, a describer and an image maker, each of which answers so many requests at once."""

    daemon_threads = True

    def __init__(self, seconds: dict[str, float], at_once: dict[str, int]) -> None:
        self.seconds, self.asked = seconds, dict.fromkeys(seconds, 0)
        self.room = {name: threading.Semaphore(count) for name, count in at_once.items()}
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def reply(self, path: str, request: dict[str, Any]) -> dict[str, Any]:
        name = next(part for part in self.seconds if part in path)
        with self.room[name]:
            time.sleep(self.seconds[name])
            self.asked[name] += 1
        if name == "picture":
            return {"image": _picture(request["seed"])}
        text = json.dumps(request["messages"])
        said = f"Score: {random.Random(text).randint(0, 10)}" if name == "judge" else f"A picture, {len(text)}."
        return {"choices": [{"message": {"content": said}, "finish_reason": "stop"}], "usage": {}}


class _Handler(BaseHTTPRequestHandler):
    server: Services

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        content = json.dumps(self.server.reply(self.path, request)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def _picture(seed: int) -> str:
    picture, held = Image.new("RGB", (96, 96), (seed % 256, 90, 30)), io.BytesIO()
    picture.paste((seed // 256 % 256, 20, 200), (0, 0, 48, 96))
    picture.save(held, format="PNG")
    return base64.b64encode(held.getvalue()).decode("ascii")


def recipe(model: Path, prompts: Path, output: Path, url: str, a: argparse.Namespace) -> Recipe:
    """The run; its stages take turns."""
    asked = {"options": {"model": "m", "workers": a.judges}}
    online = OnlineSpec(
        prompts=DataSpec(path=str(prompts)),
        reward={"judge": JudgeSpec(judge=f"{url}/judge", weight=10.0, pictures=False, **asked)},
        relation="ovip",
        selection=SelectionSpec(small=64, small_gap=1, good=0, fallback="none"),
        visual=VisualSpec(relation="ovip"),
        negatives=GeneratedSpec(
            kind="text_to_image",
            describe=DescribeSpec(judge=f"{url}/describe", **asked),
            paint=PaintSpec(urls=(f"{url}/picture",), workers=a.painters, timeout=600),
        ),
        buffer=BufferSpec(unit="pair"),
        sampling=SamplingSpec(n=a.answers, max_new_tokens=8, batch_size=1),
        max_staleness=a.staleness,
        stages=StagesSpec(overlap=False, chunk=a.pairs),
    )
    return Recipe(
        name="stages",
        output_dir=str(output),
        model=ModelSpec(path=str(model)),
        algorithm={"name": "dpo", "beta": 0.1},
        reference="copy",
        online=online,
        train=TrainSpec(max_steps=a.steps, batch_size=a.pairs, learning_rate=1e-3, save_every=None),
    )


@contextmanager
def stretched(a: argparse.Namespace) -> Iterator[None]:
    """Sampling a prompt and a training step take so many seconds at least."""
    generate, step = HFEngine.generate, loop._update

    def slow(self: HFEngine, groups: Any, *rest: Any, **named: Any) -> Any:
        until = time.monotonic() + a.sampling * len(groups)
        made = generate(self, groups, *rest, **named)
        time.sleep(max(0.0, until - time.monotonic()))
        return made

    def slow_step(*rest: Any, **named: Any) -> Any:
        until = time.monotonic() + a.training
        made = step(*rest, **named)
        time.sleep(max(0.0, until - time.monotonic()))
        return made

    HFEngine.generate, loop._update = slow, slow_step  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        HFEngine.generate, loop._update = generate, step  # type: ignore[method-assign]


def measured(made: Recipe, services: Services) -> dict[str, Any]:
    """Seconds of the steps of a run, what it asked for, and what became of the weights."""
    before = dict(services.asked)
    with stretched(ARGUMENTS):
        train(made, quiet=True)
    lines = (Path(made.output_dir) / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    with open_session(replace(made, model=replace(made.model, path=f"{made.output_dir}/model"),
                              output_dir=f"{made.output_dir}/look")) as session:  # fmt: skip
        weights = fingerprint_weights(session.policy)
    parts = [name for name in records[0] if name.startswith("time/")]
    return {
        "seconds": sum(record["seconds"] for record in records[-1:]),
        "asked": {name: services.asked[name] - before[name] for name in before},
        "loss": [record["loss"] for record in records],
        "weights": weights,
        "parts": {name.removeprefix("time/"): sum(record[name] for record in records) for name in parts},
    }


def compared(a: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = TinyLlava().build(folder / "model", WORLD.vocabulary(), seed=0)
        write_groups(folder / "prompts.jsonl", WORLD.prompts("train", 64, folder / "images"))
        at_once = {"judge": a.judges, "describe": a.judges, "picture": a.painters}
        services = Services({"judge": a.judge, "describe": a.judge, "picture": a.picture}, at_once)
        threading.Thread(target=services.serve_forever, daemon=True).start()
        turns = recipe(model, folder / "prompts.jsonl", folder / "turns", services.address, a)
        assert turns.online is not None
        ahead = StagesSpec(chunk=a.chunk, scorers=a.chunks, painters=a.chunks)
        overlap = replace(turns, output_dir=str(folder / "overlap"), online=replace(turns.online, stages=ahead))
        found = {"turns": measured(turns, services), "overlap": measured(overlap, services)}
        services.shutdown()
    for part in ("loss", "weights"):
        assert found["turns"][part] == found["overlap"][part], f"the two runs differ in their {part}"
    return found | {"ratio": found["turns"]["seconds"] / found["overlap"]["seconds"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--judge", type=float, default=0.5, help="seconds of a judge for an answer")
    parser.add_argument("--picture", type=float, default=4.0, help="seconds of an image service for a picture")
    parser.add_argument("--sampling", type=float, default=1.0, help="seconds of sampling the answers to a prompt")
    parser.add_argument("--training", type=float, default=1.0, help="seconds of a training step")
    parser.add_argument("--answers", type=int, default=16, help="to a prompt")
    parser.add_argument("--pairs", type=int, default=4, help="of a step")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--staleness", type=int, default=2, help="rounds sampled ahead, of both")
    parser.add_argument("--chunk", type=int, default=1, help="prompts that go on together where stages overlap")
    parser.add_argument("--chunks", type=int, default=4, help="under work at once in each stage, where they overlap")
    parser.add_argument("--judges", type=int, default=8, help="requests that the judge answers at once")
    parser.add_argument("--painters", type=int, default=4, help="pictures that are made at once")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    parser.parse_args(namespace=ARGUMENTS)
    torch.set_num_threads(1)
    hide_loading_bars()
    found = compared(ARGUMENTS)
    for name in ("turns", "overlap"):
        print(f"{name:>8} {found[name]['seconds']:7.1f} s   {found[name]['asked']}")
    print(f"   ratio {found['ratio']:7.2f}   same losses and weights")
    if ARGUMENTS.json:
        options = {name: value for name, value in vars(ARGUMENTS).items() if name != "json"}
        for name in ("turns", "overlap"):
            del found[name]["weights"]
        text = json.dumps({"machine": machine(), "options": options, **found}, indent=1)
        ARGUMENTS.json.write_text(text + "\n")


ARGUMENTS = argparse.Namespace()

if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
