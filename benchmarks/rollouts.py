"""Tokens per second of the rollout engine against ``generate(num_return_sequences=n)`` of transformers.

    python -m benchmarks.rollouts                       # n = 8, prompts of 576 image tokens
    python -m benchmarks.rollouts --json out.json

Both sample with temperature 1 from the same random model, the same prompts and to the same length, in turn in
one process. ``generate`` gets the prompts of a batch padded on the left, as it wants them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image

from benchmarks.shapes import SHAPES, build, records
from benchmarks.step import machine
from sightline.data.render import Renderer
from sightline.models.load import hide_loading_bars, load_policy
from sightline.recipes.schema import ModelSpec, SamplingSpec
from sightline.rollouts.hf import HFEngine
from sightline.types import Group, Prompt


def contenders(folder: Path, prompts: int, n: int, length: int) -> dict[str, Callable[[], int]]:
    """Functions that sample once and return how many tokens they made."""
    policy = load_policy(ModelSpec(path=str(folder)), trainable=False)
    rows = records(folder, SHAPES["small"], answers=1, count=prompts)
    groups = []
    for index, row in enumerate(rows):
        message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": row["question"]}]}
        groups.append(Group(prompts=(Prompt(id=str(index), messages=(message,), images=(str(row["image"]),)),)))
    renderer = Renderer(policy.processor, policy.family)
    engine = HFEngine(policy, renderer)
    sampling = SamplingSpec(n=n, temperature=1.0, max_new_tokens=length, batch_size=prompts)
    engine.ends = [policy.config.get_text_config().vocab_size - 1]  # an id that hardly comes: equal lengths

    def ours() -> int:
        answered = engine.generate(groups, sampling, seed=0)
        return sum(len(response.tokens or ()) for group in answered for response in group.responses)

    processor = policy.processor
    processor.tokenizer.padding_side = "left"
    texts = [
        processor.apply_chat_template(list(g.prompts[0].messages), tokenize=False, add_generation_prompt=True)
        for g in groups
    ]
    pictures = [Image.open(g.prompts[0].images[0]).convert("RGB") for g in groups]
    inputs = processor(text=texts, images=pictures, padding=True, return_tensors="pt")

    def generate() -> int:
        with torch.no_grad():
            out = policy.base.generate(
                **inputs, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, num_return_sequences=n,
                max_new_tokens=length, min_new_tokens=length,
            )  # fmt: skip
        return out.shape[0] * (out.shape[1] - inputs["input_ids"].shape[1])

    return {"engine": ours, "generate": generate}


def tokens_per_second(both: dict[str, Callable[[], int]], rounds: int) -> dict[str, list[float]]:
    """Tokens per CPU second in each of ``rounds``, sampling in turn after one round to warm up."""
    speeds: dict[str, list[float]] = {kind: [] for kind in both}
    for kind, sample in [*both.items()] * (rounds + 1):
        began = time.process_time()
        tokens = sample()
        speeds[kind].append(tokens / (time.process_time() - began))
    return {kind: values[1:] for kind, values in speeds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=8, help="answers per prompt")
    parser.add_argument("--length", type=int, default=32, help="tokens of an answer")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds (median is reported)")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    hide_loading_bars()
    report: dict[str, object] = {"machine": machine(), "n": arguments.n, "length": arguments.length}
    print(f"{'prompts':>8}{'engine':>10}{'generate':>10}   tokens per CPU second; ratio")
    with tempfile.TemporaryDirectory() as name:
        folder = build(Path(name), SHAPES["small"])
        for prompts in (1, 2, 4):
            both = contenders(folder, prompts, arguments.n, arguments.length)
            samples = tokens_per_second(both, arguments.rounds)
            speeds = {kind: statistics.median(values) for kind, values in samples.items()}
            ratio = speeds["engine"] / speeds["generate"]
            print(f"{prompts:8}{speeds['engine']:10.0f}{speeds['generate']:10.0f}   {ratio:.1f}x")
            report[str(prompts)] = {**speeds, "ratio": ratio, "samples": samples}
    report["load_after"] = [round(load, 2) for load in os.getloadavg()]
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
