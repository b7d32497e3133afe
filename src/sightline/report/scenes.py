"""The figures of the benchmark ``scenes`` as a table and a gallery."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sightline.errors import DataError
from sightline.evaluation.statistics import Interval, bootstrap, paired_difference, ratio
from sightline.report.page import Answer, GalleryItem
from sightline.report.table import Row
from sightline.scenes.benchmark import RATIOS, Record, columns
from sightline.scenes.scene import Scene
from sightline.types import Group, Prompt

Better = Literal["lower", "higher", "neither"]

NAMES: Mapping[str, tuple[str, str, Better]] = {
    "hal": ("Hal", "captions that name something that is not there", "lower"),
    "chair": ("CHAIR", "named things that are not there, of all named", "lower"),
    "cover": ("Cover", "things in the picture that are named", "higher"),
    "cog": ("Cog", "named things that are not there but usually go with what is", "lower"),
    "accuracy": ("Accuracy", "yes/no questions answered right", "higher"),
    "precision": ("Precision", "said yes: share that is right", "higher"),
    "recall": ("Recall", "true answer yes: share answered yes", "higher"),
    "f1": ("F1", "of the answer yes", "higher"),
    "yes_rate": ("Yes-rate", "yes/no questions answered yes", "neither"),
    "tempting_accuracy": ("Tempting", "right about absent things that usually go with what is there", "higher"),
    "repeated": ("Repeated", "things named more often than they are there", "lower"),
    "miscoloured": ("Miscolour", "named things in a wrong colour", "lower"),
    "length": ("Length", "words of a caption", "neither"),
}
"""Metrics in the order they are shown: name, meaning, and which way is better."""
_HEADLINES = frozenset({"hal", "chair", "cover", "accuracy"})
GALLERY_NOTE = (
    "The gallery shows the first held-out pictures whose caption, of either model, names something that is not there."
)


def scenes_table(
    before: Sequence[Record], after: Sequence[Record] | None = None, *, resamples: int = 2000, seed: int = 0
) -> list[Row]:
    """Metrics with 95 % intervals; the scene is the unit that is resampled.

    Args:
        before: Graded answers of one model.
        after: Those of another one to the same prompts, in the same order; None: no comparison.
        resamples: Draws per interval.
        seed: Same seed, same intervals.

    Returns:
        A row for each metric of :data:`NAMES` that has something to divide by.

    Raises:
        DataError: The two do not answer the same prompts.
    """
    if after is not None:
        _check_paired(before, after)
    rows = [_row(metric, before, after, _Resampling(resamples=resamples, seed=seed)) for metric in NAMES]
    return [row for row in rows if not math.isnan(row.before.value)]


def scenes_gallery(
    groups: Sequence[Group], before: Sequence[Record], after: Sequence[Record] | None = None, *, number: int = 12
) -> list[GalleryItem]:
    """Captions with their hallucinated words and missed objects; see :data:`GALLERY_NOTE`.

    Args:
        groups: Hold the prompts that the records name.
        before: Graded answers of one model.
        after: Those of another one to the same prompts, in the same order.
        number: Most pictures.
    """
    prompts = {prompt.id: prompt for group in groups for prompt in group.prompts}
    sides = [before] if after is None else [before, after]
    titles = ("answer",) if after is None else ("before", "after")
    items = []
    for records in zip(*sides, strict=True):
        if records[0].kind == "caption" and any(record.wrong for record in records):
            items.append(_item(prompts[records[0].prompt], records, titles))
    return items[:number]


@dataclass(frozen=True, kw_only=True)
class _Resampling:
    resamples: int
    seed: int


def _row(metric: str, before: Sequence[Record], after: Sequence[Record] | None, how: _Resampling) -> Row:
    name, meaning, better = NAMES[metric]
    measure = ratio(*RATIOS[metric])
    scenes = [record.scene for record in before]

    def interval(records: Sequence[Record]) -> Interval:
        counts = _counts(metric, records)
        return bootstrap(counts, measure, clusters=scenes, resamples=how.resamples, seed=how.seed)

    difference = None
    if after is not None:
        sides = _counts(metric, before), _counts(metric, after)
        difference = paired_difference(*sides, measure, clusters=scenes, resamples=how.resamples, seed=how.seed)
    return Row(
        key=metric,
        name=name,
        meaning=meaning,
        before=interval(before),
        after=None if after is None else interval(after),
        difference=difference,
        better=better,
        unit="number" if metric == "length" else "percent",
        headline=metric in _HEADLINES,
    )


def _counts(metric: str, records: Sequence[Record]) -> dict[str, list[float]]:
    """The two columns that a metric is a ratio of."""
    return {name: values for name, values in columns(records).items() if name in RATIOS[metric]}


def _item(prompt: Prompt, records: Sequence[Record], titles: Sequence[str]) -> GalleryItem:
    scene = Scene.from_facts(prompt.facts["scene"])
    there = ", ".join(f"{item.colour} {item.shape}" for item in scene.objects)
    return GalleryItem(
        images=prompt.images,
        question=prompt.question,
        caption=f"there: {there}",
        answers=[
            Answer(title=title, text=record.text, wrong=record.wrong, missed=record.missed)
            for title, record in zip(titles, records, strict=True)
        ],
    )


def _check_paired(before: Sequence[Record], after: Sequence[Record]) -> None:
    if [record.prompt for record in before] != [record.prompt for record in after]:
        raise DataError(
            f"the two models answered different prompts ({len(before)} and {len(after)} answers)",
            remedy="Evaluate both with the same seed, scenes and questions",
        )
