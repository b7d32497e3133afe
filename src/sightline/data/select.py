"""Which samples of a source set to keep for the sake of a target set, from a feature vector of each.

The source is scored against the target by optimal transport: a sample has a low score where more weight on it would
bring the source closer to the target. With gradients of a reward model as features this is the data selection of a
staged reward model (RoVRM, arXiv 2408.12109; features as in LESS, arXiv 2402.04333; scores as in LAVA, arXiv
2305.00054). What the RoVRM paper leaves open is chosen here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from sightline.errors import RecipeError
from sightline.files import replace_file
from sightline.ops.transport import calibrated, cosine_cost, sinkhorn
from sightline.types import Group

Method = Literal["transport", "cost", "nearest", "random"]

_TOLERANCE = 1e-4
"""Of the marginals, summed. Where the two sets share rows, further digits take thousands of iterations."""


def selection_scores(
    source: Tensor, target: Tensor, method: Method, *, regularisation: float = 0.05, chunk: int = 1024, seed: int = 0
) -> Tensor:
    """[n] scores of the sources; the lowest are to be kept.

    Args:
        source: [n,d] features.
        target: [m,d].
        method: ``transport``: calibrated dual potential. ``cost``: mean cost at which a source's weight is moved.
            ``nearest``: cost of the nearest target. ``random``: for comparison.
        regularisation: of the transport, as a fraction of the mean cost, > 0.
        chunk: targets per problem. A larger target set is dealt into random chunks, whose scores are averaged.
        seed: of the chunks and of ``random``.

    Raises:
        RecipeError: fewer than two sources, no target, or a regularisation that is not above 0.
        DivergenceError: transport does not converge.
    """
    check_selection(source.shape[0], target.shape[0], regularisation)
    generator = torch.Generator().manual_seed(seed)
    if method == "random":
        return torch.rand(source.shape[0], generator=generator, dtype=torch.float64)
    order = torch.randperm(target.shape[0], generator=generator)
    count = -(-target.shape[0] // chunk)
    parts = [_chunk_scores(cosine_cost(source, target[order[k::count]]), method, regularisation) for k in range(count)]
    each = torch.stack(parts)
    return each.min(0).values if method == "nearest" else each.mean(0)


def check_selection(sources: int, targets: int, regularisation: float, keep: int = 1) -> None:
    """Whether so many sources can be scored for so many targets, and ``keep`` of them kept.

    Raises:
        RecipeError: fewer than two sources, no target, a regularisation that is not above 0, or more to keep than
            there are.
    """
    if sources < 2 or targets < 1 or not regularisation > 0:
        raise RecipeError(
            f"selection from {sources} for {targets} samples with regularisation {regularisation}: "
            "expected two sources, one target and a regularisation above 0. Give more rows, or correct the option."
        )
    if not 1 <= keep <= sources:
        raise RecipeError(f"{keep} of {sources} samples cannot be kept. Give a number from 1 to that.")


def _chunk_scores(cost: Tensor, method: Method, regularisation: float) -> Tensor:
    if method == "nearest":
        return cost.min(1).values
    solved = sinkhorn(cost, regularisation * float(cost.mean().clamp(min=1e-12)), tolerance=_TOLERANCE)
    return calibrated(solved.source) if method == "transport" else (solved.plan * cost).sum(1) / solved.plan.sum(1)


def lowest(scores: Tensor, keep: int) -> list[int]:
    """Places of the ``keep`` lowest scores, in order of place. Of equal scores the first are kept.

    Raises:
        RecipeError: more to keep than there are.
    """
    if not 1 <= keep <= scores.shape[0]:
        raise RecipeError(f"{keep} of {scores.shape[0]} samples cannot be kept. Give a number from 1 to that.")
    return sorted(torch.sort(scores, stable=True).indices[:keep].tolist())


def write_scores(path: Path, groups: Sequence[Group], scores: Tensor, kept: Sequence[int]) -> None:
    """One line of JSON per source group: ``id``, ``score`` and ``kept``; whole or not at all."""
    chosen = set(kept)
    rows = [
        {"id": group.id, "score": score, "kept": index in chosen}
        for index, (group, score) in enumerate(zip(groups, scores.tolist(), strict=True))
    ]
    replace_file(path, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))
