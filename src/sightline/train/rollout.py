"""The way of a prompt through a round: sampled, scored, related, and given the pictures of its comparisons."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch

from sightline.data.sampler import Sampler, share
from sightline.errors import ServiceError
from sightline.negatives.distorted import Distortion, with_distorted
from sightline.negatives.generated import Generated
from sightline.recipes.schema import OnlineSpec
from sightline.rewards.base import REWARD_TRIES
from sightline.rewards.length import soft_overlong
from sightline.rollouts.engine import CheckedEngine
from sightline.rollouts.replay import Replay
from sightline.train.clock import Clock
from sightline.train.related import related
from sightline.train.rollout_stats import Sampled
from sightline.train.source import Rendering
from sightline.train.stages import Launched, Line
from sightline.types import Group

_log = logging.getLogger(__name__)


class Ranks(Protocol):
    """The part of the runtime that a source needs."""

    rank: int
    size: int

    def gather_objects(self, value: Any) -> list[Any]: ...


def nothing() -> None:
    """For a reward that never waits."""


def _is_the_policy(version: int) -> None:
    """For an engine that samples with the policy's own weights."""


@dataclass(kw_only=True)
class Rollout:
    """Launches prompts and settles them: every rank its share, all ranks with the same in the end.

    With ``spec.stages`` a launch returns when its answers are sampled; they are scored and painted behind it. What
    comes out does not depend on that.
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
    distortion: Distortion | None = None
    """Distorts the pictures that some answers are sampled under; None: none."""
    negatives: Generated | None = None
    """Makes the negative picture of every comparison; None: nothing is made."""
    visual: Callable[[Group], Group] | None = None
    """Turns a group with its comparison of answers into comparisons of pictures; None: left as it is."""
    sampling: Callable[[], AbstractContextManager[None]] = nullcontext
    """Around the sampling of a round; every rank enters and leaves it."""
    replay: Replay | None = None
    """Gives the answers in the place of ``engine``."""
    update: Callable[[int], None] = _is_the_policy
    """Brings the policy to the engine as it is now, called by its version; every rank calls it before a round."""
    give_up: Callable[[], None] = nothing
    """Called where the run ends: the reward waits for nothing more."""
    clock: Clock = field(default_factory=lambda: Clock(torch.device("cpu"), on=False))
    """Measures the parts of a step."""
    _error: str = ""
    """Why a reward failed, of the round that is sampled."""
    _line: Line | None = None

    def launch(self, asked: Sequence[int], number: int, attempt: int, *, version: int, since: int) -> Launched:
        """Samples the answers to this rank's share of some prompts, and sends them on their way.

        Args:
            asked: indices of prompts, the same on every rank.
            number: of the round that they are for; with ``attempt`` it seeds the sampling.
            attempt: how often prompts were launched for this round before.
            version: of the policy.
            since: the round in which this happens.
        """
        launched = Launched(number=number, asked=len(asked), since=since)
        if not asked:
            launched.dealt = []
            return launched
        mine = [self.prompts[index] for index in share(asked, self.ranks.rank, self.ranks.size)]
        mine = [replace(prompt, responses=(), edges=()) for prompt in mine if self.render(prompt) is not None]
        answered = list[list[Group | None]]()
        with self.sampling():
            if self.replay is None:
                with self.clock("sync"):
                    self.update(version)
            for some in self._chunks(mine):
                with self.clock("sampling"):
                    answered.append(self._answered(some, number, attempt, version))
                if self._overlaps:
                    launched.waiting.append(self._ready_line().submit(answered.pop()))
        launched.done += [one for some in answered for one in self._in_turn(some)]
        return launched

    def settle(self, launched: Launched) -> list[Sampled]:
        """What became of a launch, on all ranks, in the order of its prompts. Every rank calls, in the same order."""
        if launched.dealt is None:
            with self.clock("waiting"):
                own = launched.own()
                # rank r holds every size-th prompt from r on: dealing them back restores the order of the round
                parts = self.ranks.gather_objects(own)
            rows = range(max(map(len, parts)))
            launched.dealt = [part[row] for row in rows for part in parts if row < len(part)]
        return launched.dealt

    def judge(self, answered: Sequence[Group | None]) -> list[Sampled]:
        """Scores and relates answers. None where there is no answer, or its reward failed."""
        return [related(group, self.spec) for group in self._score(answered)]

    def paint(self, sampled: Sequence[Sampled]) -> list[Sampled]:
        """Gives comparisons their negative pictures; what waits is compared under them when its turn comes."""
        if self.negatives is not None:
            places = [place for place, one in enumerate(sampled) if one.trained is not None]
            made = self.negatives([one.trained for one in sampled if one.trained is not None])
            given = dict(zip(places, made, strict=True))
            sampled = [
                replace(one, trained=given[place][0], pairs=given[place][1]) if place in given else one
                for place, one in enumerate(sampled)
            ]
        if self.visual is None or self.spec.buffer is not None:
            return list(sampled)
        return [one if one.trained is None else replace(one, trained=self.visual(one.trained)) for one in sampled]

    def close(self) -> None:
        """Gives up what is under way, and ends what the engine holds elsewhere: workers and their GPUs."""
        if self._line is not None:
            self.give_up()
            if self.negatives is not None:
                self.negatives.give_up()
            self._line.close()
        self.engine.close()

    @property
    def _overlaps(self) -> bool:
        return self.spec.stages is not None and self.spec.stages.overlap

    def _ready_line(self) -> Line:
        if self._line is None:
            assert self.spec.stages is not None
            self._line = Line(self.spec.stages, judge=self.judge, paint=self.paint)
        return self._line

    def _in_turn(self, answered: Sequence[Group | None]) -> list[Sampled]:
        with self.clock("reward"):
            judged = self.judge(answered)
        with self.clock("pictures"):
            return self.paint(judged)

    def _chunks(self, prompts: Sequence[Group]) -> list[Sequence[Group]]:
        if self.spec.stages is None:
            return [prompts]
        size = self.spec.stages.chunk or self.spec.sampling.batch_size
        return [prompts[start : start + size] for start in range(0, len(prompts), size)]

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
