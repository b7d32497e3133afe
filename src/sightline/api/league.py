"""Methods against each other: ``league``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sightline.api.given import path_of
from sightline.demo.league import League, run_league
from sightline.demo.sizes import LeagueSize, folder_of


def league(
    methods: Sequence[str] = (),
    *,
    seeds: Sequence[int] = (0, 1, 2),
    size: LeagueSize | None = None,
    out: str | Path | None = None,
    bases: Sequence[str | Path] = (),
) -> League:
    """Compares methods: one model to start from, one set of answers, one budget, in the built-in world. What is
    finished is not done again.

    Args:
        methods: names, as ``sightline compare --names`` shows them; none: all.
        seeds: of world, base and runs.
        size: the budget: ``LeagueSize`` for methods that learn from given answers, ``OnlineSize`` for those that
            sample their own, ``LoopSize`` for loops; None: the first, with its defaults.
        out: folder for everything; None: ``runs/compare``, ``runs/compare_online`` or ``runs/compare_loops``.
        bases: for each seed a model to start from, in the place of an SFT.

    Returns:
        ``standings``, the league table, and ``failed``, why others are not in it. ``report.html`` lies in ``out``.

    Raises:
        RecipeError: an unknown method, a seed that stands twice, not as many bases as seeds, or overrides that no
            method can take.
        CheckpointError: the folder holds a league with another budget, or of another base.
    """
    budget = size or LeagueSize()
    folder = folder_of(budget) if out is None else path_of(out, "out")
    return run_league(
        seeds=tuple(seeds),
        methods=tuple(methods),
        out=folder,
        bases=tuple(path_of(base, "a base") for base in bases),
        size=budget,
    )
