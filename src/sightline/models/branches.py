"""Decoding many answers from prompts that are computed once: a shared trunk, and a branch per answer.

The prompts of a batch are prefilled together without padding, as one flat tree (so a picture, or a
beginning, that several prompts share is computed once). Their keys and values stay one copy per
prompt however many answers grow from it: each decoding step attends to the trunk with all of a
prompt's answers at once, and to each answer's own few tokens. Further prompts may join at any step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, DynamicCache
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from sightline.models.attention import Scoring, tree_attention
from sightline.models.attention_plan import TreePlan
from sightline.models.flat import flat_output, flat_plan
from sightline.models.layout import lay_out
from sightline.models.policy import Policy, decoders
from sightline.rendered import ImageInputs, RenderedGroup, RenderedPrompt, RenderedResponse
from sightline.types import Batch, Group, Response

BRANCHES = "sightline_branches"
"""Name of the attention implementation that a decoder is switched to while it decodes."""
FIRST_CAPACITY = 32
COMPACT_BELOW = 0.75
"""Places of answers that ended are given up once the others need no more than this share of all."""

Piece = Sequence[tuple[Tensor, Tensor]]
"""Keys and values [H,t,d] of some tokens of one branch, by layer."""


class Branches:
    """Keys and values of P prompts, and of the answers that grow from each, in every layer.

    Branches may be of different ages: prompts come at different steps. Answers stand in a rectangle of n places a
    prompt; those that ended leave their places empty, until it pays to make the rectangle smaller. Rows are the answers
    that are left, prompt by prompt.
    """

    def __init__(self, trunk: Sequence[tuple[Tensor, Tensor]], lengths: Tensor, n: int) -> None:
        """
        Args:
            trunk: per layer, keys and values [P,H,L,d] of the prompts, padded on the right.
            lengths: [P] tokens of each prompt.
            n: answers per prompt.
        """
        self.trunk = list(trunk)
        self.lengths, self.n = lengths, n
        self.ages = lengths.new_zeros(lengths.shape[0], n)
        """[P,n]: tokens that each branch holds; 0 where the answer has ended."""
        self.rows = torch.arange(lengths.shape[0] * n, device=lengths.device)
        """[R]: places of the answers that are left, ascending."""
        self.grown: list[tuple[Tensor, Tensor]] = [
            (self._room(keys, FIRST_CAPACITY), self._room(values, FIRST_CAPACITY)) for keys, values in self.trunk
        ]
        self._hidden: dict[int, Tensor | None] = {}
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
        trunk_keys, trunk_values = self.trunk[layer]
        heads, size = key.shape[1], key.shape[-1]
        keys, values = (self._note(layer, part, new) for part, new in enumerate((key, value)))
        # [P,H,n,g,d]: g query heads share a key head
        query = self._placed(query * scoring.scale).view(self.prompts, self.n, heads, -1, size).transpose(1, 2)
        shape = query.shape[:4]
        flat = (self.prompts, heads, -1)
        seen = scoring.capped(query.reshape(*flat, size) @ trunk_keys.transpose(-1, -2)).view(*shape, -1)
        grown = scoring.capped(query @ keys.transpose(-1, -2))
        scores = torch.cat([seen, grown], dim=-1)
        hidden = self._unseen(scoring.window)
        if hidden is not None:
            scores.masked_fill_(hidden, -torch.inf)
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype)
        length = trunk_keys.shape[2]
        output = (weights[..., :length].reshape(*flat, length) @ trunk_values).view(*shape, -1)
        output = output + weights[..., length:] @ values
        output = output.transpose(1, 2).reshape(self.prompts * self.n, 1, -1, size)
        return output if self._full else output[self.rows]

    def advance(self) -> None:
        """To be called after each step: every layer has noted its token."""
        self.ages.view(-1)[self.rows] += 1
        self.length += 1
        self._hidden.clear()

    def keep(self, rows: Tensor) -> None:
        """Keeps these rows, by their present numbers, ascending; at least one."""
        self.rows = self.rows[rows]
        ages = torch.zeros_like(self.ages).view(-1)
        self.ages = ages.index_copy_(0, self.rows, self.ages.view(-1)[self.rows]).view(self.ages.shape)
        self._pack(COMPACT_BELOW)
        self._measure()

    def join(self, other: Branches) -> None:
        """Takes in other branches of the same model, whose rows come behind its own; they are of no use afterwards."""
        self._pack()
        n = max(self.n, other.n)
        self.rows = torch.cat([self._places(n), self.prompts * n + other._places(n)])
        for layer in range(len(self.trunk)):  # one at a time: the rest is not in memory twice
            for mine, its in ((self.trunk, other.trunk), (self.grown, other.grown)):
                (keys, values), (more_keys, more_values) = mine[layer], its[layer]
                mine[layer] = (_stacked(keys, more_keys), _stacked(values, more_values))
        self.lengths, self.ages = torch.cat([self.lengths, other.lengths]), _stacked(self.ages, other.ages)
        self.n = n
        self._measure()

    def widen(self, copies: int) -> None:
        """So many copies of every branch, next to each other, which then grow apart."""
        for layer, (keys, values) in enumerate(self.grown):
            self.grown[layer] = (keys.repeat_interleave(copies, 2), values.repeat_interleave(copies, 2))
        self.ages = self.ages.repeat_interleave(copies, 1)
        self.rows = (self.rows[:, None] * copies + torch.arange(copies, device=self.rows.device)).flatten()
        self.n *= copies
        self._measure()

    def piece(self, row: int, since: int) -> Piece:
        """A copy of what a branch holds from its place ``since`` on."""
        prompt, answer = divmod(int(self.rows[row]), self.n)
        own = slice(since, int(self.ages[prompt, answer]))
        return [
            (keys[prompt, :, answer, own].clone(), values[prompt, :, answer, own].clone())
            for keys, values in self.grown
        ]

    def regrown(self, prompts: Tensor, paths: Sequence[Sequence[Piece]]) -> Branches:
        """Branches from the same prompts that begin with answers computed before.

        Args:
            prompts: [P'], by their present indices.
            paths: for each row, prompt-major and as many for each prompt, the pieces of its answer in their order.
        """
        whole = prompts.tolist() == list(range(self.prompts))
        trunk = self.trunk if whole else [(keys[prompts], values[prompts]) for keys, values in self.trunk]
        made = Branches(trunk, self.lengths[prompts], len(paths) // len(prompts))
        sizes = [sum(piece[0][0].shape[1] for piece in path) for path in paths]
        made.ages = torch.tensor(sizes, device=self.ages.device).view(made.ages.shape)
        made._measure()
        for index, layer in enumerate(self.trunk):
            keys, values = (
                made._filled(part, [[piece[index][side] for piece in path] for path in paths])
                for side, part in enumerate(layer)
            )
            made.grown[index] = (keys, values)
        return made

    def _filled(self, like: Tensor, paths: Sequence[Sequence[Tensor]]) -> Tensor:
        """[P,H,n,capacity,d] that holds each row's tensors [H,t,d] behind each other."""
        room = self._room(like.new_empty(self.prompts, *like.shape[1:]), self.length + FIRST_CAPACITY)
        for row, path in enumerate(paths):
            begin = 0
            for part in path:
                room[row // self.n, :, row % self.n, begin : begin + part.shape[1]] = part
                begin += part.shape[1]
        return room

    def _pack(self, below: float = 1.0) -> None:
        """Leaves out prompts without answers, and as many places of the others as all can spare; no copy is made
        unless the rectangle falls to this share of its size."""
        going = torch.zeros(self.prompts * self.n, dtype=torch.bool, device=self.rows.device)
        going = going.index_fill_(0, self.rows, True).view(self.prompts, self.n)
        left = going.sum(1)
        prompts, most = left.nonzero()[:, 0], int(left.max())
        size = prompts.shape[0] * most
        if size > below * going.numel() or size == going.numel():
            return
        answers = going[prompts].to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
        self.rows = going[prompts].gather(1, answers).flatten().nonzero()[:, 0]
        self.lengths, self.ages = self.lengths[prompts], self.ages[prompts[:, None], answers]
        self.n = most
        longest = int(self.lengths.max())
        for layer, (trunk, grown) in enumerate(zip(self.trunk, self.grown, strict=True)):
            keys, values = (part[prompts, :, :longest] for part in trunk)
            self.trunk[layer] = (keys, values)
            keys, values = (part[prompts[:, None], :, answers].transpose(1, 2).contiguous() for part in grown)
            self.grown[layer] = (keys, values)

    def _measure(self) -> None:
        """What is asked of lengths and ages at every step, after each change of the rows."""
        self.length = int(self.ages.max())
        """Most tokens that a branch holds."""
        self._full = self.rows.shape[0] == self.prompts * self.n
        self._apart = bool((self.ages.view(-1)[self.rows] < self.length).any())
        self._padded = bool((self.lengths < self.trunk[0][0].shape[2]).any())
        self._hidden.clear()

    def _places(self, n: int) -> Tensor:
        """[R]: places of the rows in a rectangle with n a prompt."""
        return self.rows // self.n * n + self.rows % self.n

    def _placed(self, part: Tensor) -> Tensor:
        """[P*n,...] from [R,...]: rows in their places, zeros where answers have ended."""
        if self._full:
            return part
        return part.new_zeros(self.prompts * self.n, *part.shape[1:]).index_copy_(0, self.rows, part)

    def _note(self, layer: int, part: int, new: Tensor) -> Tensor:
        """Writes the new token [R,H,1,d] behind its branch; the branches so far [P,H,n,t,d]."""
        room = self.grown[layer][part]
        if room.shape[3] == self.length:
            larger = self._room(room[:, :, 0], 2 * self.length)
            larger[:, :, :, : self.length] = room
            pair = list(self.grown[layer])
            pair[part] = room = larger
            self.grown[layer] = (pair[0], pair[1])
        heads, size = new.shape[1], new.shape[3]
        placed = self._placed(new).view(self.prompts, self.n, heads, size).transpose(1, 2)
        if self._apart:
            each = torch.arange(self.prompts * self.n, device=room.device)
            room[each // self.n, :, each % self.n, self.ages.view(-1)] = (
                placed.transpose(1, 2).flatten(0, 1).to(room.dtype)
            )
        else:
            room[:, :, :, self.length] = placed
        return room[:, :, :, : self.length + 1]

    def _unseen(self, window: int) -> Tensor | None:
        """[P,1,n,1,L+t] bool: what the new tokens do not see of trunk and branch, as it is padding or behind their
        window; None: they see all. It is the same for every layer of a step."""
        if window not in self._hidden:
            self._hidden[window] = self._find_unseen(window)
        return self._hidden[window]

    def _find_unseen(self, window: int) -> Tensor | None:
        longest = self.trunk[0][0].shape[2]
        if not (self._apart or self._padded or 0 < window <= longest + self.length):
            return None
        trunk, grown = (torch.arange(count, device=self.ages.device) for count in (longest, self.length + 1))
        lengths, ages = self.lengths[:, None, None], self.ages[:, :, None]
        hidden = torch.cat([(trunk >= lengths).expand(-1, self.n, -1), grown > ages], dim=-1)
        if window:
            hidden |= torch.cat([lengths + ages - trunk, ages - grown], dim=-1) >= window
        return hidden[:, None, :, None]

    def _room(self, like: Tensor, capacity: int) -> Tensor:
        """[P,H,n,capacity,d] for keys or values like [P,H,*,d]: zeros, as what is not seen is multiplied by 0."""
        return like.new_zeros(like.shape[0], like.shape[1], self.n, capacity, like.shape[3])


def _stacked(one: Tensor, other: Tensor) -> Tensor:
    """[P+Q,...] of [P,...] and [Q,...], with zeros behind where one is smaller."""
    shape = (max(sizes) for sizes in zip(one.shape[1:], other.shape[1:], strict=True))
    both = one.new_zeros(one.shape[0] + other.shape[0], *shape)
    for part, rows in zip((one, other), both.split([one.shape[0], other.shape[0]]), strict=True):
        rows[tuple(slice(size) for size in part.shape)] = part
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


@contextmanager
def decoding(policy: Policy) -> Iterator[None]:
    """Evaluation mode, no gradient, and the decoder's attention switched where it shares by mask; all restored on
    leaving.

    Not ``inference_mode``: a tensor that is cached while sampling may be read while training.
    """
    modes = [(module, module.training) for module in policy.modules()]
    switched = decoders(policy.language) if policy.family.branches else []
    before = [decoder.config._attn_implementation for decoder in switched]
    try:
        policy.eval()
        for decoder in switched:
            decoder.set_attn_implementation(BRANCHES)
        # compiled layers run as they are: every token changes what a branch holds
        with torch.no_grad(), policy.autocast(), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for decoder, implementation in zip(switched, before, strict=True):
            decoder.set_attn_implementation(implementation)
        for module, training in modes:
            module.training = training


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
    return Branches(trunk, lengths, n), logits, batch.positions[..., batch.last]


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
