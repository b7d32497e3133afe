"""Which prompts are attended to in one call while answers grow from them, some from each."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

SPARE = 2**21
"""Numbers of keys and values that are multiplied for nothing rather than in another call, on a CPU: about what it costs
to call. Elsewhere there is one call for all: a GPU reads keys and values once, however many places there are."""


class Part(NamedTuple):
    """Neighbouring prompts that are attended to together, in a rectangle of as many places for each."""

    prompts: slice
    rows: slice
    """Their answers."""
    width: int
    """Places of a prompt."""
    length: int
    """Of the longest prompt."""
    padded: bool
    """Whether another one is shorter."""
    places: Tensor | None
    """[R']: where the answers stand; None: they fill the rectangle."""

    @property
    def shape(self) -> tuple[int, int]:
        return self.prompts.stop - self.prompts.start, self.width

    def placed(self, all_rows: Tensor) -> Tensor:
        """[P',n,...] from [R,...]: its answers in their places, zeros elsewhere."""
        own = all_rows[self.rows]
        if self.places is not None:
            count = self.shape[0] * self.width
            own = own.new_zeros(count, *own.shape[1:]).index_copy_(0, self.places, own)
        return own.unflatten(0, self.shape)

    def taken(self, placed: Tensor) -> Tensor:
        """[R',...] from [P',n,...]."""
        rows = placed.flatten(0, 1)
        return rows if self.places is None else rows[self.places]


def parts_of(counts: Sequence[int], lengths: Sequence[int], size: int, device: torch.device) -> Iterator[Part]:
    """Prompts with so many answers each, of these lengths; those without any are left out. ``size``: numbers that a
    token's key and value have."""
    spare = SPARE if device.type == "cpu" else sys.maxsize
    first = row = 0
    while first < len(counts):
        end, width = first + 1, counts[first]
        while end < len(counts):
            wider, count = max(width, counts[end]), end + 1 - first
            empty = wider * count - sum(counts[first : end + 1])
            if empty * max(lengths[first : end + 1]) * size > spare:
                break
            end, width = end + 1, wider
        own, rows = counts[first:end], sum(counts[first:end])
        if rows:
            longest = max(lengths[first:end])
            places = [width * prompt + answer for prompt, here in enumerate(own) for answer in range(here)]
            yield Part(
                prompts=slice(first, end),
                rows=slice(row, row + rows),
                width=width,
                length=longest,
                padded=min(lengths[first:end]) < longest,
                places=None if rows == width * len(own) else torch.tensor(places, device=device),
            )
        first, row = end, row + rows
