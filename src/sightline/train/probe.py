"""What the "does it look?" meter reads: pairs of answers under their picture, a white one and another one."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sightline.data.augment import Reader
from sightline.data.stored import StoredGroups
from sightline.evaluation.statistics import Interval, bootstrap, mean
from sightline.negatives.relate import under_pictures
from sightline.recipes.schema import LookingSpec, ReadsSpec, Recipe
from sightline.relations.pairs import first_pair
from sightline.train.run_folder import RunDirectory
from sightline.types import Group

T = TypeVar("T")

LEAST_SHARE = 0.1
"""A gap that is below this share of the margins' mean size is no dependence to speak of."""
BLIND = "looking/blind"


@dataclass(kw_only=True)
class Looking:
    """The meter of one run: what it reads, and what it has seen."""

    spec: LookingSpec
    candidates: Sequence[Group]
    """Groups with comparisons of answers to choose the probe from; may be empty."""
    folder: Path
    """Where white pictures are written."""
    seed: int
    reads: ReadsSpec | None = None
    """How a reward model reads its rows."""
    probe: list[Group] | None = None
    """None: not made yet."""
    start: Mapping[str, Sequence[float]] | None = None
    """Margins before training, by group id; None: not read yet."""
    blind: int = 0
    """Readings in a row that saw no dependence on the picture."""

    @classmethod
    def of(cls, recipe: Recipe, candidates: Sequence[Group], reads: ReadsSpec | None) -> Looking:
        """The meter of the run of a recipe."""
        run = RunDirectory(path=Path(recipe.output_dir))
        spec = recipe.train.looking
        return cls(spec=spec, candidates=candidates, folder=run.negatives, seed=recipe.seed, reads=reads)

    @property
    def on(self) -> bool:
        """Whether there is anything to read: a model that is not shown pictures does not look at them."""
        return self.spec.every > 0 and (self.reads is None or self.reads.images == "keep")

    def prepare(self, usable: Callable[[Group], object | None]) -> list[Group]:
        """The probe: the same groups at every reading.

        Args:
            usable: gives None for a group whose picture turns out to be damaged.
        """
        if self.probe is None:
            chosen = _spread_pairs(self.candidates, self.spec.groups)
            chosen = [pair for pair in chosen if usable(pair) is not None]
            read = Reader(self.reads)
            self.probe = [read(group) for group in under_pictures(chosen, folder=self.folder, seed=self.seed)]
            self.candidates = ()
        return self.probe


def only(candidates: Sequence[Group], ids: Container[str]) -> Sequence[Group]:
    """Those of some ids."""
    if isinstance(candidates, StoredGroups):
        return candidates.pick(place for place, id in enumerate(candidates.ids()) if id in ids)
    return [group for group in candidates if group.id in ids]


def _spread_pairs(candidates: Sequence[Group], most: int) -> list[Group]:
    """The first comparisons of at most so many groups that have one."""
    if isinstance(candidates, StoredGroups):  # those that are not chosen are not made
        found = [first_pair(candidates[place]) for place in spread(candidates.pairs(), most)]
        return [pair for pair in found if pair is not None]
    # a prompt that was sampled for more than once counts once, as at first: a run that goes on reads the same
    pairs: dict[str, Group] = {}
    for group in candidates:
        if pair := first_pair(group):
            pairs.setdefault(pair.id, pair)
    return spread(list(pairs.values()), most)


def spread(groups: Sequence[T], most: int) -> list[T]:
    """At most so many groups, evenly over the whole: rows often come sorted."""
    if len(groups) <= most:
        return list(groups)
    return [groups[place * len(groups) // most] for place in range(most)]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What one look at the probe tells."""

    margin: float
    """Mean of what training added to the margin under the true picture, in nats (or units of reward)."""
    size: float
    """Mean size of what was added, whatever its sign."""
    gaps: Mapping[str, Interval]
    """By picture, ``blank`` and ``other``: mean of margin with the true picture minus margin with this one, and its
    95 % bootstrap interval over pairs."""

    @property
    def judged(self) -> str:
        """The picture that decides: another one, where there is one. A white picture is unlike any that a model has
        seen, so that a preference may fall under it without depending on what is in a picture."""
        return "other" if "other" in self.gaps else "blank"

    @property
    def blind(self) -> bool:
        """No dependence on the picture: the whole interval of the gap lies within 10 % of the margins' size around 0.

        So few pairs, or pairs that differ much, are never taken for blindness; nor is a clear gap below 0, which is
        dependence too (another picture may make "No" still surer).
        """
        gap, most = self.gaps[self.judged], LEAST_SHARE * self.size
        return -most < gap.low and gap.high < most

    def figures(self) -> dict[str, float]:
        """As they are logged."""
        gap = self.gaps[self.judged]
        return {
            "looking/margin": self.margin,
            **{f"looking/{name}": value.value for name, value in self.gaps.items()},
            f"looking/{self.judged}/low": gap.low,
            f"looking/{self.judged}/high": gap.high,
            BLIND: float(self.blind),
        }


def read_margins(margins: NDArray[np.float64]) -> Reading:
    """
    Args:
        margins: [pairs, 2 or 3] what training added to the margin of the preferred answer under the true, a white
            and another picture.
    """
    names = ("blank", "other")[: margins.shape[1] - 1]
    gaps = {name: margins[:, 0] - margins[:, place] for place, name in enumerate(names, start=1)}
    intervals = {name: bootstrap({"gap": gap}, mean("gap"), seed=0) for name, gap in gaps.items()}
    true = margins[:, 0]
    return Reading(margin=float(true.mean()), size=float(np.abs(true).mean()), gaps=intervals)


def blind_at_the_end(records: Iterable[Mapping[str, Any]]) -> int:
    """How many of the last readings in ``metrics.jsonl`` saw no dependence: a resumed run goes on counting."""
    count = 0
    for record in records:
        if BLIND in record:
            count = count + 1 if record[BLIND] else 0
    return count
