"""Self-rewarding: the model answers, its answers are scored, the better are learnt over the worse."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from sightline.algorithms.registry import build_algorithm
from sightline.data.schema import read_groups, write_groups
from sightline.errors import DataError, NothingToLearn, RecipeError
from sightline.loops.common import comparing, sample_stage, staged
from sightline.loops.stages import Round, Stage
from sightline.recipes.schema import Recipe
from sightline.recipes.self_rewarding import SelfRewardingSpec
from sightline.recipes.terms import AnyTerm, IrisSpec, JudgeSpec
from sightline.relations.scores import only_compared
from sightline.relations.selection import OVIP, check_references, relation_of, why_none
from sightline.rewards.base import scored_or_stopped
from sightline.rewards.build import build_reward, check_prompts
from sightline.rewards.settings import inputs_of
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
        relation = self.spec.relation
        if relation != "best":
            return comparing(plain, f"method.relation is {relation}", "Set relation: best, or algorithm.name: dpo")
        if build_algorithm(plain.algorithm).compares:
            raise RecipeError(
                f"method.relation is best, which makes no comparisons, and {plain.algorithm['name']} learns from "
                "nothing else. Set algorithm.name: sft, or relation: best_worst."
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
            found = f"no {'answer' if single else 'pair'} among {len(groups)} prompts"
            _check_scored(scored, found)
            raise NothingToLearn(
                found,
                why=why_none(spec.relation),
                source=str(scored),
                remedy="Lower method.min_gap, sample more answers (method.sampling.n), or warmer ones",
            )
        pairs = [group if single else only_compared(group) for group in kept]
        write_groups(round.pairs, pairs, below=round.root)
        _log.info("%d of %d prompts gave %d pairs", len(kept), len(groups), sum(len(group.edges) for group in kept))


def _check_scored(scored: Path, found: str) -> None:
    """
    Raises:
        DataError: the reward of an answer failed: there might have been a pair.
    """
    answers = [answer for group in read_groups(scored) for answer in group.responses]
    if failed := [answer.reward_error or "it was never given" for answer in answers if answer.reward is None]:
        raise DataError(
            f"{found}, and {len(failed)} of {len(answers)} answers have no reward (first: {failed[0]})",
            source=str(scored),
            remedy="Mend the reward and remove that file, so that they are asked again",
        )


def score_stage(round: Round, spec: SelfRewardingSpec, samples: Path, scored: Path) -> Stage:
    """Every answer gets its reward, and the named parts of it."""
    reward = of_round(spec.reward, round)
    files, settings = inputs_of(reward)

    def run() -> None:
        scorer = build_reward(reward, max_new_tokens=spec.sampling.max_new_tokens)
        staged(round.root, scored, _log.info).run(
            list(read_groups(samples)),
            partial(scored_or_stopped, scorer, failed=spec.failed_rewards, drop="set method.failed_rewards: drop"),
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
        eased=("failed_rewards",),
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
