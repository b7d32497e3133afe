"""Micro-batches of a step: planned, laid out, counted, and filled just before they are scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import get_args

import torch
from torch import Tensor

from sightline.data.fields import COLUMNS
from sightline.data.sampler import cost, extend_plan, plan_micro_batches
from sightline.data.validate import refuse_uncompared
from sightline.rendered import RenderedGroup
from sightline.train.session import Session
from sightline.train.source import RoundColumns, Taken
from sightline.types import Batch, Stat, Term, Unit


@dataclass(kw_only=True)
class Pass:
    """One forward and backward of a step."""

    groups: Sequence[RenderedGroup]
    batch: Batch
    """As laid out, on the CPU."""
    weight: float
    """0: run for company only; nothing of it counts."""
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    """Columns that were filled before the step (:func:`survey`), on the device."""
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    """What each term adds to the loss of the step."""
    stats: Mapping[str, Stat] = field(default_factory=dict)


def plan_passes(s: Session, taken: Taken) -> list[Pass]:
    """Micro-batches of this rank, as many as every other rank has."""
    costs = [cost(group, s.layout) for group in taken.groups]
    plan = plan_micro_batches(costs, s.recipe.train.micro_batch_tokens)
    passes = []
    for micro in extend_plan(plan, s.runtime.most(len(plan))):
        groups = [taken.groups[index] for index in micro.members]
        batch = replace(s.lay_out(groups), on_policy=taken.on_policy)
        passes.append(Pass(groups=groups, batch=batch, weight=micro.weight if taken.counted else 0.0))
    for one, batch in zip(passes, s.lockstep.align([one.batch for one in passes]), strict=True):
        one.batch = batch
    return passes


def count_units(s: Session, passes: Sequence[Pass]) -> dict[Unit, int]:
    """How many of each unit the step has, over all ranks and micro-batches."""
    counts = [sum(one.batch.count(unit) for one in passes if one.weight) for unit in get_args(Unit)]
    total = s.runtime.sum_numbers(counts)
    return {unit: int(count) for unit, count in zip(get_args(Unit), total, strict=True)}


@torch.no_grad()
def survey(s: Session, passes: Sequence[Pass]) -> None:
    """For algorithms whose loss depends on the whole step: scores every micro-batch once before the first
    gradient, and keeps the columns with its pass. One more forward; nothing for other algorithms, and nothing for those
    that learn from rounds, whose columns came with the groups (:func:`prepare_round`)."""
    if "old_logprobs" not in s.algorithm.needs or s.algorithm.rounds:
        return
    # pictures are dropped at once: the columns of a step are small, its pictures are not
    batches = [replace(_filled(s, one), vision={}, features=None) for one in passes]
    prepared = s.algorithm.prepare_step(batches, [one.weight > 0 for one in passes], s.runtime)
    for one, batch in zip(passes, prepared, strict=True):
        kept = {"ref_logprobs": batch.ref_logprobs, "old_logprobs": batch.old_logprobs, "baseline": batch.baseline}
        one.columns = {name: column for name, column in kept.items() if column is not None}


@torch.no_grad()
def prepare_round(s: Session) -> RoundColumns:
    """The columns of this rank's share of a round's groups, before its first step, by the algorithm as the round before
    left it.

    Returns:
        By group and response, one number for each trained token, of all that the algorithm needs and prepares.
    """
    s.algorithm = s.following
    passes = plan_passes(s, s.source.round())
    if s.columns.scores:
        batches = [replace(_filled(s, one), vision={}, features=None) for one in passes]
    else:  # rewards alone: no picture is looked at
        bare = [replace(one.batch, vision={}) for one in passes]
        batches = [s.columns.fill(b.to(s.runtime.device), one.groups) for b, one in zip(bare, passes, strict=True)]
    counted = [one.weight > 0 for one in passes]
    prepared = s.algorithm.prepare_step(batches, counted, s.runtime)
    s.following = s.algorithm.after_round(prepared, counted, s.runtime)
    found: RoundColumns = {}
    for one, batch in zip(passes, prepared, strict=True):
        if one.weight:
            found |= _by_response(one.groups, batch)
    return found


def _by_response(groups: Sequence[RenderedGroup], batch: Batch) -> RoundColumns:
    """Columns of a batch, taken apart: tokens of a response follow each other."""
    filled = {name: vars(batch)[name] for name in COLUMNS if vars(batch)[name] is not None}
    lengths = batch.structure.response.bincount(minlength=batch.num_responses).tolist()
    parts = {name: column.cpu().split(lengths) for name, column in filled.items()}
    places = [(rendered.group.id, index) for rendered in groups for index in range(len(rendered.responses))]
    return {
        key: {name: tuple(part[number].tolist()) for name, part in parts.items()} for number, key in enumerate(places)
    }


@torch.no_grad()
def fill(s: Session, one: Pass) -> Batch:
    """The batch on the device, with its columns. Frozen vision features serve policy and reference."""
    return s.algorithm.prepare(_filled(s, one), s.runtime)


def _filled(s: Session, one: Pass) -> Batch:
    with s.runtime.autocast():
        batch = s.policy.encode(one.batch.to(s.runtime.device)).with_columns(**one.columns)
        return s.columns.fill(batch, one.groups)


def check_compared(one: Pass, terms: Sequence[Term], algorithm: str) -> None:
    """Refuses groups that a loss on comparisons would pass over in silence: an algorithm may not say that it compares.

    Raises:
        DataError: names the group that has no comparison.
    """
    if {term.unit for term in terms} <= {"pair", "chosen_token"}:
        refuse_uncompared((rendered.group for rendered in one.groups), algorithm)


def weighted_sum(term: Term) -> Tensor:
    """What a term adds to the loss, before the division by its global count."""
    return term.coefficient * term.values.sum()
