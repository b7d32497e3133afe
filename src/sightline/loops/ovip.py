"""OViP as a loop: every round is one online training, which makes its pairs and their pictures itself."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sightline.errors import RecipeError
from sightline.loops.stages import Round, Stage
from sightline.negatives.build import build_generated
from sightline.recipes.load import conflicts
from sightline.recipes.ovip import OvipSpec, online_of
from sightline.recipes.schema import Recipe
from sightline.relations.selection import check_references
from sightline.rewards.build import build_reward, check_prompts
from sightline.types import Group


@dataclass(frozen=True, kw_only=True)
class Ovip:
    """The method of this name."""

    spec: OvipSpec

    def check(self, prompts: Sequence[Group]) -> None:
        """Builds the reward, and looks whether every prompt has what reward, rule and pictures read. A pipeline that
        paints is loaded by the training itself."""
        spec = self.spec
        check_prompts(build_reward(spec.reward, max_new_tokens=spec.sampling.max_new_tokens), prompts)
        check_references(prompts, spec.selection)
        if spec.negatives is not None and (spec.negatives.paint is None or spec.negatives.paint.path is None):
            with tempfile.TemporaryDirectory() as folder:
                build_generated(spec.negatives, folder=Path(folder), seed=0).check(prompts)

    def stages(self, round: Round) -> list[Stage]:
        """None: the pairs come with the training."""
        return []

    def training(self, round: Round, plain: Recipe) -> Recipe:
        """Online, on the prompts of the round.

        Raises:
            RecipeError: options of the method that do not go together, or with the loop's training.
        """
        data = None if plain.data is None else replace(plain.data, train=())
        made = replace(plain, data=data, online=online_of(self.spec, str(round.prompts)))
        if found := conflicts(made):
            told = "\n".join(
                f"{'.'.join(map(str, place)).replace('online', 'method', 1)}: {text}" for place, text in found
            )
            raise RecipeError(told)
        return made
