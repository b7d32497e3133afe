import threading

import flat
import pytest
import torch

from sightline.types import Scores


class OneProcess:
    rank, size = 0, 1

    def sum(self, value):
        return value


@pytest.fixture
def world():
    return OneProcess()


@pytest.fixture
def flat_batch():
    return flat.flat_batch


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
