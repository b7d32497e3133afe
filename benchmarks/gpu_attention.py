"""The tree's attention on one device: its forms, trees to try them on, and what they must give."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import sightline.models  # noqa: F401  (makes torchvision importable, so before transformers)

# isort: split

import torch
from torch import Tensor

from sightline.models.attention import tree_attention
from sightline.models.attention_plan import FORMS, plan_attention
from sightline.models.attention_plan import Form as PlanForm
from sightline.types import Batch

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""query [1,H,T,d], key and value [1,Hkv,T,d] -> [1,T,H,d], as a layer calls it."""
Form = Callable[[Batch, int | None], Attend]
"""Plans the attention of a batch, with a window or without (None: all is seen)."""


def forms() -> dict[str, Form]:
    """Every form that a policy can run, by name."""
    return {name: partial(_planned, name) for name in FORMS}


WINDOWED = frozenset(FORMS) - {"merge"}
"""Forms that take a window."""


def _planned(name: PlanForm, batch: Batch, window: int | None) -> Attend:
    plan, module = plan_attention(batch, name), torch.nn.Module()
    return lambda q, k, v: tree_attention(module, q, k, v, None, plan, sliding_window=window)[0]


def windowed_mask(batch: Batch, dtype: torch.dtype, window: int | None) -> Tensor:
    """[T,T] additive, from the definition: a token sees what is before it on its path, itself among it, and of that
    the last ``window``."""
    device, parents = batch.segment.device, batch.parent.tolist()
    sees = torch.eye(len(parents), dtype=torch.bool)
    for segment, parent in enumerate(parents):
        if parent >= 0:
            sees[segment] |= sees[parent]
    path = path_positions(batch)
    behind = path[:, None] - path[None, :]
    seen = sees.to(device)[batch.segment][:, batch.segment] & (behind >= 0)
    if window is not None:
        seen &= behind < window
    return torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill(~seen, float("-inf"))


def path_positions(batch: Batch) -> Tensor:
    """[T]: how many tokens come before each on its path from the root."""
    lengths = batch.length.tolist()
    before: list[int] = []
    for parent in batch.parent.tolist():
        before.append(before[parent] + lengths[parent] if parent >= 0 else 0)
    places = [start + place for start, length in zip(before, lengths, strict=True) for place in range(length)]
    return torch.tensor(places, device=batch.segment.device)


# --- trees ---


@dataclass(frozen=True, kw_only=True)
class Tree:
    """Segments in the order of the layout: each before its children."""

    lengths: tuple[int, ...]
    parents: tuple[int, ...]

    def batch(self, device: str) -> Batch:
        """As far as attention reads it."""
        lengths = torch.tensor(self.lengths)
        none, tokens = torch.empty(0, dtype=torch.long), int(lengths.sum())
        return Batch(
            layout="tree",
            tokens=torch.zeros(tokens, dtype=torch.long),
            positions=torch.arange(tokens),
            segment=torch.repeat_interleave(torch.arange(len(lengths)), lengths),
            parent=torch.tensor(self.parents),
            length=lengths,
            vision={},
            image_tokens=(),
            placeholder=none,
            feature=none,
            source=none,
            target=none,
            response=none,
            group=none,
            last=none,
            pairs=none.view(0, 2),
            pair_weight=none.float(),
            pair_kind=(),
            num_groups=sum(parent < 0 for parent in self.parents),
        ).to(torch.device(device))


def groups_of(trunk: int, branches: Sequence[int], groups: int = 1) -> Tree:
    """Groups of one prompt each, all with answers of these lengths."""
    lengths, parents = [], []
    for _ in range(groups):
        root = len(lengths)
        lengths += [trunk, *branches]
        parents += [-1, *([root] * len(branches))]
    return Tree(lengths=tuple(lengths), parents=tuple(parents))


MOST_TOKENS = 2400
"""Of a random tree: float64 scores of more would fill the memory."""


def random_tree(rng: random.Random, longest: int) -> Tree:
    """One to three groups, ragged, up to three levels below the trunk; trunks up to ``longest`` tokens, branches to a
    quarter of that. At least 16 tokens: where most see themselves alone, the gradient of a query is only rounding."""
    while True:
        tree = _any_tree(rng, longest)
        if 16 <= sum(tree.lengths) <= MOST_TOKENS:
            return tree


def _any_tree(rng: random.Random, longest: int) -> Tree:
    lengths: list[int] = []
    parents: list[int] = []

    def grow(parent: int, depth: int) -> None:
        segment = len(lengths)
        lengths.append(rng.randint(1, longest if parent < 0 else max(1, longest // 4)))
        parents.append(parent)
        for _ in range(rng.randint(1, 4) if depth else 0):
            grow(segment, depth - 1 if rng.random() < 0.5 else 0)

    for _ in range(rng.randint(1, 3)):
        grow(-1, rng.randint(0, 3))
    return Tree(lengths=tuple(lengths), parents=tuple(parents))


# --- inputs, and what must come out ---


@dataclass(frozen=True, kw_only=True)
class Heads:
    """What attention gets in one layer of a model."""

    query: int
    key: int
    size: int


def random_inputs(tokens: int, heads: Heads, device: str, dtype: torch.dtype, *, views: bool) -> list[Tensor]:
    """Query, key and value [1,H,T,d], with gradients: contiguous, or views of [1,T,H,d] as a model makes them."""
    made = []
    for count in (heads.query, heads.key, heads.key):
        shape = (1, tokens, count, heads.size) if views else (1, count, tokens, heads.size)
        one = torch.randn(shape, device=device, dtype=dtype)
        made.append((one.transpose(1, 2) if views else one).requires_grad_())
    return made


def exact(mask: Tensor, inputs: Sequence[Tensor], upstream: Tensor) -> list[Tensor]:
    """Output [1,T,H,d] and gradients of query, key and value in float64, with an additive mask and plain products."""
    query, key, value = (part.detach().double().requires_grad_() for part in inputs)
    shared = query.shape[1] // key.shape[1]
    keys, values = (part.repeat_interleave(shared, dim=1) for part in (key, value))
    scores = query @ keys.transpose(2, 3) / query.shape[3] ** 0.5
    weights = (scores + mask).softmax(dim=-1)
    output = (weights @ values).transpose(1, 2)
    return [output.detach(), *torch.autograd.grad(output, (query, key, value), upstream.double())]


def both_passes(attend: Attend, inputs: Sequence[Tensor], upstream: Tensor) -> list[Tensor]:
    """Output and gradients."""
    output = attend(*inputs)
    return [output.detach(), *torch.autograd.grad(output, list(inputs), upstream)]


def relative(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm."""
    return float((found.double() - expected).norm() / expected.norm())


def errors(found: Sequence[Tensor], expected: Sequence[Tensor]) -> dict[str, Any]:
    """Relative error of the output and of each gradient."""
    names = ("output", "query", "key", "value")
    return {name: relative(*pair) for name, pair in zip(names, zip(found, expected, strict=True), strict=True)}
