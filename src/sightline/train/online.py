"""Groups from the policy itself: prompts, samples, rewards, relations."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch

from sightline.data.sampler import Sampler, share
from sightline.data.schema import append_groups, group_from_json, group_to_json
from sightline.errors import DataError, ServiceError
from sightline.negatives.distorted import Distortion, with_distorted
from sightline.recipes.schema import OnlineSpec
from sightline.rewards.base import REWARD_TRIES
from sightline.rewards.length import soft_overlong
from sightline.rewards.running import RunningScores
from sightline.rollouts.engine import CheckedEngine
from sightline.rollouts.replay import Replay
from sightline.train.buffer import Buffer
from sightline.train.clock import Clock
from sightline.train.pictures import Masked
from sightline.train.related import related, why_unrelated
from sightline.train.rollout_stats import Sampled, round_stats, sampled_stats
from sightline.train.source import Rendering, RoundColumns, Taken, check_rows, rows_state
from sightline.types import Group, Stat

_log = logging.getLogger(__name__)

ROUND_TRIES = 5
"""A round that leaves no group to train on is sampled again with other random numbers, so many times in all."""


class Ranks(Protocol):
    """The part of the runtime that this source needs."""

    rank: int
    size: int

    def gather_objects(self, value: Any) -> list[Any]: ...


def _is_the_policy(version: int) -> None:
    """For an engine that samples with the policy's own weights."""


def _as_it_is(group: Group) -> Group:
    return group


@dataclass(kw_only=True)
class OnlineSource:
    """A round of sampling gives the groups of ``steps_per_round`` optimizer steps, taken ``inner_epochs`` times.

    In a round every rank samples its share of the prompts and scores them; the groups are gathered and dealt
    out anew, so that ranks have equal shares although groups drop out (failed rewards, ties). Groups as scored
    go to ``samples.jsonl``. With ``max_staleness`` m the round after the next m is sampled when a round begins.
    """

    prompts: Sequence[Group]
    """One prompt each; their responses are ignored."""
    engine: CheckedEngine
    """Samples from the policy that is trained."""
    score: Callable[[Sequence[Group]], list[Group | str]]
    """Scores whole groups, or tells why the reward of one failed (``rewards.base.score_groups``)."""
    render: Rendering
    """Leaves out, or refuses, prompts whose picture is damaged."""
    spec: OnlineSpec
    sampler: Sampler
    """Order of the prompts; its batch is a whole round. Its seed, with the number of the round, seeds the sampling."""
    ranks: Ranks
    """This rank, and the way to the others."""
    samples: Path
    """Group file that the main process appends to."""
    masked: Masked | None = None
    """Puts every answer under a masked picture too, where it is laid out; None: nobody asks for it."""
    distortion: Distortion | None = None
    """Distorts the pictures that some answers are sampled under; None: none."""
    visual: Callable[[Group], Group] | None = None
    """Turns a group with its comparison of answers into comparisons of pictures; None: left as it is."""
    sampling: Callable[[], AbstractContextManager[None]] = nullcontext
    """Around the sampling of a round; every rank enters and leaves it."""
    replay: Replay | None = None
    """Gives the answers in the place of ``engine``."""
    update: Callable[[int], None] = _is_the_policy
    """Brings the policy to the engine as it is now, called by its version; every rank calls it before a round."""
    clock: Clock = field(default_factory=lambda: Clock(torch.device("cpu"), on=False))
    """Measures the parts of a step."""
    _round: int = -1
    _buffer: list[Group] = field(default_factory=list)
    _ahead: list[list[Group]] = field(default_factory=list)
    """The rounds after this one that are sampled already."""
    _stats: dict[str, Stat] = field(default_factory=dict)
    """Of the sampling that no step has told of yet."""
    _error: str = ""
    """Why a reward failed, of the round that is sampled."""
    _rows: dict[str, Any] = field(init=False)
    _waiting: Buffer | None = field(init=False)
    _scores: RunningScores = field(init=False)

    def __post_init__(self) -> None:
        self._rows = rows_state(self.prompts)
        self._scores = RunningScores(self.spec.standardise)
        self._waiting = None if self.spec.buffer is None else Buffer(spec=self.spec.buffer)

    @property
    def _steps(self) -> int:  # optimizer steps of a round
        return self.spec.steps_per_round * self.spec.inner_epochs

    def begin(self, step: int) -> bool:
        """
        Raises:
            DataError: rounds in a row without a group to train on.
        """
        number = step // self._steps
        if number == self._round:
            return False
        self._error = ""
        while len(self._ahead) <= self.spec.max_staleness:
            if self._waiting is None:
                groups, self._stats = self._sample_round(number + len(self._ahead), version=step)
            else:
                groups, self._stats = self._fill_round(self._waiting, number, version=step)
            self._ahead.append(groups)
        self._buffer, self._round = self._ahead.pop(0), number
        return True

    def round(self) -> Taken:
        return self._taken(self._buffer, "round")

    def keep(self, columns: RoundColumns) -> None:
        found = {key: value for part in self.ranks.gather_objects(columns) for key, value in part.items()}
        self._buffer = [_with_columns(group, found) for group in self._buffer]

    def take(self, step: int) -> Taken:
        """
        Raises:
            DataError: rounds in a row without a group to train on.
        """
        self.begin(step)
        place = step % self._steps
        taken = self._taken(self._part(place % self.spec.steps_per_round), "step")
        stats, self._stats = self._stats, {}
        return replace(taken, stats=stats, on_policy=place == 0)

    def _taken(self, groups: Sequence[Group], when: Literal["round", "step"]) -> Taken:
        """This rank's share of some groups, each answer under its masked picture too where it is read then."""
        read = self.masked if self.masked is not None and self.masked.when == when else _as_it_is
        mine = share(groups, self.ranks.rank, self.ranks.size)
        made = [self.render(read(group)) for group in mine or groups[:1]]
        return self.render.taken(made, map(read, self._buffer), counted=bool(mine))

    def _part(self, place: int) -> list[Group]:
        """Groups of a step of the round."""
        return self._buffer[place :: self.spec.steps_per_round] or [self._buffer[place % len(self._buffer)]]

    def steps(self, epochs: float) -> int:
        return self.sampler.steps(epochs) * self._steps

    def epochs(self, steps: int) -> float:
        return self.sampler.epochs(-(-steps // self._steps))

    def drawn(self, steps: int) -> Mapping[str, int]:
        return {}

    def state(self) -> dict[str, Any]:
        waiting = {} if self._waiting is None else {"waiting": self._waiting.state()}
        own = {
            "round": self._round,
            "buffer": [group_to_json(group) for group in self._buffer],
            "ahead": [[group_to_json(group) for group in groups] for groups in self._ahead],
            "scores": self._scores.state(),
            "samples": self.samples.stat().st_size if self.samples.exists() else 0,
        }
        return self._rows | waiting | own

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
        if self._waiting is not None:
            self._waiting.restore(None if state is None else state["waiting"])
        if state is not None:
            self._round = state["round"]
            self._buffer = [group_from_json(row) for row in state["buffer"]]
            self._ahead = [[group_from_json(row) for row in rows] for rows in state["ahead"]]
            self._scores.restore(state["scores"])

    def close(self) -> None:
        """Ends what the engine holds elsewhere: workers, and the GPUs that they have."""
        self.engine.close()

    def _sample_round(self, number: int, *, version: int) -> tuple[list[Group], dict[str, Stat]]:
        """The groups of a round, as they are trained, and this rank's part of what is told of it."""
        asked, kept = list(self.sampler.indices(number)), list[Group]()
        mine, everything = list[Sampled](), list[Sampled]()
        wanted, refills = len(asked), self.spec.dynamic_sampling
        for attempt in range(max(ROUND_TRIES, 1 + refills)):
            own, dealt = self._sample_all(asked, number, attempt, version)
            mine, everything = [*mine, *own], [*everything, *dealt]
            kept += [one.trained for one in dealt if one.trained is not None]
            if len(kept) == wanted or (kept and attempt >= refills):
                break
            if attempt < refills:
                asked = self._others(number, attempt, wanted - len(kept), {group.id for group in kept})
        if not kept:
            raise self._nothing_left(attempt + 1, wanted, everything)
        stats = sampled_stats(mine)
        if self.ranks.rank == 0:
            stats |= round_stats(everything, attempt + 1)
        return self._scores.measured(kept, [one.scored for one in everything]), stats

    def _fill_round(self, waiting: Buffer, number: int, *, version: int) -> tuple[list[Group], dict[str, Stat]]:
        """As ``_sample_round``, from what waits and as many prompts as it takes beside. Prompts are asked in the order
        of the data set, wherever the round before stopped."""
        wanted, mine, everything, attempt = self.sampler.batch_size, list[Sampled](), list[Sampled](), 0
        one_by_one = replace(self.sampler, batch_size=1)
        while (missing := waiting.missing(wanted, number)) > 0 and attempt < waiting.spec.tries:
            places = range(waiting.asked, waiting.asked + min(missing, self.sampler.size))
            asked = list(dict.fromkeys(index for place in places for index in one_by_one.indices(place)))
            own, dealt = self._sample_all(asked, number, attempt, version)
            waiting.asked = places.stop
            waiting.add([one.trained for one in dealt if one.trained is not None], number)
            mine, everything, attempt = [*mine, *own], [*everything, *dealt], attempt + 1
        taken, told = waiting.take(wanted, number)
        if not taken:
            raise self._nothing_left(attempt, wanted, everything)
        stats = sampled_stats(mine)
        if self.ranks.rank == 0:
            stats |= round_stats(everything, attempt) | told
        return [group if self.visual is None else self.visual(group) for group in taken], stats

    def _sample_all(
        self, asked: Sequence[int], number: int, attempt: int, version: int
    ) -> tuple[list[Sampled], list[Sampled]]:
        """This rank's samples, and those of all ranks in the order of the prompts; the latter are on disk."""
        own = self._sample(share(asked, self.ranks.rank, self.ranks.size), number, attempt, version)
        # rank r holds every size-th prompt from r on: dealing them back restores the order of the round
        parts = self.ranks.gather_objects(own)
        dealt = [part[row] for row in range(max(map(len, parts))) for part in parts if row < len(part)]
        if self.ranks.rank == 0:
            append_groups(self.samples, [one.scored for one in dealt if one.scored is not None])
        return own, dealt

    def _nothing_left(self, rounds: int, wanted: int, everything: Sequence[Sampled]) -> DataError:
        """What became of all that was sampled for a round."""
        answers = [r for one in everything if one.scored is not None for r in one.scored.responses if not r.greedy]
        limit = self.spec.sampling.max_new_tokens
        if self.spec.truncated == "mask" and answers and all(r.finish_reason == "length" for r in answers):
            why = f"all answers were cut at {limit} tokens, and truncated: mask leaves these out"
            remedy = "Raise online.sampling.max_new_tokens, or set online.truncated: train"
        elif self._error:
            why, remedy = self._error, "Look at the samples, and mend the reward"
        else:
            why, remedy = why_unrelated(self.spec)
        found = f"{rounds} rounds of {wanted} prompts left no group to train on ({why})"
        return DataError(found, source=str(self.samples), remedy=remedy)

    def _others(self, number: int, attempt: int, missing: int, kept: set[str]) -> list[int]:
        """Indices of so many prompts that no group of the round was kept of, in the place of those that were not."""
        left = [index for index, prompt in enumerate(self.prompts) if prompt.id not in kept]
        drawn = np.random.default_rng([self.sampler.seed, number, attempt, 1]).permutation(len(left))
        return [left[place] for place in drawn[:missing]]

    def _sample(self, indices: Sequence[int], number: int, attempt: int, version: int) -> list[Sampled]:
        """Samples, scores and relates the answers to this rank's prompts."""
        mine = [replace(self.prompts[index], responses=(), edges=()) for index in indices]
        mine = [prompt for prompt in mine if self.render(prompt) is not None]
        with self.sampling():
            if self.replay is None:
                with self.clock("sync"):
                    self.update(version)
            with self.clock("sampling"):
                generated = self._answered(mine, number, attempt, version)
        # what waits is compared under its pictures when its turn comes
        visual = self.visual if self._waiting is None else None
        return [related(group, self.spec, visual) for group in self._score(generated)]

    def _answered(self, prompts: Sequence[Group], number: int, attempt: int, version: int) -> list[Group | None]:
        if self.replay is None:
            return list(self._generate(prompts, number, attempt, version))
        epoch = int(self.sampler.epochs(number))
        return self.replay.answers(prompts, version=version, attempt=attempt, epoch=epoch)

    def _generate(self, prompts: Sequence[Group], number: int, attempt: int, version: int) -> list[Group]:
        if not prompts:
            return []
        # the engine adds the id of the prompt: answers do not depend on the rank that samples them
        seed = int(np.random.default_rng([self.sampler.seed, number, attempt]).integers(2**31))
        groups = self._sampled(prompts, number, seed)
        if self.spec.greedy:
            alone = replace(self.spec.sampling, n=1, temperature=0.0)
            beside = self.engine.generate(prompts, alone, seed=seed)
            groups = [_with_greedy(group, one) for group, one in zip(groups, beside, strict=True)]
        return [_of_version(group, version) for group in groups]

    def _sampled(self, prompts: Sequence[Group], number: int, seed: int) -> list[Group]:
        """All answers to be compared with each other, those under a distorted picture last."""
        sampling, distortion = self.spec.sampling, self.distortion
        if distortion is None or not distortion.step(number):
            return self.engine.generate(prompts, sampling, seed=seed)
        few = distortion.spec.answers
        groups = self.engine.generate(prompts, replace(sampling, n=sampling.n - few), seed=seed)
        with distortion.pictures(prompts, number) as asked:
            beside = self.engine.generate(asked, replace(sampling, n=few), seed=seed)
        step = distortion.step(number)
        return [with_distorted(group, one, step) for group, one in zip(groups, beside, strict=True)]

    def _score(self, groups: Sequence[Group | None]) -> list[Group | None]:
        """None where there is no answer, or its reward failed. What a replay has rewards of is not scored again."""
        answered = [None if group is None else _without_errors(group) for group in groups]
        asked = [group for group in answered if group is not None and not self._has_rewards(group)]
        with self.clock("reward"):
            made = iter(self.score(asked))
        return [
            group if group is None or self._has_rewards(group) else self._settled(next(made), group.id)
            for group in answered
        ]

    def _has_rewards(self, group: Group) -> bool:
        return self.replay is not None and any(response.reward is not None for response in group.responses)

    def _settled(self, scored: Group | str, id: str) -> Group | None:
        """A group whose reward failed is dropped, or ends the run."""
        if isinstance(scored, Group):
            bare = [response for response in scored.responses if response.reward is None]
            failed = [response.reward_error or "an answer was left without one" for response in bare]
            self._error = failed[0] if failed else self._error
            if not failed or self.spec.failed_rewards == "drop":
                longest, buffer = self.spec.sampling.max_new_tokens, self.spec.overlong_buffer
                return soft_overlong(scored, longest, buffer) if buffer else scored
        else:
            self._error = scored
            _log.warning("Reward of %s failed %d times, dropped: %s", id, REWARD_TRIES, self._error)
        if self.spec.failed_rewards == "stop":
            remedy = "Mend it and run again: the run goes on from its last checkpoint. Or set failed_rewards: drop"
            raise ServiceError(f"the reward of {id} failed ({self._error})", remedy=remedy)
        return None


def _without_errors(group: Group) -> Group:
    return replace(group, responses=tuple(r for r in group.responses if r.finish_reason != "error"))


def _of_version(group: Group, version: int) -> Group:
    return replace(group, responses=tuple(replace(response, policy_version=version) for response in group.responses))


def _with_greedy(group: Group, beside: Group) -> Group:
    return replace(group, responses=(*group.responses, *(replace(one, greedy=True) for one in beside.responses)))


def _with_columns(group: Group, found: RoundColumns) -> Group:
    responses = [
        replace(response, columns={**response.columns, **found.get((group.id, index), {})})
        for index, response in enumerate(group.responses)
    ]
    return replace(group, responses=tuple(responses))
