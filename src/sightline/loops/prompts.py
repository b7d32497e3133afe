"""What a loop asks: the prompts of its recipe, and those of each round."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from pathlib import Path

from sightline.data.load import Account, load_prompts
from sightline.data.schema import write_groups
from sightline.errors import RecipeError
from sightline.recipes.loop import LoopRecipe
from sightline.types import Group

_log = logging.getLogger(__name__)
PROMPTS = "prompts.jsonl"


def read_prompts(loop: LoopRecipe, root: Path) -> list[Group]:
    """The prompts as their source holds them now, kept in ``prompts.jsonl``.

    Raises:
        DataError: A row is wrong, or a picture cannot be read.
        RecipeError: A round asks more prompts than there are.
    """
    account = Account(cache_dir=root / "images")
    prompts = load_prompts(loop.prompts, account)
    for note in account.report.notes:
        _log.info(note)
    if loop.prompts_per_round is not None and loop.prompts_per_round > len(prompts):
        raise RecipeError(
            f"prompts_per_round is {loop.prompts_per_round}, and {loop.prompts.path} has {len(prompts)}. Lower it, or "
            "leave it out."
        )
    write_groups(root / PROMPTS, prompts)
    return prompts


def asked_in(loop: LoopRecipe, root: Path, number: int, prompts: Sequence[Group]) -> list[Group]:
    """Those of the prompts that a round asks, kept in its folder where they are not all."""
    if loop.prompts_per_round is None:
        return list(prompts)
    groups = [prompts[place] for place in places_of(len(prompts), loop.prompts_per_round, number, loop.seed)]
    write_groups(round_prompts(loop, root, number), groups, below=root)
    return groups


def round_prompts(loop: LoopRecipe, root: Path, number: int) -> Path:
    """Group file of what a round asks."""
    return root / PROMPTS if loop.prompts_per_round is None else root / f"round-{number}" / PROMPTS


def places_of(total: int, asked: int, number: int, seed: int) -> list[int]:
    """Which prompts a round asks: the next ones in a drawn order, which is gone through again and again.

    >>> [sorted(places_of(5, 2, number, seed=0)) for number in (1, 2, 3)]
    [[0, 2], [1, 4], [2, 3]]
    """
    order = list(range(total))
    random.Random(f"prompts of {seed}").shuffle(order)
    start = (number - 1) * asked
    return sorted(order[place % total] for place in range(start, start + asked))
