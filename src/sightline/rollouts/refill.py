"""Sampling in a batch that stays full: as prompts are finished, waiting ones are computed and take their places."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sightline.models.branches import Branches, prefill, step
from sightline.models.policy import Policy
from sightline.models.row_branches import RowBranches, prefill_rows, step_rows
from sightline.ops.sampling import draw, sampling_probabilities
from sightline.recipes.schema import SamplingSpec
from sightline.rendered import RenderedGroup
from sightline.rollouts.engine import check_finite
from sightline.types import Group

FREE, HALF = 0.25, 0.5
"""Shares of the batch that are free before more prompts are computed, as together they cost less; before prompts with
the same pictures are parted."""


def begin(policy: Policy, groups: Sequence[RenderedGroup], n: int) -> tuple[Branches | RowBranches, Tensor, Tensor]:
    """The prompts, each computed once, inside ``decoding``; see ``models.branches.prefill``."""
    return (prefill if policy.family.branches else prefill_rows)(policy, groups, n)


def go_on(policy: Policy, branches: Branches | RowBranches, tokens: Tensor, positions: Tensor) -> Tensor:
    """One more token for every branch; see ``models.branches.step``."""
    if isinstance(branches, Branches):
        return step(policy, branches, tokens, positions)
    return step_rows(policy, branches, tokens, positions)


class Sample(NamedTuple):
    """An answer that has ended."""

    tokens: list[int]
    logprobs: list[float]
    likeliest: list[list[tuple[int, float]]]
    """At each place the likeliest tokens of the policy itself and their log-probabilities, the likeliest first; as many
    as were asked for."""


class Sampler:
    """Samples answers to many prompts with a policy, inside its ``decoding``.

    >>> for finished in Sampler(policy, sampling, forbidden=ids, ends=ids).run(groups, render, seed=0):
    ...     ...  # doctest: +SKIP
    """

    def __init__(
        self,
        policy: Policy,
        sampling: SamplingSpec,
        *,
        forbidden: Sequence[int],
        ends: Sequence[int],
        likeliest: int = 0,
    ) -> None:
        """
        Args:
            policy: as it is at each step.
            sampling: how.
            forbidden: ids that are never sampled.
            ends: ids that end an answer.
            likeliest: tokens that are told of at each place of an answer.
        """
        self.policy, self.sampling, self.likeliest = policy, sampling, likeliest
        # greedy answers to one prompt are equal: one is made
        self.n = sampling.n if sampling.temperature > 0 else 1
        self._forbidden, self._ends = (
            torch.tensor(list(ids), dtype=torch.long, device=policy.device) for ids in (forbidden, ends)
        )

    def run(
        self,
        groups: Sequence[Group],
        render: Callable[[Group], RenderedGroup],
        seed: int,
        on_tokens: Callable[[Tensor], None] | None = None,
    ) -> Iterator[dict[int, list[Sample]]]:
        """After each step in which prompts are finished these, by index, with their ``n`` answers.

        Args:
            groups: in the order in which they are taken; each with one prompt, without responses.
            render: makes one ready for the policy, when its turn comes.
            seed: see ``uniform_numbers``.
            on_tokens: gets the next token of every answer that is left.
        """
        pictures = [group.prompts[0].images for group in groups]
        answers: dict[int, dict[int, Sample]] = {}  # of the prompts in the batch, by number, as far as they have ended
        running: _Running | None = None
        first = 0
        while first < len(groups) or running is not None:
            chunk = range(first, first + admitted(pictures, first, len(answers), self.sampling.batch_size))
            if chunk:
                more = self._start(chunk, [groups[index] for index in chunk], render, seed)
                running = more if running is None else running.joined(more)
                answers |= {index: {} for index in chunk}
                first = chunk.stop
            assert running is not None  # an empty batch is filled
            tokens, going = self._draw(running)
            if on_tokens is not None:
                on_tokens(tokens)
            ended = list(running.rows.ended(~going))
            for number, sample in ended:
                answers[number // self.n][number % self.n] = sample
            running = self._next(running, tokens, going)
            finished = {
                index: [one for _, one in sorted(answers.pop(index).items())]
                for index in {number // self.n for number, _ in ended}
                if len(answers[index]) == self.n
            }
            if finished:
                yield finished

    def _start(
        self, chunk: range, groups: Sequence[Group], render: Callable[[Group], RenderedGroup], seed: int
    ) -> _Running:
        """Computes prompts, whose answers all begin."""
        branches, logits, positions = begin(self.policy, [render(group) for group in groups], self.n)
        uniform = uniform_numbers(groups, self.sampling, self.n, seed).to(logits.device)
        near = min(self.likeliest, logits.shape[-1])
        rows = _Rows(
            number=torch.arange(chunk.start * self.n, chunk.stop * self.n, device=logits.device),
            age=torch.zeros(len(uniform), dtype=torch.long, device=logits.device),
            begin=positions.movedim(-1, 0).repeat_interleave(self.n, 0),
            uniform=uniform,
            tokens=torch.zeros_like(uniform, dtype=torch.long),
            logprobs=torch.zeros_like(uniform),
            near=uniform.new_zeros((*uniform.shape, near), dtype=torch.long),
            near_logprobs=uniform.new_zeros((*uniform.shape, near)),
        )
        return _Running(branches, rows, logits.repeat_interleave(self.n, 0))

    def _draw(self, running: _Running) -> tuple[Tensor, Tensor]:
        """The next token [R] of each answer, which is noted, and which answers go on [R]: on the host, which reads
        nothing else of a token."""
        rows, sampling, logits = running.rows, self.sampling, running.logits.float()
        total = logits.logsumexp(-1)
        if self.likeliest:
            near, place = logits.topk(rows.near.shape[-1]), torch.arange(len(logits), device=logits.device)
            rows.near[place, rows.age] = near.indices
            rows.near_logprobs[place, rows.age] = near.values - total[:, None]
        allowed = logits.index_fill_(1, self._forbidden, -torch.inf)  # nothing reads them as they were again
        at = rows.age[:, None]
        if sampling.temperature == 0:
            tokens = allowed.argmax(-1)
        else:
            kept = sampling_probabilities(allowed, sampling.temperature, sampling.top_k, sampling.top_p)
            # of what is no number nothing is drawn: told where the answer ends
            tokens = draw(kept, rows.uniform.gather(1, at)[:, 0]).clamp_(max=allowed.shape[-1] - 1)
        # under the policy itself: temperature 1, whole vocabulary
        logprobs = allowed.gather(1, tokens[:, None])[:, 0] - total
        rows.tokens.scatter_(1, at, tokens[:, None])
        rows.logprobs.scatter_(1, at, logprobs[:, None])
        rows.age.add_(1)
        return tokens, (~torch.isin(tokens, self._ends) & (rows.age < sampling.max_new_tokens)).cpu()

    def _next(self, running: _Running, tokens: Tensor, going: Tensor) -> _Running | None:
        """The answers that go on, one token further; None: there are none."""
        branches, rows = running.branches, running.rows
        kept = going.nonzero()[:, 0]
        if not len(kept):
            return None
        if len(kept) < len(going):
            kept = kept.to(tokens.device)
            branches.keep(kept)
            rows, tokens = rows.kept(kept), tokens[kept]
        positions = rows.begin.movedim(0, -1) + rows.age - 1
        return _Running(branches, rows, go_on(self.policy, branches, tokens, positions))


class _Rows(NamedTuple):
    """Answers as they grow, by row."""

    number: Tensor
    """[R]: index of the prompt times answers per prompt, and the number of the answer."""
    age: Tensor
    """[R]: tokens so far."""
    begin: Tensor
    """[R] or [R,3]: position of the first token."""
    uniform: Tensor
    """[R,max_new_tokens]: random numbers."""
    tokens: Tensor
    """[R,max_new_tokens]; what stands behind the age means nothing."""
    logprobs: Tensor
    near: Tensor
    """[R,max_new_tokens,K]: the likeliest tokens at each place."""
    near_logprobs: Tensor

    def kept(self, rows: Tensor) -> _Rows:
        return _Rows(*(table[rows] for table in self))

    def ended(self, which: Tensor) -> Iterator[tuple[int, Sample]]:
        """Number and tokens of some rows [R], told on the host."""
        if not bool(which.any()):
            return
        gone = self.kept(which.nonzero()[:, 0].to(self.age.device))
        told = zip(*(table.tolist() for table in (gone.number, gone.age, gone.tokens, gone.logprobs)), strict=True)
        for row, (number, age, tokens, logprobs) in enumerate(told):
            check_finite(logprobs[:age])
            yield number, Sample(tokens[:age], logprobs[:age], gone.likeliest(row, age))

    def likeliest(self, row: int, age: int) -> list[list[tuple[int, float]]]:
        """What was likeliest at each place of an answer; empty where it is not told."""
        if not self.near.shape[-1]:
            return [[] for _ in range(age)]
        near, values = self.near[row, :age].tolist(), self.near_logprobs[row, :age].tolist()
        return [list(zip(*place, strict=True)) for place in zip(near, values, strict=True)]


class _Running(NamedTuple):
    """The batch between two steps."""

    branches: Branches | RowBranches
    rows: _Rows
    logits: Tensor
    """[R,V] of each answer's next token."""

    def joined(self, more: _Running) -> _Running:
        """With the answers of prompts that have just been computed behind."""
        self.branches.join(more.branches)  # type: ignore[arg-type]  # both are of the kind that the family has
        rows = _Rows(*(torch.cat(pair) for pair in zip(self.rows, more.rows, strict=True)))
        return _Running(self.branches, rows, torch.cat([self.logits, more.logits]))


def admitted(pictures: Sequence[tuple[str, ...]], first: int, running: int, size: int) -> int:
    """How many prompts, from the first that waits, join a batch now.

    An empty batch is filled. Else some wait for others: until a quarter of the batch is free, and until all with the
    same pictures can come together, which are then computed once, or half of it is free.

    Args:
        pictures: of each prompt, the same next to each other.
        first: that waits.
        running: prompts in the batch.
        size: most prompts of a batch.
    """
    waiting = len(pictures) - first
    count = min(size - running, waiting)
    if running == 0:
        return count
    whole = count
    while 0 < whole < waiting and pictures[first + whole] and pictures[first + whole] == pictures[first + whole - 1]:
        whole -= 1
    if whole >= min(FREE * size, waiting):
        return whole
    return count if count >= HALF * size else 0


def uniform_numbers(groups: Sequence[Group], sampling: SamplingSpec, n: int, seed: int) -> Tensor:
    """[P * n, max_new_tokens] in [0,1): the random numbers of each answer, its own stream."""
    rows = []
    for group in groups:
        for sample in range(n):
            digest = hashlib.sha256(f"{seed}/{group.id}/{sample}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
            # the default dtype is another one while another thread loads a model
            rows.append(torch.rand(sampling.max_new_tokens, generator=generator, dtype=torch.float32))
    return torch.stack(rows)
