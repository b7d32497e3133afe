"""Decoding with the model's own forward, prompt by prompt, for families that share nothing by mask.

The same interface as ``models/branches.py``. A prompt is still computed once, and its cache copied for each of its
answers; nothing else is shared.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from sightline.models.layout import lay_out
from sightline.models.policy import Policy
from sightline.rendered import RenderedGroup, RenderedResponse
from sightline.types import Group, Response


class RowBranches:
    """Caches of P prompts, each of which holds the prompt and the answers that grow from it."""

    def __init__(self, caches: Sequence[DynamicCache], inputs: Sequence[dict[str, Tensor]], n: int) -> None:
        """
        Args:
            caches: of the prompts, a row each.
            inputs: by prompt, what the model's forward takes beside every further token.
            n: answers per prompt.
        """
        self.caches, self.inputs, self.counts = list(caches), list(inputs), [n] * len(caches)
        for cache in self.caches:
            self._take(cache, [0] * n)

    def keep(self, rows: Tensor) -> None:
        """Keeps these rows, by their present numbers, ascending; at least one."""
        all_rows = torch.zeros(sum(self.counts), dtype=torch.bool, device=rows.device).index_fill_(0, rows, True)
        left = [own.nonzero()[:, 0].tolist() for own in all_rows.cpu().split(self.counts)]
        for cache, own, count in zip(self.caches, left, self.counts, strict=True):
            if 0 < len(own) < count:
                self._take(cache, own)
        self.caches = [cache for cache, own in zip(self.caches, left, strict=True) if own]
        self.inputs = [inputs for inputs, own in zip(self.inputs, left, strict=True) if own]
        self.counts = [len(own) for own in left if own]

    def join(self, other: RowBranches) -> None:
        """Takes in other branches of the same model, whose rows come behind its own."""
        self.caches += other.caches
        self.inputs += other.inputs
        self.counts += other.counts

    def widen(self, copies: int) -> None:
        """So many copies of every branch, next to each other, which then grow apart."""
        for cache, count in zip(self.caches, self.counts, strict=True):
            self._take(cache, [row for row in range(count) for _ in range(copies)])
        self.counts = [count * copies for count in self.counts]

    def piece(self, row: int, since: int) -> DynamicCache:
        """A copy of all that a branch holds, its prompt included: recurrent layers cannot be cut at ``since``."""
        prompt = 0
        while row >= self.counts[prompt]:
            row -= self.counts[prompt]
            prompt += 1
        cache = copy.deepcopy(self.caches[prompt])
        self._take(cache, [row])
        return cache

    def regrown(self, owner: Tensor, paths: Sequence[Sequence[DynamicCache]]) -> RowBranches:
        """Branches from the same prompts that begin with answers computed before; every row becomes a prompt of its
        own, since the rows of a cache are equally long.

        Args:
            owner: [R'] prompts of the rows, by their present indices, ascending.
            paths: for each row, the pieces of its answer in their order.
        """
        owners = owner.tolist()
        caches = [
            copy.deepcopy(path[-1] if path else self.caches[owner]) for owner, path in zip(owners, paths, strict=True)
        ]
        return RowBranches(caches, [self.inputs[owner] for owner in owners], 1)

    @staticmethod
    def _take(cache: DynamicCache, rows: Sequence[int]) -> None:
        """Keeps these rows of a cache, in their order: the one operation that recurrent layers have as well."""
        cache.reorder_cache(torch.tensor(rows))


def prefill_rows(policy: Policy, groups: Sequence[RenderedGroup], n: int) -> tuple[RowBranches, Tensor, Tensor]:
    """Computes the prompts of the groups one by one, inside ``decoding``; arguments and results as ``prefill``."""
    caches, inputs, logits, positions = [], [], [], []
    for group in groups:
        batch = lay_out([_alone(group)], "rows", policy.family, policy.config).to(policy.device)
        ids = batch.tokens[None, :-1]  # without the answer that nothing reads
        marks = torch.zeros_like(ids, dtype=torch.bool)
        marks[0, batch.placeholder] = True
        block = torch.full_like(ids, -1) if batch.block is None else batch.block[None, :-1]
        more = policy.family.row_inputs(marks, block >= 0, batch.vision)
        cache = DynamicCache(config=policy.config)
        output = policy.base(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            **batch.vision,
            **more,
        )
        caches.append(cache)
        inputs.append(policy.family.step_inputs(more))
        logits.append(output.logits[0, -1])
        positions.append(batch.positions[..., -1])
    return RowBranches(caches, inputs, n), torch.stack(logits), torch.stack(positions, dim=-1)


def step_rows(policy: Policy, branches: RowBranches, tokens: Tensor, positions: Tensor) -> Tensor:
    """One more token [R] at positions [R] or [3,R] for every branch; the logits [R,V] of the next one."""
    logits = []
    places = positions.split(branches.counts, dim=-1)
    for cache, inputs, own, place in zip(
        branches.caches, branches.inputs, tokens.split(branches.counts), places, strict=True
    ):
        output = policy.base(
            input_ids=own[:, None],
            position_ids=place[..., None],
            past_key_values=cache,
            use_cache=True,
            **{key: value.expand(len(own), *value.shape[1:]) for key, value in inputs.items()},
        )
        logits.append(output.logits[:, -1])
    return torch.cat(logits)


def _alone(group: RenderedGroup) -> RenderedGroup:
    """The prompt with a response of one token, whose position is where an answer begins."""
    (prompt,) = group.group.prompts
    return RenderedGroup(
        group=Group(prompts=(prompt,), responses=(Response(text=""),)),
        prompts=group.prompts,
        responses=(RenderedResponse(prompt=0, tokens=(0,), trained=(True,)),),
        images=group.images,
    )
