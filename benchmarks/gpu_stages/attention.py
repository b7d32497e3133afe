"""What one layer's attention costs in each form: forward and backward, with new lengths and with repeated ones."""

from __future__ import annotations

import random
import statistics
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from benchmarks.gpu_attention import Attend, Heads, Tree, both_passes, forms, groups_of, random_inputs
from benchmarks.gpu_jobs import Job, Record
from benchmarks.gpu_models import DTYPE
from benchmarks.gpu_time import Budget, Clock

MOST = 8
"""Rounds of new lengths."""
REPEATS = 3


@dataclass(frozen=True, kw_only=True)
class Case:
    """Groups of one trunk and branches of about a length."""

    heads: Heads
    groups: int
    trunk: int
    branches: int
    length: int

    @property
    def name(self) -> str:
        size = f"{self.groups} x ({self.trunk}, {self.branches} x ~{self.length})"
        return f"{self.heads.query}, {self.heads.key}; {size}"

    def draw(self, rng: random.Random) -> Tree:
        """Lengths within a sixth of what the case says, all new."""

        def about(length: int) -> int:
            return rng.randint(length - length // 6, length + length // 6)

        branches = [about(self.length) for _ in range(self.branches)]
        return groups_of(self.trunk + rng.randint(-20, 20), branches, self.groups)


def _case(heads: tuple[int, int], groups: int, trunk: int, branches: int, length: int) -> Case:
    sizes = Heads(query=heads[0], key=heads[1], size=128)
    return Case(heads=sizes, groups=groups, trunk=trunk, branches=branches, length=length)


CASES = (
    _case((32, 32), 4, 624, 2, 120),
    _case((32, 32), 1, 624, 8, 120),
    _case((28, 4), 4, 1048, 2, 120),
    _case((28, 4), 2, 1048, 8, 120),
    _case((32, 8), 1, 1048, 16, 120),
    _case((32, 8), 1, 4048, 8, 1000),
    _case((32, 8), 4, 600, 4, 20),
)
TINY = (Case(heads=Heads(query=4, key=2, size=16), groups=2, trunk=40, branches=2, length=12),)


def measure(job: Job, record: Record) -> None:
    if job.form not in forms():
        record.put(state=f"left out: there is no form {job.form}")
        return
    budget, cases = Budget(job.seconds), TINY if job.tiny else CASES
    found: dict[str, Any] = {}
    for index, case in enumerate(cases):
        own = Budget(budget.left() / (len(cases) - index))
        found[case.name] = time_form(case, job.form, own, job)
        record.put(cases=found)


def time_form(case: Case, form: str, budget: Budget, job: Job) -> dict[str, float]:
    """Milliseconds of both passes: the first call with lengths not seen before, and calls with the same again.

    The first round warms up; its first call is ``start_ms``. ``plan_ms`` is spent once per micro-batch, not per layer.
    """
    clock = Clock(device=job.device)
    new, repeated, plans, peaks = [], [], [], []
    for number in range(2 if job.tiny else MOST + 1):
        if number > 1 and budget.left() < 0:
            break
        torch.manual_seed(number)
        batch = case.draw(random.Random(number)).batch(job.device)
        tokens = batch.tokens.shape[0]
        inputs = random_inputs(tokens, case.heads, job.device, DTYPE, views=True)
        upstream = torch.randn(1, tokens, case.heads.query, case.heads.size, device=job.device, dtype=DTYPE)
        planned: list[Attend] = []
        plan = partial(forms()[form], batch, None)
        plans.append(clock.once(lambda plan=plan, planned=planned: planned.append(plan())))  # type: ignore[misc]
        call = partial(both_passes, planned[0], inputs, upstream)
        clock.forget_peak()
        new.append(clock.once(call))
        repeated.append(statistics.median(clock.once(call) for _ in range(REPEATS)))
        peaks.append(clock.peak_mb())
    return {
        "start_ms": 1e3 * new[0],
        "new_ms": 1e3 * statistics.median(new[1:]),
        "repeated_ms": 1e3 * statistics.median(repeated[1:]),
        "least_ms": 1e3 * min(repeated[1:]),
        "plan_ms": 1e3 * statistics.median(plans[1:]),
        "peak_mb": max(peaks),
        "rounds": len(new) - 1,
    }
