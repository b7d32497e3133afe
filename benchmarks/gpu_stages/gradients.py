"""Every form of attention against float64 on random ragged trees: a wrong gradient fails the command."""

from __future__ import annotations

import random
from typing import Any

import torch

from benchmarks.gpu_attention import (
    WINDOWED,
    Heads,
    both_passes,
    errors,
    exact,
    forms,
    random_inputs,
    random_tree,
)
from benchmarks.gpu_jobs import Job, Record
from benchmarks.gpu_models import DTYPE
from benchmarks.gpu_time import Budget

LIMIT = 1e-2
"""Of a relative error; what bf16 costs stays near 3e-3."""
LEAST, MOST = 6, 400
"""Trees per form: at least, and if the time suffices."""
HEADS = (Heads(query=4, key=4, size=128), Heads(query=8, key=2, size=128), Heads(query=7, key=1, size=64))
TINY_HEADS = (Heads(query=4, key=2, size=16), Heads(query=3, key=3, size=8))


def measure(job: Job, record: Record) -> None:
    """Random trees, the same for every form. Errors, and the first failures in full, go into the figures."""
    if job.form not in forms():
        record.put(state=f"left out: there is no form {job.form}")
        return
    budget = Budget(job.seconds)
    found: dict[str, Any] = {"trees": 0, "failed": 0, "windows": 0, "worst": {}, "failures": []}
    for number in range(LEAST if job.tiny else MOST):
        if number >= LEAST and budget.left() < 0:
            break
        try_tree(job.form, number, job, found)
        record.put(limit=LIMIT, wrong=bool(found["failed"]), **found)


def try_tree(form: str, number: int, job: Job, found: dict[str, Any]) -> None:
    """Odd trees come as views, every third has a window where the form takes one. Errors go into ``found``."""
    rng = random.Random(number)
    torch.manual_seed(number)
    tree = random_tree(rng, longest=24 if job.tiny else rng.choice((60, 240, 700)))
    heads = rng.choice(TINY_HEADS if job.tiny else HEADS)
    views = number % 2 == 1
    window = rng.randint(4, sum(tree.lengths)) if form in WINDOWED and number % 3 == 2 else None
    batch = tree.batch(job.device)
    tokens = batch.tokens.shape[0]
    inputs = random_inputs(tokens, heads, job.device, DTYPE, views=views)
    upstream = torch.randn(1, tokens, heads.query, heads.size, device=job.device, dtype=DTYPE)
    attend = forms()[form](batch, window)
    seen = errors(both_passes(attend, inputs, upstream), exact(batch, window, inputs, upstream))
    found["trees"] += 1
    found["windows"] += window is not None
    kind = "views" if views else "contiguous"
    worst = found["worst"].setdefault(kind, dict.fromkeys(seen, 0.0))
    found["worst"][kind] = {part: larger(error, worst[part]) for part, error in seen.items()}
    if all(error <= LIMIT for error in seen.values()):  # false for what is not a number
        return
    found["failed"] += 1
    if len(found["failures"]) < 10:
        case = {"lengths": tree.lengths, "parents": tree.parents, "heads": [heads.query, heads.key, heads.size]}
        found["failures"].append({"tree": number, "kind": kind, "window": window, **case, "errors": seen})
        print(f"  wrong: {form}, tree {number}, {kind}, window {window}: {seen}", flush=True)


def larger(one: float, other: float) -> float:
    """What is not a number is larger than all."""
    return other if one <= other else one
