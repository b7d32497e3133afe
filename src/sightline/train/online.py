"""Groups from the policy itself: prompts, samples, rewards, relations."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from sightline.data.sampler import Sampler, share
from sightline.data.schema import append_groups, group_from_json, group_to_json
from sightline.errors import DataError
from sightline.recipes.schema import OnlineSpec
from sightline.relations.scores import RELATIONS, only_compared
from sightline.rewards.base import Reward, reward_groups
from sightline.rollouts.engine import RolloutEngine
from sightline.train.source import Rendering, Taken, check_rows, rows_state
from sightline.types import Group, Stat

_log = logging.getLogger(__name__)

REWARD_TRIES = 2
"""A reward that fails is asked once more; then the group is dropped, counted and logged."""
ROUND_TRIES = 5
"""A round that leaves no group to train on is sampled again with other random numbers, so many times in all."""


class Ranks(Protocol):
    """The part of the runtime that this source needs."""

    rank: int
    size: int

    def gather_objects(self, value: Any) -> list[Any]: ...


@dataclass(frozen=True, kw_only=True)
class _Sampled:
    """One prompt's group: as it was scored, and as it is trained."""

    scored: Group | None
    """With all responses and the edges between them; None: its reward failed."""
    trained: Group | None
    """None: no response left, or no edge (a tie)."""


@dataclass(kw_only=True)
class OnlineSource:
    """A round of sampling gives the groups of ``steps_per_round`` optimizer steps.

    In a round every rank samples its share of the prompts and scores them; the groups are gathered and dealt
    out anew, so that ranks have equal shares although groups drop out (failed rewards, ties). Groups as scored
    go to ``samples.jsonl``.
    """

    prompts: Sequence[Group]
    """One prompt each; their responses are ignored."""
    engine: RolloutEngine
    """Samples from the policy that is trained."""
    reward: Reward
    """Scores whole groups."""
    render: Rendering
    """Leaves out, or refuses, prompts whose picture is damaged."""
    spec: OnlineSpec
    sampler: Sampler
    """Order of the prompts; its batch is a whole round. Its seed, with the number of the round, seeds the sampling."""
    ranks: Ranks
    """This rank, and the way to the others."""
    samples: Path
    """Group file that the main process appends to."""
    visual: Callable[[Group], Group] | None = None
    """Turns a group with its comparison of answers into comparisons of pictures; None: left as it is."""
    whole: Callable[[], AbstractContextManager[None]] = nullcontext
    """Around the sampling of a round; every rank enters and leaves it."""
    _round: int = -1
    _buffer: list[Group] = field(default_factory=list)
    _error: str = ""
    _rows: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self._rows = rows_state(self.prompts)

    def take(self, step: int) -> Taken:
        """
        Raises:
            DataError: rounds in a row without a group to train on.
        """
        number, place = divmod(step, self.spec.steps_per_round)
        stats: dict[str, Stat] = {}
        if number != self._round:
            stats = self._sample_round(number)
        whole = self._buffer[place :: self.spec.steps_per_round] or [self._buffer[place % len(self._buffer)]]
        mine = share(whole, self.ranks.rank, self.ranks.size)
        taken = self.render.taken([self.render(group) for group in mine or whole[:1]], self._buffer, counted=bool(mine))
        return replace(taken, stats=stats)

    def steps(self, epochs: float) -> int:
        return self.sampler.steps(epochs) * self.spec.steps_per_round

    def epochs(self, steps: int) -> float:
        return self.sampler.epochs(-(-steps // self.spec.steps_per_round))

    def drawn(self, steps: int) -> Mapping[str, int]:
        return {}

    def state(self) -> dict[str, Any]:
        return self._rows | {
            "round": self._round,
            "buffer": [group_to_json(group) for group in self._buffer],
            "samples": self.samples.stat().st_size if self.samples.exists() else 0,
        }

    def restore(self, state: Mapping[str, Any] | None) -> None:
        """Takes up a round where it was left; samples written after the checkpoint are cut off their file.

        Raises:
            CheckpointError: the prompts changed.
        """
        check_rows(state or {}, self._rows)
        kept = 0 if state is None else state["samples"]
        if self.ranks.rank == 0 and self.samples.exists():
            with self.samples.open("r+b") as file:
                file.truncate(kept)
        if state is not None:
            self._round = state["round"]
            self._buffer = [group_from_json(row) for row in state["buffer"]]

    def close(self) -> None:
        """Nothing is open between rounds."""

    def _sample_round(self, number: int) -> dict[str, Stat]:
        stats: dict[str, Stat] = {}
        for attempt in range(ROUND_TRIES):
            indices = self.sampler.indices(number)
            asked = [self.prompts[index] for index in share(indices, self.ranks.rank, self.ranks.size)]
            mine = [replace(prompt, responses=(), edges=()) for prompt in asked]
            mine = [prompt for prompt in mine if self.render(prompt) is not None]
            with self.whole():
                generated = self._generate(mine, number, attempt)
            sampled = [self._relate(group) for group in self._score(generated)]
            stats = self._stats(sampled)
            # rank r holds every size-th prompt from r on: dealing them back restores the order of the round
            parts = self.ranks.gather_objects(sampled)
            dealt = [part[row] for row in range(max(map(len, parts))) for part in parts if row < len(part)]
            if self.ranks.rank == 0:
                append_groups(self.samples, [one.scored for one in dealt if one.scored is not None])
            self._buffer = [one.trained for one in dealt if one.trained is not None]
            self._round = number
            if self._buffer:
                return stats
        raise DataError(
            f"{ROUND_TRIES} rounds of {len(indices)} prompts left no group to train on "
            f"({self._error or 'all rewards of each prompt are equal'})",
            source=str(self.samples),
            remedy="Look at the samples; raise online.sampling.n or its temperature, or lower online.min_gap",
        )

    def _generate(self, prompts: Sequence[Group], number: int, attempt: int) -> list[Group]:
        if not prompts:
            return []
        # the engine adds the id of the prompt: answers do not depend on the rank that samples them
        seed = int(np.random.default_rng([self.sampler.seed, number, attempt]).integers(2**31))
        version = number * self.spec.steps_per_round
        groups = self.engine.generate(prompts, self.spec.sampling, seed=seed)
        return [_of_version(group, version) for group in groups]

    def _score(self, groups: Sequence[Group]) -> list[Group | None]:
        return [self._score_one(group) for group in groups]

    def _score_one(self, group: Group) -> Group | None:
        answered = replace(group, responses=tuple(r for r in group.responses if r.finish_reason != "error"))
        for _ in range(REWARD_TRIES):
            try:
                return reward_groups(self.reward, [answered])[0]
            except DataError:
                raise  # the prompts lack what the reward reads: no other try, and no other prompt, would help
            except Exception as error:  # a reward is somebody else's program: its failure must not end the run
                self._error = f"{type(error).__name__}: {error}"
        _log.warning("Reward of %s failed %d times, dropped: %s", group.id, REWARD_TRIES, self._error)
        return None

    def _relate(self, scored: Group | None) -> _Sampled:
        if scored is None:
            return _Sampled(scored=None, trained=None)
        related = RELATIONS[self.spec.relation](scored, self.spec.min_gap)
        if self.spec.relation != "none":
            return _Sampled(scored=related, trained=self._compared(related) if related.edges else None)
        kept = tuple(response for response in related.responses if response.reward is not None)
        return _Sampled(scored=related, trained=replace(related, responses=kept) if kept else None)

    def _compared(self, related: Group) -> Group:
        """The comparisons that are trained, without the answers that none of them touches."""
        compared = only_compared(related)
        return compared if self.visual is None else self.visual(compared)

    def _stats(self, sampled: Sequence[_Sampled]) -> dict[str, Stat]:
        """This rank's part, under TRL's names where the meaning is the same."""
        scored = [one.scored for one in sampled if one.scored is not None]
        responses = [response for group in scored for response in group.responses]
        rewards = [response.reward for response in responses if response.reward is not None]
        lengths = [float(len(response.tokens)) for response in responses if response.tokens is not None]
        untied = [float(one.trained is None) for one in sampled if one.scored is not None]
        stats = {
            "reward": _stat(rewards),
            "completions/mean_length": _stat(lengths),
            "completions/clipped_ratio": _stat([float(r.finish_reason == "length") for r in responses]),
            "rollout/failed_rewards": _stat([float(one.scored is None) for one in sampled]),
            "rollout/without_edge": _stat(untied),
        }
        for name in sorted({name for response in responses for name in response.rewards}):
            values = [response.rewards[name] for response in responses if name in response.rewards]
            stats[f"rewards/{name}/mean"] = _stat(values)
        return stats


def _of_version(group: Group, version: int) -> Group:
    return replace(group, responses=tuple(replace(response, policy_version=version) for response in group.responses))


def _stat(values: Sequence[float]) -> Stat:
    return Stat(sum=torch.tensor(float(sum(values)), dtype=torch.float64), count=len(values))
