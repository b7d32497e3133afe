"""Pictures that some answers are sampled under, with less noise on them round by round (NoisyRollout)."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from sightline.negatives.prompts import Negatives
from sightline.recipes.distorted import DistortedSpec
from sightline.recipes.schema import NegativeSpec
from sightline.types import Group


@dataclass(frozen=True, kw_only=True)
class Distortion:
    """The noise of every round of a run."""

    spec: DistortedSpec
    rounds: int
    """Of the whole run, >= 1."""
    folder: Path
    """Where the pictures of a round are written, and taken away when it is sampled."""
    seed: int = 0

    def step(self, number: int) -> int:
        """Step of the noise in a round, counted from 0; 0: none.

        >>> made = Distortion(spec=DistortedSpec(answers=1), rounds=60, folder=Path())
        >>> [made.step(number) for number in (0, 40, 59)]
        [500, 250, 0]
        """
        past = self.spec.slope * (number / self.rounds - self.spec.midpoint)
        return round(self.spec.step / (1 + math.exp(min(past, 700.0))))

    @contextmanager
    def pictures(self, prompts: Sequence[Group], number: int) -> Iterator[list[Group]]:
        """The prompts of a round under their distorted pictures, which are there as long as this is entered. What is
        drawn depends on the seed, the prompt and the round."""
        self.folder.mkdir(parents=True, exist_ok=True)
        spec = NegativeSpec(kind="noise", step=self.step(number))
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            made = Negatives(spec=spec, folder=Path(folder), seed=self.seed * 1_000_003 + number)
            yield [replace(group, prompts=tuple(made.prompt(prompt) for prompt in group.prompts)) for group in prompts]


def with_distorted(group: Group, beside: Group, step: int) -> Group:
    """The answers to a prompt, and behind them those that were sampled ``beside`` them, under noise of ``step``. What
    the sampler said of their probabilities does not hold under the picture as it is, and is left out."""
    more = (replace(response, rollout_logprobs=None, distorted=step) for response in beside.responses)
    return replace(group, responses=(*group.responses, *more))
