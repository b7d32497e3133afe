"""Calibrated Self-Rewarding (CSR, arXiv 2405.14622): trees of answers, relevance of their sentences, one pair each."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from sightline.data.schema import read_groups, write_groups
from sightline.data.staged import StagedGroups
from sightline.data.trees import append_trees, read_trees
from sightline.errors import DataError, NothingToLearn
from sightline.files import replace_file
from sightline.loops.common import asked_settings, comparing, files_of, log, staged
from sightline.loops.self_rewarding import check_reward, of_round
from sightline.loops.stages import Round, Stage
from sightline.recipes.csr import CsrSpec
from sightline.recipes.schema import Recipe
from sightline.relations.calibrated import ALIKE, PairCount, pair_of
from sightline.rewards.build import build_reward
from sightline.rewards.relevance import with_relevance
from sightline.rewards.settings import inputs_of
from sightline.rollouts.hf import load_engine
from sightline.rollouts.sentence_search import SentenceSearch
from sightline.types import Group

TREES, SCORED, FIGURES = "trees.jsonl", "scored_trees.jsonl", "pairs.figures.json"
_ASKED = 16
"""Trees whose sentences are asked together."""


@dataclass(frozen=True, kw_only=True)
class Csr:
    """The method of this name."""

    spec: CsrSpec

    def check(self, prompts: Sequence[Group]) -> None:
        """Builds the reward, and looks whether every prompt has what it reads."""
        check_reward(self.spec.relevance, prompts)

    def stages(self, round: Round) -> list[Stage]:
        """``sample``, ``score`` and ``pairs``."""
        return [self._sample(round), self._score(round), self._pairs(round)]

    def training(self, round: Round, plain: Recipe) -> Recipe:
        """On the pairs, as the loop says."""
        return comparing(plain, "method csr makes pairs")

    def _sample(self, round: Round) -> Stage:
        spec, out = self.spec, round.folder / TREES
        reads = [round.prompts, *files_of(round.spec)]
        grown = {name: value for name, value in dataclasses.asdict(spec.search).items() if name != "batch_size"}
        settings: dict[str, Any] = {"model": asked_settings(round.spec), "search": grown}
        settings["score"] = {"lm_term": spec.score.lm_term}
        if spec.search.prune_by == "calibrated":
            files, relevance = inputs_of(of_round(spec.relevance, round))
            reads += files
            settings |= {"relevance": relevance, "score": dataclasses.asdict(spec.score)}
        return Stage(name="sample", out=out, reads=reads, settings=settings, run=partial(self._grow, round, out))

    def _grow(self, round: Round, out: Path) -> None:
        engine = load_engine(round.spec)
        relevance = None
        if self.spec.search.prune_by == "calibrated":
            relevance = partial(with_relevance, build_reward(of_round(self.spec.relevance, round)))
        search = SentenceSearch(engine, self.spec.search, self.spec.score, relevance)
        _staged(round, out).run(
            list(read_groups(round.prompts)),
            search.grow,
            chunk=self.spec.search.batch_size,
            title=f"round {round.number}: trees",
        )

    def _score(self, round: Round) -> Stage:
        trees, out = round.folder / TREES, round.folder / SCORED
        reward = of_round(self.spec.relevance, round)
        files, settings = inputs_of(reward)

        def run() -> None:
            scorer = build_reward(reward)
            _staged(round, out).run(
                list(read_trees(trees)),
                partial(with_relevance, scorer),
                chunk=_ASKED,
                title=f"round {round.number}: relevance",
            )

        return Stage(name="score", out=out, reads=[trees, *files], settings={"relevance": settings}, run=run)

    def _pairs(self, round: Round) -> Stage:
        scored = round.folder / SCORED
        settings = {"score": dataclasses.asdict(self.spec.score), "pairs": dataclasses.asdict(self.spec.pairs)}
        run = partial(self._pair, round, scored)
        return Stage(name="pairs", out=round.pairs, reads=[scored], settings=settings, run=run)

    def _pair(self, round: Round, scored: Path) -> None:
        made = [pair_of(tree, self.spec.score, self.spec.pairs) for tree in read_trees(scored)]
        count = PairCount()
        count.add(made)
        told = json.dumps(count.figures())
        replace_file(round.folder / FIGURES, told + "\n")
        log.info("%d of %d prompts gave a pair: %s", count.pairs, len(made), told)
        if not count.pairs:
            reasons = ", ".join(f"{reason} {number}" for reason, number in count.dropped.items()) or "no prompts"
            found = f"no pair among {len(made)} prompts"
            remedy = "Raise method.search.max_new_tokens or max_characters, or lower method.pairs.min_gap"
            if count.dropped.keys() & ALIKE:
                raise NothingToLearn(found, why=reasons, source=str(scored), remedy=remedy)
            raise DataError(f"{found} ({reasons})", source=str(scored), remedy=remedy)
        write_groups(round.pairs, [one for one in made if isinstance(one, Group)], below=round.root)


def _staged(round: Round, out: Path) -> StagedGroups:
    return replace(staged(round.root, out), read=read_trees, append=partial(append_trees, below=round.root))
