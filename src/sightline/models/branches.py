"""Decoding many answers from prompts that are computed once: a shared trunk, and a branch per answer.

The prompts of a batch are prefilled together without padding, as one flat tree (so a picture, or a
beginning, that several prompts share is computed once). Their keys and values stay one copy per
prompt however many answers grow from it: each decoding step attends to the trunk with all of a
prompt's answers at once, and to each answer's own few tokens. Further prompts may join at any step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, DynamicCache
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from sightline.models.attention import Scoring, tree_attention
from sightline.models.attention_plan import TreePlan
from sightline.models.branch_parts import Part, parts_of
from sightline.models.flat import flat_output, flat_plan
from sightline.models.layout import lay_out
from sightline.models.policy import Policy
from sightline.rendered import ImageInputs, RenderedGroup, RenderedPrompt, RenderedResponse
from sightline.types import Batch, Group, Response

BRANCHES = "sightline_branches"
"""Name of the attention implementation that a decoder is switched to while it decodes."""
FIRST_CAPACITY = 32
COMPACT_BELOW = 0.5
"""Prompts whose answers have all ended are given up once the others are no more than this share of all."""
Piece = Sequence[tuple[Tensor, Tensor]]
"""Keys and values [H,t,d] of some tokens of one branch, by layer."""


class Branches:
    """Keys and values of P prompts, and of the R answers that grow from them, in every layer.

    Rows are the answers, prompt by prompt, as many of each as there are. They may be of different ages, as prompts come
    at different steps: what has grown is aligned on the right, so that all write their next token into the same column.
    """

    def __init__(self, trunk: Sequence[tuple[Tensor, Tensor]], lengths: Tensor, owner: Tensor) -> None:
        """
        Args:
            trunk: per layer, keys and values [P,H,L,d] of the prompts, padded on the right.
            lengths: [P] tokens of each prompt.
            owner: [R] prompt of each answer, ascending.
        """
        self.trunk = list(trunk)
        self.lengths, self.owner = lengths, owner
        self.ages = torch.zeros_like(owner)
        """[R]: tokens that each branch holds."""
        self.slots = torch.arange(len(owner), device=owner.device)
        """[R]: where each branch stands in ``grown``."""
        self.grown: list[tuple[Tensor, Tensor]] = [
            (self._room(keys, FIRST_CAPACITY), self._room(values, FIRST_CAPACITY)) for keys, values in self.trunk
        ]
        """Per layer, keys and values [R,H,capacity,d]; a branch holds the last of the ``width`` columns so far."""
        self._hidden: dict[tuple[int | None, int], Tensor | None] = {}
        self._measure()

    @property
    def prompts(self) -> int:
        return self.lengths.shape[0]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring) -> Tensor:
        """One new token per row: notes its key and value [R,H,1,d], and attends with query [R,H*g,1,d] to its branch
        and trunk.

        Returns:
            [R,1,H*g,d].
        """
        heads, size = key.shape[1], key.shape[-1]
        keys, values = (self._note(layer, part, new) for part, new in enumerate((key, value)))
        query = (query * scoring.scale).view(len(query), heads, -1, size)  # [R,H,g,d]: g query heads share a key head
        grown = scoring.capped(self._in_slots(query) @ keys.transpose(-1, -2))
        if (hidden := self._unseen(None, scoring.window)) is not None:
            grown = grown.masked_fill(hidden, -torch.inf)
        grown = self._in_rows(grown)
        found = [self._attend_trunk(layer, part, query, grown, scoring) for part in self._parts]
        seen, weights = (parts[0] if len(parts) == 1 else torch.cat(parts) for parts in zip(*found, strict=True))
        output: Tensor = seen + self._in_rows(self._in_slots(weights) @ values)
        return output.reshape(len(query), 1, -1, size)

    def _attend_trunk(
        self, layer: int, part: Part, query: Tensor, grown: Tensor, scoring: Scoring
    ) -> tuple[Tensor, Tensor]:
        """Of a part's rows [R'] what they see of their trunks [R',H,g,d], and the weights [R',H,g,t] of what has grown,
        from all queries [R,H,g,d] and all scores [R,H,g,t] of what has grown."""
        keys, values = (one[part.prompts, :, : part.length] for one in self.trunk[layer])
        query = part.placed(query).transpose(1, 2)  # [P',H,n,g,d]
        shape, flat = query.shape[:4], (*query.shape[:2], -1)
        seen = scoring.capped(query.reshape(*flat, query.shape[-1]) @ keys.transpose(-1, -2)).view(*shape, -1)
        if (hidden := self._unseen(part, scoring.window)) is not None:
            seen.masked_fill_(hidden, -torch.inf)
        scores = torch.cat([seen, part.placed(grown).transpose(1, 2)], dim=-1)
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(values.dtype)
        output = (weights[..., : part.length].reshape(*flat, part.length) @ values).view(*shape, -1)
        own = weights[..., part.length :]
        return part.taken(output.transpose(1, 2)), part.taken(own.transpose(1, 2))

    def advance(self) -> None:
        """To be called after each step: every layer has noted its token."""
        self.ages += 1
        self.width += 1
        self._hidden.clear()

    def keep(self, rows: Tensor) -> None:
        """Keeps these rows, by their present numbers, ascending; at least one."""
        self.owner, self.ages, slots = self.owner[rows], self.ages[rows], self.slots[rows]
        count, width = len(rows), self.width
        holes = torch.ones_like(self.slots).index_fill_(0, slots, 0)[:count].nonzero()[:, 0]
        last = (slots >= count).nonzero()[:, 0]  # as many: they move into the holes, and no other is copied
        moved, self.slots = slots[last], slots.index_copy(0, last, holes)
        unused = width - int(self.ages.max())
        for layer, pair in enumerate(self.grown):
            for part in pair if len(holes) else ():
                part[holes, :, :width] = part[moved, :, :width]
            self.grown[layer] = (pair[0][:count, :, unused:], pair[1][:count, :, unused:])
        self._leave_out_finished(COMPACT_BELOW)
        self._measure()

    def join(self, other: Branches) -> None:
        """Takes in other branches of the same model, whose rows come behind its own; they are of no use afterwards."""
        self._leave_out_finished()
        for layer in range(len(self.trunk)):  # one at a time: the rest is not in memory twice
            keys, values = (_stacked(*both) for both in zip(self.trunk[layer], other.trunk[layer], strict=True))
            self.trunk[layer] = (keys, values)
            keys, values = (
                _stacked(one[:, :, : self.width], more[:, :, : other.width], room=FIRST_CAPACITY, right=True)
                for one, more in zip(self.grown[layer], other.grown[layer], strict=True)
            )
            self.grown[layer] = (keys, values)
        self.slots = torch.cat([self.slots, len(self.slots) + other.slots])
        self.owner = torch.cat([self.owner, self.prompts + other.owner])
        self.lengths, self.ages = torch.cat([self.lengths, other.lengths]), torch.cat([self.ages, other.ages])
        self._measure()

    def widen(self, copies: int) -> None:
        """So many copies of every branch, next to each other, which then grow apart."""
        for layer, (keys, values) in enumerate(self.grown):
            self.grown[layer] = (
                keys[self.slots].repeat_interleave(copies, 0),
                values[self.slots].repeat_interleave(copies, 0),
            )
        self.owner, self.ages = self.owner.repeat_interleave(copies), self.ages.repeat_interleave(copies)
        self.slots = torch.arange(len(self.owner), device=self.owner.device)
        self._measure()

    def piece(self, row: int, since: int) -> Piece:
        """A copy of what a branch holds from its place ``since`` on."""
        slot, begin = int(self.slots[row]), self.width - int(self.ages[row]) + since
        return [
            (keys[slot, :, begin : self.width].clone(), values[slot, :, begin : self.width].clone())
            for keys, values in self.grown
        ]

    def regrown(self, owner: Tensor, paths: Sequence[Sequence[Piece]]) -> Branches:
        """Branches from the same prompts that begin with answers computed before.

        Args:
            owner: [R'] prompts of the rows, by their present indices, ascending.
            paths: for each row, the pieces of its answer in their order.
        """
        prompts, owner = owner.unique(return_inverse=True)
        whole = len(prompts) == self.prompts
        trunk = self.trunk if whole else [(keys[prompts], values[prompts]) for keys, values in self.trunk]
        made = Branches(trunk, self.lengths[prompts], owner)
        sizes = [sum(piece[0][0].shape[1] for piece in path) for path in paths]
        made.ages = torch.tensor(sizes, device=owner.device)
        made._measure()
        for index, layer in enumerate(self.trunk):
            keys, values = (
                made._filled(part, [[piece[index][side] for piece in path] for path in paths])
                for side, part in enumerate(layer)
            )
            made.grown[index] = (keys, values)
        return made

    def _filled(self, like: Tensor, paths: Sequence[Sequence[Tensor]]) -> Tensor:
        """[R,H,capacity,d] that holds each row's tensors [H,t,d] behind each other."""
        room = self._room(like, self.width + FIRST_CAPACITY)
        for row, path in enumerate(paths):
            begin = self.width - int(self.ages[row])
            for part in path:
                room[row, :, begin : begin + part.shape[1]] = part
                begin += part.shape[1]
        return room

    def _leave_out_finished(self, below: float = 1.0) -> None:
        """Leaves out prompts without answers; no copy is made unless the others are no more than this share of all."""
        left = self.owner.unique()
        if len(left) == self.prompts or len(left) > below * self.prompts:
            return
        self.owner, self.lengths = torch.searchsorted(left, self.owner), self.lengths[left]
        longest = int(self.lengths.max())
        for layer, (keys, values) in enumerate(self.trunk):
            self.trunk[layer] = (keys[left, :, :longest], values[left, :, :longest])

    def _measure(self) -> None:
        """What is asked of owners and ages at every step, after each change of the rows."""
        self.width = int(self.ages.max())
        """Most tokens that a branch holds."""
        self._apart = bool((self.ages < self.width).any())
        order = self.slots.argsort()
        self._order = None if bool((order == self.slots).all() & (order[1:] > order[:-1]).all()) else order
        counts = torch.bincount(self.owner, minlength=self.prompts).tolist()
        size = 2 * self.trunk[0][0][0, :, 0].numel()
        self._parts = list(parts_of(counts, self.lengths.tolist(), size, self.owner.device))
        self._hidden.clear()

    def _in_slots(self, rows: Tensor) -> Tensor:
        return rows if self._order is None else rows[self._order]

    def _in_rows(self, slots: Tensor) -> Tensor:
        return slots if self._order is None else slots[self.slots]

    def _note(self, layer: int, part: int, new: Tensor) -> Tensor:
        """Writes the new token [R,H,1,d] behind its branch; the branches so far [R,H,t,d], by slot."""
        room = self.grown[layer][part]
        if room.shape[2] == self.width:
            larger = self._room(room, 2 * self.width)
            larger[:, :, : self.width] = room
            pair = list(self.grown[layer])
            pair[part] = room = larger
            self.grown[layer] = (pair[0], pair[1])
        room[:, :, self.width] = self._in_slots(new)[:, :, 0]
        return room[:, :, : self.width + 1]

    def _unseen(self, part: Part | None, window: int) -> Tensor | None:
        """bool: what the new tokens do not see, as it is padding or behind their window; None: they see all. Of the
        trunks of a part [P',1,n,1,L], or of what has grown [R,1,1,t], by slot. Every layer of a step asks the same."""
        key = (None if part is None else part.rows.start, window)
        if key not in self._hidden:
            self._hidden[key] = self._of_grown(window) if part is None else self._of_trunk(part, window)
        return self._hidden[key]

    def _of_grown(self, window: int) -> Tensor | None:
        if not (self._apart or 0 < window <= self.width):
            return None
        back = torch.arange(self.width, -1, -1, device=self.ages.device)
        hidden = back > self._in_slots(self.ages)[:, None]
        return (hidden | (back >= window) if window else hidden)[:, None, None]

    def _of_trunk(self, part: Part, window: int) -> Tensor | None:
        if not (part.padded or 0 < window <= part.length + self.width):
            return None
        trunk, lengths = torch.arange(part.length, device=self.ages.device), self.lengths[part.prompts, None, None]
        hidden = (trunk >= lengths).expand(-1, part.width, -1)
        if window:
            hidden = hidden | (lengths + part.placed(self.ages)[:, :, None] - trunk >= window)
        return hidden[:, None, :, None]

    def _room(self, like: Tensor, capacity: int) -> Tensor:
        """[R,H,capacity,d] for keys or values like [*,H,*,d]: zeros, as what is not seen is multiplied by 0."""
        return like.new_zeros(len(self.owner), like.shape[1], capacity, like.shape[3])


def _stacked(one: Tensor, other: Tensor, *, room: int = 0, right: bool = False) -> Tensor:
    """[P+Q,H,L,d] of [P,H,*,d] and [Q,H,*,d], with zeros behind, or before where they are aligned on the ``right``;
    ``room``: more zeros behind."""
    size = max(one.shape[2], other.shape[2])
    both = one.new_zeros(len(one) + len(other), one.shape[1], size + room, one.shape[3])
    for part, rows in zip((one, other), both.split([len(one), len(other)]), strict=True):
        begin = size - part.shape[2] if right else 0
        rows[:, :, begin : begin + part.shape[2]] = part
    return both


def branch_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    branches: Branches | None = None,
    tree_plan: TreePlan | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention function for transformers' interface: a decoding step, or the prefill where there is a plan."""
    if branches is None:
        return tree_attention(module, query, key, value, attention_mask, tree_plan, **kwargs)
    return branches.attend(_holder(module), query, key, value, Scoring.of(query, kwargs)), None


def _holder(module: Any) -> int:
    """The layer whose keys and values a layer reads: its own, or where late layers share, the last of its kind that
    has some."""
    if not getattr(module, "is_kv_shared_layer", False):
        return int(module.layer_idx)
    kinds = module.config.layer_types
    own = kinds[: len(kinds) - module.config.num_kv_shared_layers]
    return len(own) - 1 - own[::-1].index(module.layer_type)


AttentionInterface.register(BRANCHES, branch_attention)
AttentionMaskInterface.register(BRANCHES, sdpa_mask)


def prefill(policy: Policy, groups: Sequence[RenderedGroup], n: int) -> tuple[Branches, Tensor, Tensor]:
    """Computes the prompts of the groups, each once, inside ``decoding``.

    Args:
        policy: in whose ``decoding`` context this runs.
        groups: P groups of one prompt each, without responses.
        n: answers that will grow from each prompt.

    Returns:
        the branches; logits [P,V] of each prompt's first answer token; the position of that token, [P] or [3,P].
    """
    batch = lay_out([_one_tree(groups)], "tree", policy.family, policy.config).to(policy.device)
    cache = DynamicCache()
    output = flat_output(policy, batch, past_key_values=cache, use_cache=True)
    logits = policy.logits(output.last_hidden_state[0, batch.source])
    places, lengths = _places(batch, flat_plan(policy, batch, output.last_hidden_state.dtype))
    trunk = [
        tuple(part[0, :, places].transpose(0, 1).contiguous() for part in (x.keys, x.values)) for x in cache.layers
    ]
    owner = torch.arange(len(groups), device=lengths.device).repeat_interleave(n)
    return Branches(trunk, lengths, owner), logits, batch.positions[..., batch.last]


def step(policy: Policy, branches: Branches, tokens: Tensor, positions: Tensor) -> Tensor:
    """One more token [R] at positions [R] or [3,R] for every branch; the logits [R,V] of the next one."""
    embeds = policy.base.get_input_embeddings()(tokens)[:, None]
    marks = torch.zeros_like(tokens, dtype=torch.bool)[:, None]
    inputs = policy.family.layer_inputs(policy.language, tokens[:, None], marks, ())
    output = policy.language(
        inputs_embeds=embeds,
        position_ids=positions[..., None],
        attention_mask=embeds.new_zeros(1, 1, 1, 1),
        use_cache=False,
        branches=branches,
        **inputs,
    )
    branches.advance()
    logits: Tensor = policy.logits(output.last_hidden_state[:, 0])
    return logits


def _one_tree(groups: Sequence[RenderedGroup]) -> RenderedGroup:
    """All prompts as one group, so that equal beginnings are shared; each with a response of one token
    that nothing reads: its position is where an answer begins."""
    images: list[ImageInputs] = []
    prompts: list[RenderedPrompt] = []
    for group in groups:
        (prompt,) = group.prompts
        shifted = tuple(len(images) + image for image in prompt.images)
        prompts.append(replace(prompt, images=shifted, trained=()))
        images.extend(group.images)
    count = range(len(groups))
    return RenderedGroup(
        group=Group(
            prompts=tuple(group.group.prompts[0] for group in groups),
            responses=tuple(Response(text="", prompt=index) for index in count),
        ),
        prompts=tuple(prompts),
        responses=tuple(RenderedResponse(prompt=index, tokens=(0,), trained=(True,)) for index in count),
        images=tuple(images),
    )


def _places(batch: Batch, plan: TreePlan) -> tuple[Tensor, Tensor]:
    """Where the tokens of each response's prompt stand: [P,L] padded with 0, and their numbers [P]."""
    owners = batch.segment[batch.last].tolist()
    rows = [torch.cat([torch.arange(start, end) for start, end in plan.ancestors[owner]]) for owner in owners]
    lengths = torch.tensor([len(row) for row in rows], device=batch.tokens.device)
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(batch.tokens.device), lengths
