"""Groups that wait between their sampling and their training (``online.buffer``)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from sightline.data.schema import group_from_json, group_to_json, relative_to
from sightline.recipes.preferences import BufferSpec
from sightline.relations.scores import only_compared
from sightline.types import Group, Stat

_SPARE = 0.5
"""Rounds that are sampled ahead beside those that are asked for."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A group, or one of its comparisons."""

    group: Group
    round: int
    """It was sampled in."""
    used: int = 0
    """Rounds it was trained in."""


@dataclass(kw_only=True)
class Buffer:
    """First in, first out. The same on every rank: it holds what was gathered, and draws nothing."""

    spec: BufferSpec
    entries: list[Entry] = field(default_factory=list)
    """The oldest first."""
    asked: int = 0
    """Prompts that were sampled so far: where the order of the data set goes on."""
    found: int = 0
    """Entries that came of the prompts that are settled."""
    settled: int = 0
    """Prompts of which is known what came."""
    _left: int = 0
    """Entries that left without being trained as often as they may, since it was told."""

    def missing(self, wanted: int, number: int) -> int:
        """How many entries a round of so many lacks; those that are too old for it leave."""
        bound = self.spec.max_staleness
        self._keep([one for one in self.entries if bound is None or number - one.round <= bound])
        stored = sum(one.round < number for one in self.entries)
        least = -int(-wanted * self.spec.fresh // 1)  # rounded up
        return wanted - min(stored, wanted - least) - (len(self.entries) - stored)

    def prompts_for(self, wanted: int, rounds: int, under_way: int) -> int:
        """How many more prompts to sample ahead, by what came of prompts so far; a few more than that, so that chance
        seldom lets a round wait.

        Args:
            wanted: entries of a round.
            rounds: that are to be filled by what waits, what is under way, and these.
            under_way: prompts of which is not known yet what comes.
        """
        each = max(self.found / self.settled if self.settled else 1.0, 1 / self.spec.tries)
        lacking = wanted * (rounds + _SPARE) - len(self.entries) - under_way * each
        return min(max(0, math.ceil(lacking / each)), wanted * self.spec.tries)

    def add(self, groups: Sequence[Group], number: int, *, of: int = 0) -> None:
        """Sampled in this round and compared; what came of so many prompts."""
        parts = [part for group in groups for part in (_pairs(group) if self.spec.unit == "pair" else [group])]
        self.entries += [Entry(group=part, round=number) for part in parts]
        self.found, self.settled = self.found + len(parts), self.settled + of

    def take(self, wanted: int, number: int) -> tuple[list[Group], dict[str, Stat]]:
        """The groups of a round, and what is told of it."""
        fresh = [one for one in self.entries if one.round == number]
        stored = [one for one in self.entries if one.round < number]
        least = min(len(fresh), -int(-wanted * self.spec.fresh // 1))
        taken = stored[: wanted - least]
        taken += fresh[: wanted - len(taken)]
        chosen = set(map(id, taken))
        used = [replace(one, used=one.used + 1) if id(one) in chosen else one for one in self.entries]
        self.entries = [one for one in used if one.used < self.spec.uses]
        self._keep(self.entries[-self.spec.size :])
        ages = [float(number - one.round) for one in taken]
        stats = {
            "buffer/size": _stat([float(len(self.entries))]),
            "buffer/staleness": _stat(ages),
            "buffer/stored": _stat([float(age > 0) for age in ages]),
            "buffer/replayed": _stat([float(one.used > 0) for one in taken]),
            "buffer/dropped": _stat([float(self._left)]),
        }
        self._left = 0
        return [one.group for one in taken], stats

    def _keep(self, kept: list[Entry]) -> None:
        self._left += len(self.entries) - len(kept)
        self.entries = kept

    def state(self, folder: Path, below: Path | None = None) -> dict[str, Any]:
        """Plain JSON, for a checkpoint. Pictures below ``folder``, that of the run, or ``below``, are named relative to
        ``folder``."""
        rows = [
            {"group": group_to_json(one.group, folder, below), "round": one.round, "used": one.used}
            for one in self.entries
        ]
        counts = {"asked": self.asked, "found": self.found, "settled": self.settled, "left": self._left}
        return {**counts, "entries": rows}

    def restore(self, state: Mapping[str, Any] | None, folder: Path) -> None:
        """Goes back to a state; None: to the very beginning."""
        resolve = relative_to(folder)
        state = state or {"asked": 0, "found": 0, "settled": 0, "left": 0, "entries": []}
        self.asked, self.found, self.settled, self._left = (
            state[name] for name in ("asked", "found", "settled", "left")
        )
        self.entries = [
            Entry(group=group_from_json(row["group"], resolve), round=row["round"], used=row["used"])
            for row in state["entries"]
        ]


def _pairs(group: Group) -> list[Group]:
    """Each comparison by itself."""
    return [only_compared(replace(group, edges=(edge,))) for edge in group.edges]


def _stat(values: Sequence[float]) -> Stat:
    return Stat(sum=torch.tensor(sum(values), dtype=torch.float64), count=len(values))
