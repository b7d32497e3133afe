"""Which groups an optimizer step takes, who takes them, and how they are cut into micro-batches."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from sightline.rendered import RenderedGroup
from sightline.types import LayoutName

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class SourceShare:
    """How much of a source an epoch takes."""

    name: str
    size: int
    """Groups, >= 1."""
    weight: float = 1.0
    """How often each is taken."""

    @property
    def taken(self) -> int:
        """Groups that an epoch takes."""
        return max(1, round(self.size * self.weight))


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """The order of a data set over epochs: a pure function of the step, so that resuming needs the step only.

    Every epoch visits each group once, in an order of its own; its last step may be smaller than the
    others. Steps do not reach over the end of an epoch. In a mixture an epoch takes the next ``taken`` groups of each
    source, in the order of passes over it, so that none comes again before all of them have come.

    >>> sampler = Sampler(size=5, batch_size=2, seed=0, shuffle=False)
    >>> [sampler.indices(step) for step in range(4)]
    [[0, 1], [2, 3], [4], [0, 1]]
    >>> halves = (SourceShare(name="a", size=4, weight=0.5), SourceShare(name="b", size=1, weight=2.0))
    >>> mixed = Sampler(size=5, batch_size=4, seed=0, shuffle=False, mixture=halves)
    >>> [mixed.indices(step) for step in range(3)]
    [[0, 1, 4, 4], [2, 3, 4, 4], [0, 1, 4, 4]]
    """

    size: int
    """Groups in the data set, >= 1."""
    batch_size: int
    """Groups per optimizer step, over all ranks."""
    seed: int = 0
    shuffle: bool = True
    mixture: tuple[SourceShare, ...] = ()
    """Sources whose groups follow each other in the data set; empty: it is one."""

    @property
    def taken(self) -> int:
        """Groups of an epoch."""
        return sum(one.taken for one in self.mixture) if self.mixture else self.size

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.taken / self.batch_size)

    def indices(self, step: int) -> list[int]:
        """Groups of the optimizer step ``step`` (counted from 0), over all ranks."""
        epoch, place = divmod(step, self.steps_per_epoch)
        found: list[int] = self._order(epoch)[place * self.batch_size : (place + 1) * self.batch_size].tolist()
        return found

    def epochs(self, steps: int) -> float:
        """Epochs that ``steps`` optimizer steps make, counted in groups."""
        whole, rest = divmod(steps, self.steps_per_epoch)
        return whole + min(rest * self.batch_size, self.taken) / self.taken

    def steps(self, epochs: float) -> int:
        """Optimizer steps in so many epochs, rounded up."""
        return max(1, math.ceil(round(epochs * self.steps_per_epoch, 6)))

    def drawn(self, steps: int) -> dict[str, int]:
        """Groups that so many optimizer steps have taken of each source of a mixture."""
        whole, rest = divmod(steps, self.steps_per_epoch)
        ends = np.cumsum([one.size for one in self.mixture])
        some = self._order(whole)[: rest * self.batch_size]
        counts = np.bincount(np.searchsorted(ends, some, side="right"), minlength=len(ends))
        return {one.name: whole * one.taken + int(count) for one, count in zip(self.mixture, counts, strict=False)}

    def _order(self, epoch: int) -> NDArray[np.int64]:
        sources = tuple((one.size, one.taken) for one in self.mixture)
        if all(size == taken for size, taken in sources):
            return _permuted(self.size, (self.seed, epoch), self.shuffle)
        return _mixed(sources, self.seed, epoch, self.shuffle)


@functools.lru_cache(maxsize=4)
def _permuted(size: int, seed: tuple[int, ...], shuffle: bool) -> NDArray[np.int64]:
    return np.random.default_rng(list(seed)).permutation(size) if shuffle else np.arange(size)


@functools.lru_cache(maxsize=2)
def _mixed(sources: tuple[tuple[int, int], ...], seed: int, epoch: int, shuffle: bool) -> NDArray[np.int64]:
    """The groups of an epoch: of each (size, taken) the next so many, in passes over all."""
    parts, start = [], 0
    for number, (size, taken) in enumerate(sources):
        first, last = epoch * taken, (epoch + 1) * taken
        passes = range(first // size, -(-last // size))
        whole = np.concatenate([_permuted(size, (seed, one, number + 1), shuffle) for one in passes])
        parts.append(start + whole[first - passes.start * size :][:taken])
        start += size
    every = np.concatenate(parts)
    return every[_permuted(len(every), (seed, epoch), True)] if shuffle else every


def share(items: Sequence[_T], rank: int, size: int) -> list[_T]:
    """The items of one rank: every ``size``-th, so that shares differ by one at most. May be empty."""
    return list(items[rank::size])


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """Groups that go through the model together."""

    members: tuple[int, ...]
    """Places in the rank's list of groups."""
    weight: float = 1.0
    """0: run for company only, so that all ranks make the same number of passes; nothing of it counts."""


def cost(group: RenderedGroup, layout: LayoutName) -> int:
    """Tokens that a group brings into a forward pass: prompts once in ``tree``, once per response otherwise."""
    if layout == "tree":
        return group.num_tokens
    prompts = [len(prompt.tokens) for prompt in group.prompts]
    return sum(prompts[response.prompt] + len(response.tokens) for response in group.responses)


def plan_micro_batches(costs: Sequence[int], budget: int) -> list[MicroBatch]:
    """Few micro-batches of at most ``budget`` tokens; a group above the budget goes alone.

    First fit, largest first. Groups are never split. The result of a step does not depend on the plan:
    the loop divides by global counts.

    >>> [batch.members for batch in plan_micro_batches([5, 9, 4, 2], budget=10)]
    [(1,), (0, 2), (3,)]
    """
    bins: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        place = next((b for b, left in enumerate(room) if costs[index] <= left), None)
        if place is None:
            bins.append([index])
            room.append(budget - costs[index])
        else:
            bins[place].append(index)
            room[place] -= costs[index]
    return [MicroBatch(members=tuple(sorted(members))) for members in bins]


def extend_plan(plan: Sequence[MicroBatch], length: int) -> list[MicroBatch]:
    """A plan of exactly ``length`` micro-batches for the same groups.

    Every rank must make the same number of passes, or gradient reduction waits for ever. The fullest
    micro-batches are cut in two; where only single groups are left, the first is run again with weight 0.

    Args:
        plan: at least one micro-batch.
        length: the longest plan of all ranks, >= ``len(plan)``.
    """
    plan = list(plan)
    while len(plan) < length:
        fullest = max(range(len(plan)), key=lambda i: (len(plan[i].members), -i))
        members = plan[fullest].members
        if len(members) == 1:
            plan.append(MicroBatch(members=members, weight=0.0))
            continue
        half = len(members) // 2
        plan[fullest : fullest + 1] = [MicroBatch(members=members[:half]), MicroBatch(members=members[half:])]
    return plan
