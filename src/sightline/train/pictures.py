"""The other pictures of a run that samples its own answers: masked ones, and those under noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sightline.algorithms.registry import build_algorithm
from sightline.data.sampler import Sampler
from sightline.errors import DataError
from sightline.negatives.distorted import Distortion
from sightline.negatives.prompts import Negatives, counterparts
from sightline.recipes.schema import OnlineSpec, Recipe
from sightline.relations.masked import with_masked
from sightline.train.run_folder import RunDirectory
from sightline.types import Group


@dataclass(frozen=True, kw_only=True)
class Masked:
    """Puts the answers of a group under a masked picture too."""

    pictures: Negatives
    when: Literal["round", "step"]
    """Answers are read so before the round's first step alone, or in every step alone."""

    def __call__(self, group: Group) -> Group:
        return with_masked(group, self.pictures.prompt(group.prompts[0]))


def pictures_of_rounds(
    recipe: Recipe, online: OnlineSpec, groups: Sequence[Group], sampler: Sampler
) -> tuple[Masked | None, Distortion | None]:
    """What makes masked and distorted pictures, where the recipe has them.

    Args:
        recipe: of the run.
        online: its section.
        groups: its prompts.
        sampler: whose batch is a round.

    Raises:
        DataError: a prompt without a picture.
        RecipeError: ``masked.kind: other``, and all prompts have the same picture.
    """
    if online.masked is not None or online.distorted is not None:
        _check(groups, "online.distorted" if online.masked is None else "online.masked")
    folder, masked, distortion = RunDirectory(path=Path(recipe.output_dir)).negatives, None, None
    if online.masked is not None:
        others = counterparts(groups, recipe.seed) if online.masked.kind == "other" else {}
        pictures = Negatives(spec=online.masked, folder=folder, seed=recipe.seed, others=others)
        when = build_algorithm(recipe.algorithm).masked
        assert when != "no", "refused before (recipes.rounds)"
        masked = Masked(pictures=pictures, when=when)
    if online.distorted is not None:
        steps = online.steps_per_round * online.inner_epochs
        rounds = sampler.steps(recipe.train.epochs)
        if recipe.train.max_steps is not None:
            rounds = math.ceil(recipe.train.max_steps / steps)
        distortion = Distortion(spec=online.distorted, rounds=rounds, folder=folder, seed=recipe.seed)
    return masked, distortion


def _check(groups: Sequence[Group], key: str) -> None:
    for group in groups:
        if not group.prompts[0].images:
            raise DataError(
                f"prompt {group.id!r} has no picture, and {key} changes the picture of every prompt",
                source=group.source,
                remedy=f"Leave prompts without pictures out, or remove {key}",
            )
