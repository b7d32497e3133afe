"""A batch without a model: only what an algorithm reads."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sightline.types import Batch


def flat_batch(
    lengths: Sequence[int],
    pairs: Sequence[tuple[int, int]] = (),
    *,
    pair_weight: Sequence[float] | None = None,
    pair_kind: Sequence[str] | None = None,
    order: Sequence[int] | None = None,
    **columns: Sequence[float],
) -> Batch:
    """A batch of responses with so many scored tokens each; ``order`` shuffles the token axis."""
    response = torch.tensor([r for r, length in enumerate(lengths) for _ in range(length)])
    if order is not None:
        response = response[list(order)]
    nothing = torch.zeros(0, dtype=torch.long)
    size = response.shape[0]
    return Batch(
        layout="rows",
        tokens=nothing,
        positions=nothing,
        segment=nothing,
        parent=nothing,
        length=nothing,
        vision={},
        image_tokens=(),
        placeholder=nothing,
        feature=nothing,
        source=torch.arange(size),
        target=torch.zeros(size, dtype=torch.long),
        response=response,
        group=torch.zeros(len(lengths), dtype=torch.long),
        last=torch.zeros(len(lengths), dtype=torch.long),
        pairs=torch.tensor(pairs, dtype=torch.long).reshape(-1, 2),
        pair_weight=torch.tensor([1.0] * len(pairs) if pair_weight is None else list(pair_weight)),
        pair_kind=tuple(pair_kind or ["text"] * len(pairs)),
        num_groups=1,
        **{name: torch.tensor(values) for name, values in columns.items()},
    )
