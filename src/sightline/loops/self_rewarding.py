"""Self-rewarding: the model answers, its answers are scored, the better are learnt over the worse."""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from sightline.algorithms.registry import build_algorithm
from sightline.data.schema import read_groups, write_groups
from sightline.data.staged import StagedGroups
from sightline.errors import DataError, RecipeError, ServiceError
from sightline.loops.common import sample_stage
from sightline.loops.stages import Round, Stage
from sightline.recipes.schema import Recipe
from sightline.recipes.self_rewarding import SelfRewardingSpec
from sightline.recipes.terms import AnyTerm, IrisSpec, JudgeSpec
from sightline.relations.scores import only_compared
from sightline.relations.selection import OVIP, check_references, relation_of
from sightline.rewards.base import Reward, reward_groups
from sightline.rewards.build import build_reward, check_prompts
from sightline.train.run_folder import FREE_TERMS
from sightline.types import Group

_log = logging.getLogger(__name__)
Terms = str | Mapping[str, AnyTerm]
SELF = "self"
"""The judge that is the model which answered."""


@dataclass(frozen=True, kw_only=True)
class SelfRewarding:
    """The method of this name."""

    spec: SelfRewardingSpec

    def check(self, prompts: Sequence[Group]) -> None:
        """Builds the reward, and looks whether every prompt has the facts that it reads."""
        check_reward(self.spec.reward, prompts, self.spec.sampling.max_new_tokens)
        if self.spec.relation == "ovip":
            check_references(prompts, self.spec.selection or OVIP)

    def stages(self, round: Round) -> list[Stage]:
        """``sample``, ``score`` and ``pairs``."""
        samples, scored = round.folder / "samples.jsonl", round.folder / "scored.jsonl"
        return [
            sample_stage(round, self.spec.sampling, out=samples.name),
            score_stage(round, self.spec, samples, scored),
            self._pairs(round, scored),
        ]

    def training(self, round: Round, plain: Recipe) -> Recipe:
        """On the pairs, as the loop says.

        Raises:
            RecipeError: The algorithm learns from other things than the relation makes.
        """
        name, compares = plain.algorithm["name"], build_algorithm(plain.algorithm).compares
        if compares and self.spec.relation == "best":
            raise RecipeError(
                f"method.relation is best, which makes no comparisons, and {name} learns from nothing else. Set "
                "algorithm.name: sft, or relation: best_worst."
            )
        if not compares and self.spec.relation != "best":
            raise RecipeError(
                f"algorithm.name is {name}, which learns from single answers, and would learn the rejected ones too: "
                f"method.relation is {self.spec.relation}. Set relation: best, or algorithm.name: dpo."
            )
        return plain

    def _pairs(self, round: Round, scored: Path) -> Stage:
        spec = self.spec
        rule = None if spec.selection is None else dataclasses.asdict(spec.selection)
        settings = {"relation": spec.relation, "min_gap": spec.min_gap, "selection": rule}
        run = partial(self._pair, round, scored)
        return Stage(name="pairs", out=round.pairs, reads=[scored], settings=settings, run=run)

    def _pair(self, round: Round, scored: Path) -> None:
        spec = self.spec
        relate = relation_of(spec.relation, spec.min_gap, spec.selection)
        groups = [relate(group) for group in read_groups(scored)]
        single = spec.relation == "best"
        kept = [group for group in groups if (group.responses if single else group.edges)]
        if not kept:
            raise DataError(
                f"no {'answer' if single else 'pair'} among {len(groups)} prompts",
                source=str(scored),
                remedy="Lower method.min_gap, sample more answers (method.sampling.n), or warmer ones",
            )
        write_groups(round.pairs, [group if single else only_compared(group) for group in kept])
        _log.info("%d of %d prompts gave %d pairs", len(kept), len(groups), sum(len(group.edges) for group in kept))


def score_stage(round: Round, spec: SelfRewardingSpec, samples: Path, scored: Path) -> Stage:
    """Every answer gets its reward, and the named parts of it."""
    reward = of_round(spec.reward, round)
    files, settings = named_reward(reward)

    def run() -> None:
        scorer = build_reward(reward, max_new_tokens=spec.sampling.max_new_tokens)
        StagedGroups(out=scored, settings=None, tell=_log.info).run(
            list(read_groups(samples)),
            lambda some: _scored(scorer, some, spec.failed_rewards),
            chunk=64,
            title=f"round {round.number}: rewards",
        )

    return Stage(
        name="score",
        out=scored,
        reads=[samples, *files],
        settings={
            "reward": settings,
            "failed_rewards": spec.failed_rewards,
            "max_new_tokens": spec.sampling.max_new_tokens,
        },
        run=run,
    )


def check_reward(reward: Terms, prompts: Sequence[Group], max_new_tokens: int | None = None) -> None:
    """Builds a reward, and looks whether every prompt has the facts that it reads. ``max_new_tokens``: of an answer."""
    own = _asks_itself(reward)
    if own and not isinstance(reward, str):  # there is no model yet that could be asked
        reward = {name: term for name, term in reward.items() if name not in own}
    if reward:
        check_prompts(build_reward(reward, max_new_tokens=max_new_tokens), prompts)


def of_round(reward: Terms, round: Round) -> str | dict[str, AnyTerm]:
    """The reward with the round's own model where a term asks the model that answered."""
    if isinstance(reward, str):
        return reward
    own = _asks_itself(reward)
    return {name: _asking(term, round) if name in own else term for name, term in reward.items()}


def _asks_itself(reward: Terms) -> set[str]:
    """Names of the terms that ask the model which answered."""
    terms = {} if isinstance(reward, str) else reward
    return {
        name
        for name, term in terms.items()
        if (isinstance(term, JudgeSpec) and term.judge == SELF) or (isinstance(term, IrisSpec) and term.path is None)
    }


def _asking(term: AnyTerm, round: Round) -> AnyTerm:
    if isinstance(term, JudgeSpec):
        return replace(term, judge=f"local:{round.spec.path}")
    assert isinstance(term, IrisSpec)
    return replace(term, path=round.spec.path)


def named_reward(reward: Terms) -> tuple[list[Path], Any]:
    """Files and folders that a reward reads, and what else changes its numbers."""
    if isinstance(reward, str):
        return ([Path(reward)], None) if Path(reward).is_dir() else (_sources(reward), reward)
    files: list[Path] = []
    settings: dict[str, Any] = {}
    for name, term in reward.items():
        free = FREE_TERMS.get(term.kind, ())
        values = {key: value for key, value in dataclasses.asdict(term).items() if key not in free}
        paths = {key: _path(value) for key, value in values.items()}
        files += [path for path in paths.values() if path is not None]
        files += [path for value in values.values() for path in _sources(value)]
        settings[name] = {key: value for key, value in values.items() if paths[key] is None}
    return files, settings


def _path(value: Any) -> Path | None:
    """The file or folder that an option names: ``runs/reward``, ``local:models/judge``."""
    words = [value, value.partition(":")[2]] if isinstance(value, str) else []
    return next((Path(word) for word in words if word and Path(word).exists()), None)


def _sources(value: Any) -> list[Path]:
    """The file of a program of one's own (``package.module:Name``): written anew, it gives other rewards."""
    named = re.fullmatch(r"([A-Za-z_][\w.]*):\w+", value) if isinstance(value, str) else None
    try:
        found = importlib.util.find_spec(named[1]) if named else None
    except (ImportError, ValueError):  # told where the reward is built
        found = None
    return [Path(found.origin)] if found is not None and found.origin is not None else []


def _scored(scorer: Reward, groups: Sequence[Group], failed: str) -> list[Group]:
    scored = reward_groups(scorer, groups)
    for group in scored if failed == "stop" else ():
        for index, response in enumerate(group.responses):
            if response.reward_error is not None and response.finish_reason != "error":
                raise ServiceError(
                    f"answer {index} of group {group.id} got no reward: {response.reward_error}",
                    source=group.source,
                    remedy="Mend it and run the same command, which goes on here; or set method.failed_rewards: drop",
                )
    return scored
