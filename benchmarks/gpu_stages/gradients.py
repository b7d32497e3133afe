"""Every form of attention against float64 on random ragged trees, and the tower's on random pictures: a wrong gradient
fails the command."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_attention import (
    WINDOWED,
    Attend,
    Heads,
    both_passes,
    errors,
    exact,
    forms,
    random_inputs,
    random_tree,
    windowed_mask,
)
from benchmarks.gpu_jobs import Job, Record
from benchmarks.gpu_models import DTYPE
from benchmarks.gpu_time import Budget
from sightline.models.tower import tower_attention

LIMIT = 1e-2
"""Of a relative error; what bf16 costs stays near 3e-3."""
LEAST, MOST = 6, 400
"""Trees per form: at least, and if the time suffices."""
HEADS = (Heads(query=4, key=4, size=128), Heads(query=8, key=2, size=128), Heads(query=7, key=1, size=64))
TINY_HEADS = (Heads(query=4, key=2, size=16), Heads(query=3, key=3, size=8))


TOWER = "tower"
TOWER_HEADS = (Heads(query=16, key=16, size=80), Heads(query=16, key=16, size=72))
"""Of Qwen2.5-VL and Qwen3-VL."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """Something to attend to."""

    tokens: int
    heads: Heads
    attend: Attend
    mask: Tensor
    """[T,T] additive, float64: what is seen."""
    told: dict[str, Any]
    """How it is written down where it fails."""


def measure(job: Job, record: Record) -> None:
    """Random trees, the same for every form. Errors, and the first failures in full, go into the figures."""
    if job.form not in (*forms(), TOWER):
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
    """Odd ones come as views. Errors go into ``found``."""
    torch.manual_seed(number)
    case = some_pictures(number, job) if form == TOWER else some_tree(form, number, job)
    views, heads, window = number % 2 == 1, case.heads, case.told.get("window")
    inputs = random_inputs(case.tokens, heads, job.device, DTYPE, views=views)
    upstream = torch.randn(1, case.tokens, heads.query, heads.size, device=job.device, dtype=DTYPE)
    seen = errors(both_passes(case.attend, inputs, upstream), exact(case.mask, inputs, upstream))
    found["trees"] += 1
    found["windows"] += window is not None
    kind = "views" if views else "contiguous"
    worst = found["worst"].setdefault(kind, dict.fromkeys(seen, 0.0))
    found["worst"][kind] = {part: larger(error, worst[part]) for part, error in seen.items()}
    if all(error <= LIMIT for error in seen.values()):  # false for what is not a number
        return
    found["failed"] += 1
    if len(found["failures"]) < 10:
        told = {"heads": [heads.query, heads.key, heads.size], **case.told}
        found["failures"].append({"tree": number, "kind": kind, **told, "errors": seen})
        print(f"  wrong: {form}, tree {number}, {kind}, window {window}: {seen}", flush=True)


def some_tree(form: str, number: int, job: Job) -> Case:
    """Every third has a window where the form takes one."""
    rng = random.Random(number)
    tree = random_tree(rng, longest=24 if job.tiny else rng.choice((60, 240, 700)))
    heads = rng.choice(TINY_HEADS if job.tiny else HEADS)
    window = rng.randint(4, sum(tree.lengths)) if form in WINDOWED and number % 3 == 2 else None
    batch = tree.batch(job.device)
    return Case(
        tokens=batch.tokens.shape[0],
        heads=heads,
        attend=forms()[form](batch, window),
        mask=windowed_mask(batch, torch.float64, window),
        told={"lengths": tree.lengths, "parents": tree.parents, "window": window},
    )


def some_pictures(number: int, job: Job) -> Case:
    """Windows and pictures of any lengths, end to end."""
    rng = random.Random(number)
    longest = 24 if job.tiny else rng.choice((64, 256, 1024))
    lengths = [rng.randint(1, longest) for _ in range(rng.randint(1, 9))]
    heads = rng.choice(TINY_HEADS[1:] if job.tiny else TOWER_HEADS)
    ends = torch.tensor([0, *lengths], device=job.device, dtype=torch.int32).cumsum(0, dtype=torch.int32)
    owner = torch.repeat_interleave(torch.tensor(lengths, device=job.device))
    apart = owner[:, None] != owner[None, :]

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        given = {"scaling": heads.size**-0.5, "cu_seq_lens_q": ends, "max_length_q": max(lengths)}
        return tower_attention(torch.nn.Module(), query, key, value, None, **given)[0]

    mask = torch.zeros(apart.shape, device=job.device, dtype=torch.float64).masked_fill(apart, float("-inf"))
    return Case(tokens=sum(lengths), heads=heads, attend=attend, mask=mask, told={"lengths": lengths})


def larger(one: float, other: float) -> float:
    """What is not a number is larger than all."""
    return other if one <= other else one
