"""Groups from the policy itself: prompts, samples, rewards, relations."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sightline.data.sampler import share
from sightline.data.schema import append_groups, group_from_json, group_to_json, relative_to
from sightline.errors import DataError, NothingToLearn
from sightline.rewards.running import RunningScores
from sightline.train.buffer import Buffer
from sightline.train.pictures import Masked
from sightline.train.related import why_unrelated
from sightline.train.rollout import Rollout
from sightline.train.rollout_stats import Sampled, round_stats, sampled_stats
from sightline.train.source import RoundColumns, Taken, check_rows, rows_state
from sightline.train.stages import Launched, launched_from_json, launched_to_json
from sightline.types import Group, Stat

ROUND_TRIES = 5
"""A round that leaves no group to train on is sampled again with other random numbers, so many times in all."""


def _as_it_is(group: Group) -> Group:
    return group


@dataclass(kw_only=True)
class OnlineSource(Rollout):
    """A round of sampling gives the groups of ``steps_per_round`` optimizer steps, taken ``inner_epochs`` times.

    In a round every rank samples its share of the prompts and scores them; the groups are gathered and dealt
    out anew, so that ranks have equal shares although groups drop out (failed rewards, ties). Groups as scored
    go to ``samples.jsonl``, pairs with their negative pictures to ``pairs.jsonl``, those without to
    ``text_pairs.jsonl`` where they are trained by their answers, else to ``dropped_pairs.jsonl``. With
    ``max_staleness`` m the round after the next m is sampled when a round begins.
    """

    samples: Path
    """Group file that the main process appends to; the files of pairs stand beside it."""
    below: Path | None = None
    """Folder that the run may move in: pictures below it are named relative to the files of the run."""
    masked: Masked | None = None
    """Puts every answer under a masked picture too, where it is laid out; None: nobody asks for it."""
    _round: int = -1
    _buffer: list[Group] = field(default_factory=list)
    _ahead: list[Launched] = field(default_factory=list)
    """What is sampled for the rounds after this one."""
    _stats: dict[str, Stat] = field(default_factory=dict)
    """Of the sampling that no step has told of yet."""
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
        if self._waiting is None:
            self._buffer, self._stats = self._sample_round(number, version=step)
        else:
            self._buffer, self._stats = self._fill_round(self._waiting, number, version=step)
        self._round = number
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
        """What is under way is waited for: it is paid for, and not asked for again. Every rank calls."""
        for launched in self._ahead:
            self.settle(launched)
        places = (self.samples.parent, self.below)
        waiting = {} if self._waiting is None else {"waiting": self._waiting.state(*places)}
        own = {
            "round": self._round,
            "buffer": [group_to_json(group, *places) for group in self._buffer],
            "ahead": [launched_to_json(launched, *places) for launched in self._ahead],
            "scores": self._scores.state(),
            "files": {path.name: path.stat().st_size if path.exists() else 0 for path in self._files},
        }
        return self._rows | waiting | own

    def restore(self, state: Mapping[str, Any] | None) -> None:
        """Takes up a round where it was left; what was written after the checkpoint is cut off its file.

        Raises:
            CheckpointError: the prompts changed.
        """
        check_rows(state or {}, self._rows)
        kept = {} if state is None else state["files"]
        for path in self._files if self.ranks.rank == 0 else ():
            if path.exists():
                os.truncate(path, kept.get(path.name, 0))
        if self._waiting is not None:
            self._waiting.restore(None if state is None else state["waiting"], self.samples.parent)
        if state is not None:
            self._round = state["round"]
            self._buffer = [group_from_json(row, relative_to(self.samples.parent)) for row in state["buffer"]]
            self._ahead = [launched_from_json(row, self.samples.parent) for row in state["ahead"]]
            self._scores.restore(state["scores"])

    @property
    def _files(self) -> tuple[Path, Path, Path, Path]:
        """Samples, pairs with their negatives, pairs without that are trained, and those that are not."""
        pairs, text, dropped = map(self.samples.with_name, ("pairs.jsonl", "text_pairs.jsonl", "dropped_pairs.jsonl"))
        return self.samples, pairs, text, dropped

    def _sample_round(self, number: int, *, version: int) -> tuple[list[Group], dict[str, Stat]]:
        """The groups of a round, as they are trained, and this rank's part of what is told of it. Rounds ahead are
        launched first."""
        while len(self._ahead) <= self.spec.max_staleness:
            soon = number + len(self._ahead)
            some = list(self.sampler.indices(soon))
            self._ahead.append(self.launch(some, soon, 0, version=version, since=number))
        launched, asked = self._ahead.pop(0), list(self.sampler.indices(number))
        kept, everything = list[Group](), list[Sampled]()
        wanted, refills = launched.asked, self.spec.dynamic_sampling
        for attempt in range(max(ROUND_TRIES, 1 + refills)):
            if attempt:
                launched = self.launch(asked, number, attempt, version=version, since=number)
            dealt = self._told(launched)
            everything += dealt
            kept += [one.trained for one in dealt if one.trained is not None]
            if len(kept) == wanted or (kept and attempt >= refills):
                break
            if attempt < refills:
                asked = self._others(number, attempt, wanted - len(kept), {group.id for group in kept})
        if not kept:
            raise self._nothing_left(attempt + 1, wanted, everything)
        groups = self._scores.measured(kept, [one.scored for one in everything])
        return groups, self._stats_of(everything, attempt + 1)

    def _fill_round(self, waiting: Buffer, number: int, *, version: int) -> tuple[list[Group], dict[str, Stat]]:
        """As ``_sample_round``, from what waits and as many prompts as it takes beside. Prompts are asked in the order
        of the data set, wherever the round before stopped."""
        wanted, everything, attempt, ahead = self.sampler.batch_size, list[Sampled](), 0, self.spec.max_staleness
        if self._ahead:
            everything += self._stored(waiting, self._ahead.pop(0))
        while (missing := waiting.missing(wanted, number)) > 0 and attempt < waiting.spec.tries:
            asked = self._next(waiting, missing)
            # what is launched ahead is attempt 0 of its round
            launched = self.launch(asked, number, attempt + (ahead > 0), version=version, since=number)
            everything += self._stored(waiting, launched)
            attempt += 1
        taken, told = waiting.take(wanted, number)
        if not taken:
            raise self._nothing_left(attempt, wanted, everything)
        while len(self._ahead) < ahead:
            soon = len(self._ahead) + 1
            under_way = sum(launched.asked for launched in self._ahead)
            asked = self._next(waiting, waiting.prompts_for(wanted, soon, under_way))
            self._ahead.append(self.launch(asked, number + soon, 0, version=version, since=number))
        stats = self._stats_of(everything, attempt) | (told if self.ranks.rank == 0 else {})
        return [group if self.visual is None else self.visual(group) for group in taken], stats

    def _next(self, waiting: Buffer, count: int) -> list[int]:
        """So many prompts, from where the order of the data set was left."""
        one_by_one = replace(self.sampler, batch_size=1)
        places = range(waiting.asked, waiting.asked + min(count, self.sampler.size))
        waiting.asked = places.stop
        return list(dict.fromkeys(index for place in places for index in one_by_one.indices(place)))

    def _stored(self, waiting: Buffer, launched: Launched) -> list[Sampled]:
        """What became of a launch, its comparisons put with those that wait."""
        dealt = self._told(launched)
        trained = [one.trained for one in dealt if one.trained is not None]
        waiting.add(trained, launched.since, of=launched.asked)
        return dealt

    def _told(self, launched: Launched) -> list[Sampled]:
        """What became of a launch, on disk. A picture is there before the line that names it."""
        dealt = self.settle(launched)
        if self.ranks.rank == 0:
            samples, pairs, text, dropped = self._files
            append = partial(append_groups, below=self.below)
            append(samples, [one.scored for one in dealt if one.scored is not None])
            if found := [pair for one in dealt for pair in one.pairs]:
                append(pairs, [pair.group for pair in found if pair.outcome == "made"])
                lost = [pair.group for pair in found if pair.outcome != "made"]
                append(dropped, [group for group in lost if not group.edges])
                if bare := [group for group in lost if group.edges]:
                    append(text, bare)
        return dealt

    def _stats_of(self, everything: Sequence[Sampled], attempts: int) -> dict[str, Stat]:
        """This rank's part of what is told of a round."""
        stats = sampled_stats(share(everything, self.ranks.rank, self.ranks.size))
        return stats | (round_stats(everything, attempts) if self.ranks.rank == 0 else {})

    def _nothing_left(self, rounds: int, wanted: int, everything: Sequence[Sampled]) -> DataError:
        """What became of all that was sampled for a round."""
        found = f"{rounds} rounds of {wanted} prompts left no group to train on"
        answers = [r for one in everything if one.scored is not None for r in one.scored.responses if not r.greedy]
        limit = self.spec.sampling.max_new_tokens
        if self.spec.truncated == "mask" and answers and all(r.finish_reason == "length" for r in answers):
            why = f"all answers were cut at {limit} tokens, and truncated: mask leaves these out"
            remedy = "Raise online.sampling.max_new_tokens, or set online.truncated: train"
        elif lost := [pair.group for one in everything for pair in one.pairs]:
            reasons = [group.prompts[1].facts.get("reason") for group in lost]
            why = f"none of {len(lost)} pairs has its negative picture; first: {reasons[0]}"
            remedy = f"Look at {self._files[3].name}, and mend online.negatives"
        elif self._error:
            why, remedy = self._error, "Look at the samples, and mend the reward"
        else:
            why, remedy = why_unrelated(self.spec)
            failed = any(one.scored is None for one in everything) or any(r.reward is None for r in answers)
            if answers and not failed:
                before = f"; {self._round + 1} rounds of sampling before it had some" if self._round >= 0 else ""
                return NothingToLearn(found, why=why + before, source=str(self.samples), remedy=remedy)
        return DataError(f"{found} ({why})", source=str(self.samples), remedy=remedy)

    def _others(self, number: int, attempt: int, missing: int, kept: set[str]) -> list[int]:
        """Indices of so many prompts that no group of the round was kept of, in the place of those that were not."""
        left = [index for index, prompt in enumerate(self.prompts) if prompt.id not in kept]
        drawn = np.random.default_rng([self.sampler.seed, number, attempt, 1]).permutation(len(left))
        return [left[place] for place in drawn[:missing]]


def _with_columns(group: Group, found: RoundColumns) -> Group:
    responses = [
        replace(response, columns={**response.columns, **found.get((group.id, index), {})})
        for index, response in enumerate(group.responses)
    ]
    return replace(group, responses=tuple(responses))
