"""Tokens per second of the rollout engine against ``generate(num_return_sequences=n)`` of transformers.

    python -m benchmarks.rollouts                       # n = 8, prompts of 576 image tokens
    python -m benchmarks.rollouts --json out.json

Both sample with temperature 1 from the same random model, the same prompts and to the same length, in turn in
one process. ``generate`` gets the prompts of a batch padded on the left, as it wants them.

Then answers of very different lengths, in batches that are refilled, and in batches of which one follows the other: the
same answers in how many steps of decoding, and in how much CPU time.
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

WAITING, AT_ONCE = 16, 4
"""Prompts with answers of different lengths, and how many of them are a batch."""
MEAN, LIMIT = 24, 128
"""Tokens of such an answer: on average, were there no limit, and at most."""


def asked(folder: Path, prompts: int) -> tuple[HFEngine, list[Group]]:
    """The engine of the small model and questions with a picture each."""
    policy = load_policy(ModelSpec(path=str(folder)), trainable=False)
    groups = []
    for index, row in enumerate(records(folder, SHAPES["small"], answers=1, count=prompts)):
        message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": row["question"]}]}
        groups.append(Group(prompts=(Prompt(id=str(index), messages=(message,), images=(str(row["image"]),)),)))
    return HFEngine(policy, Renderer(policy.processor, policy.family)), groups


def contenders(folder: Path, prompts: int, n: int, length: int) -> dict[str, Callable[[], int]]:
    """Functions that sample once and return how many tokens they made."""
    engine, groups = asked(folder, prompts)
    policy = engine.policy
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


def refilled(folder: Path, n: int, rounds: int) -> dict[str, dict[str, float]]:
    """CPU seconds (median) and steps of decoding for :data:`WAITING` prompts with ``n`` answers each, ``refilled`` in
    one call, or in ``batches`` one after the other.

    ``equal``: share of answers that are the same. Every id is about as likely in this model, so that the rounding of
    another batch now and then draws the neighbour of an id."""
    engine, groups = asked(folder, WAITING)
    vocabulary = engine.policy.config.get_text_config().vocab_size
    engine.ends = list(range(1, vocabulary, MEAN))  # a random model: lengths are nearly geometric
    sampling = SamplingSpec(n=n, temperature=1.0, max_new_tokens=LIMIT, batch_size=AT_ONCE)
    widths: list[int] = []
    engine.policy.language.register_forward_pre_hook(
        lambda module, args, kwargs: widths.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    chunks = {"refilled": [groups], "batches": [groups[i : i + AT_ONCE] for i in range(0, WAITING, AT_ONCE)]}
    found: dict[str, list[tuple[float, int, list[Group]]]] = {kind: [] for kind in chunks}
    for kind, parts in [*chunks.items()] * (rounds + 1):
        widths.clear()
        began = time.process_time()
        answered = [group for part in parts for group in engine.generate(part, sampling, seed=0)]
        found[kind].append((time.process_time() - began, widths.count(1), answered))
    same = [
        one.tokens == other.tokens
        for pair in zip(found["refilled"][0][2], found["batches"][0][2], strict=True)
        for one, other in zip(*(group.responses for group in pair), strict=True)
    ]
    figures = {
        kind: {"seconds": statistics.median(row[0] for row in rows[1:]), "steps": float(rows[0][1])}
        for kind, rows in found.items()
    }
    return figures | {
        "ratio": {what: figures["batches"][what] / figures["refilled"][what] for what in ("steps", "seconds")},
        "equal": {"answers": sum(same) / len(same)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=8, help="answers per prompt")
    parser.add_argument("--length", type=int, default=32, help="tokens of an answer")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds (median is reported)")
    parser.add_argument("--refill", action="store_true", help="only answers of very different lengths")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    hide_loading_bars()
    report: dict[str, object] = {"machine": machine(), "n": arguments.n, "length": arguments.length}
    print(f"{'prompts':>8}{'engine':>10}{'generate':>10}   tokens per CPU second; ratio")
    with tempfile.TemporaryDirectory() as name:
        folder = build(Path(name), SHAPES["small"])
        for prompts in () if arguments.refill else (1, 2, 4):
            both = contenders(folder, prompts, arguments.n, arguments.length)
            samples = tokens_per_second(both, arguments.rounds)
            speeds = {kind: statistics.median(values) for kind, values in samples.items()}
            ratio = speeds["engine"] / speeds["generate"]
            print(f"{prompts:8}{speeds['engine']:10.0f}{speeds['generate']:10.0f}   {ratio:.1f}x")
            report[str(prompts)] = {**speeds, "ratio": ratio, "samples": samples}
        for n in (1, arguments.n):
            report[f"refill_{n}"] = figures = refilled(folder, n, arguments.rounds)
            print(f"refilled, n = {n}: {figures}")
    report["load_after"] = [round(load, 2) for load in os.getloadavg()]
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
