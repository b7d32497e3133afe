import threading
from collections.abc import Sequence

import pytest
import torch

from sightline.types import Batch, Scores


class OneProcess:
    rank, size = 0, 1

    def sum(self, value):
        return value


@pytest.fixture
def world():
    return OneProcess()


def _flat_batch(
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
        vision={},
        image_tokens=(),
        placeholder=nothing,
        feature=nothing,
        source=torch.arange(size),
        target=torch.zeros(size, dtype=torch.long),
        response=response,
        group=torch.zeros(len(lengths), dtype=torch.long),
        last=nothing,
        pairs=torch.tensor(pairs, dtype=torch.long).reshape(-1, 2),
        pair_weight=torch.tensor([1.0] * len(pairs) if pair_weight is None else list(pair_weight)),
        pair_kind=tuple(pair_kind or ["text"] * len(pairs)),
        num_groups=1,
        **{name: torch.tensor(values) for name, values in columns.items()},
    )


@pytest.fixture
def flat_batch():
    return _flat_batch


class Ranks:
    """So many ranks as threads; ``sum`` meets the others."""

    def __init__(self, size):
        self.size, self.barrier, self.values = size, threading.Barrier(size, timeout=20), [None] * size

    def run(self, work):
        """Results of ``work(world)`` on every rank."""
        results = [None] * self.size
        worlds = [_Rank(rank, self) for rank in range(self.size)]

        def one(rank):
            results[rank] = work(worlds[rank])

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results


class _Rank:
    def __init__(self, rank, ranks):
        self.rank, self.size, self._ranks = rank, ranks.size, ranks

    def sum(self, value):
        self._ranks.values[self.rank] = value
        self._ranks.barrier.wait()
        total = sum(self._ranks.values)
        self._ranks.barrier.wait()
        return total


def _step(algorithm, batches, logprobs, world=None, counted=None):
    """Loss of a step and gradients of its log-probabilities, taken as the loop takes them: survey, count, then one
    micro-batch after the other. ``logprobs``: one list per micro-batch; ``counted``: False for company only."""
    world = world or OneProcess()
    counted = counted or [True] * len(batches)
    leaves = [torch.tensor(values, requires_grad=True) for values in logprobs]
    if "old_logprobs" in algorithm.needs:
        seen = [batch.with_columns(old_logprobs=leaf.detach()) for batch, leaf in zip(batches, leaves, strict=True)]
        batches = algorithm.prepare_step(seen, counted, world)
    loss = 0.0
    for batch, leaf, counts in zip(batches, leaves, counted, strict=True):
        for term in algorithm.loss(batch, Scores(logprobs=leaf), world)[0]:
            own = sum(b.count(term.unit) for b, c in zip(batches, counted, strict=True) if c)
            part = counts * term.coefficient * term.values.sum() / world.sum(torch.tensor(own))
            part.backward(retain_graph=True)
            loss += part.item()
    return loss, [leaf.grad for leaf in leaves]


@pytest.fixture
def step():
    return _step


@pytest.fixture
def two_ranks():
    return Ranks(2)
