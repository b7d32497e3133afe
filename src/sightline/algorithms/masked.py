"""Answers that stand twice in a batch: under their picture, and under a masked one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sightline.ops.reductions import segment_count, segment_position
from sightline.types import Batch

_OF_TOKENS = (
    "source",
    "target",
    "ref_logprobs",
    "old_logprobs",
    "old_entropy",
    "rollout_logprobs",
    "advantages",
    "values",
    "dependence",
)
_OF_RESPONSES = ("last", "rewards", "reward_parts")


@dataclass(frozen=True, kw_only=True, eq=False)
class Apart:
    """A batch taken apart by its pairs: (answer, the same answer under the masked picture)."""

    batch: Batch
    """The answers under their own picture alone, as if the others had never been laid out."""
    own: Tensor
    """[n] long: where their tokens stand in the whole batch."""
    masked: Tensor
    """[n] long: where the same tokens stand under the masked picture."""

    def spread(self, values: Tensor, size: int) -> Tensor:
        """[N] for the whole batch from [n]: 0 under the masked picture."""
        return values.new_zeros(size).index_copy(0, self.own, values)


def taken_apart(batch: Batch) -> Apart:
    """The two halves of a batch in which every answer has its pair."""
    laid_out = batch.structure
    size, (answers, beside) = batch.num_responses, laid_out.pairs.unbind(1)
    assert 2 * len(answers) == size, "every answer stands once under each picture"
    number = answers.new_full((size,), -1)
    number[answers] = torch.arange(len(answers), device=answers.device)
    own = (number[laid_out.response] >= 0).nonzero()[:, 0]
    response = number[laid_out.response[own]]
    # tokens of an answer stand in the same order under both pictures
    order = laid_out.response.argsort(stable=True)
    lengths = segment_count(laid_out.response, size)
    starts = lengths.cumsum(0) - lengths
    masked = order[starts[beside][response] + segment_position(response, len(answers))]
    alone = _alone(batch, *map(batch.sent, (own, response, answers)))
    if batch.on_host is not None:
        alone = replace(alone, on_host=_alone(laid_out, own, response, answers))
    return Apart(batch=alone, own=batch.sent(own), masked=batch.sent(masked))


def _alone(batch: Batch, own: Tensor, response: Tensor, answers: Tensor) -> Batch:
    """Some of its tokens, which belong to these responses, numbered anew; and no comparisons."""
    columns: dict[str, Any] = {name: _of(vars(batch)[name], own) for name in _OF_TOKENS}
    columns |= {name: _of(vars(batch)[name], answers) for name in _OF_RESPONSES}
    return replace(
        batch,
        response=response,
        group=batch.group[answers],
        pairs=batch.pairs[:0],
        pair_weight=batch.pair_weight[:0],
        pair_kind=(),
        **columns,
    )


def _of(column: Tensor | None, places: Tensor) -> Tensor | None:
    return None if column is None else column[places]
