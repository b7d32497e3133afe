"""Decoding many answers from prompts that are computed once: a shared trunk, and a branch per answer.

The prompts of a batch are prefilled together without padding, as one flat tree (so a picture, or a
beginning, that several prompts share is computed once). Their keys and values stay one copy per
prompt however many answers grow from it: each decoding step attends to the trunk with all of a
prompt's answers at once, and to each answer's own few tokens.
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


Piece = Sequence[tuple[Tensor, Tensor]]
"""Keys and values [H,t,d] of some tokens of one branch, by layer."""


class Branches:
    """Keys and values of P prompts, and of the n answers that grow from each, in every layer.

    Rows are prompt-major: row ``p * n + i`` is answer i of prompt p.
    """

    blank: Tensor | None = None
    """[P,n]: places before each branch that hold nothing, where branches began with answers of different lengths;
    None: none has any."""

    def __init__(self, trunk: Sequence[tuple[Tensor, Tensor]], lengths: Tensor, n: int) -> None:
        """
        Args:
            trunk: per layer, keys and values [P,H,L,d] of the prompts, padded on the right.
            lengths: [P] tokens of each prompt.
            n: answers per prompt.
        """
        self.trunk = list(trunk)
        self.prompts, self.n = lengths.shape[0], n
        self.lengths = lengths
        self.length = 0
        """Tokens that each branch holds."""
        self.grown: list[tuple[Tensor, Tensor]] = [
            tuple(self._room(part, n, FIRST_CAPACITY) for part in layer)  # type: ignore[misc]
            for layer in self.trunk
        ]
        self.mask = self._mask()

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
        query = (query * scoring.scale).view(self.prompts, self.n, heads, -1, size).transpose(1, 2)
        shape = query.shape[:4]
        flat = (self.prompts, heads, -1)
        seen = scoring.capped(query.reshape(*flat, size) @ trunk_keys.transpose(-1, -2)).view(*shape, -1)
        grown = scoring.capped(query @ keys.transpose(-1, -2))
        if window := scoring.window:
            seen = seen.masked_fill(self._left_behind(window), -torch.inf)
            grown[..., : max(0, self.length + 1 - window)] = -torch.inf
        if self.blank is not None:
            places = torch.arange(self.length + 1, device=query.device)
            grown = grown.masked_fill((places < self.blank[..., None])[:, None, :, None], -torch.inf)
        if self.mask is not None:
            seen = seen + self.mask
        scores = torch.cat([seen, grown], dim=-1)
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype)
        length = trunk_keys.shape[2]
        output = (weights[..., :length].reshape(*flat, length) @ trunk_values).view(*shape, -1)
        output = output + weights[..., length:] @ values
        return output.transpose(1, 2).reshape(self.prompts * self.n, 1, -1, size)

    def advance(self) -> None:
        """To be called after each step: every layer has noted its token."""
        self.length += 1

    def select(self, prompts: Tensor, answers: Tensor) -> None:
        """Keeps prompts [P'] and, of each, answers [P',n'] (by their present indices)."""
        self.trunk = [(keys[prompts], values[prompts]) for keys, values in self.trunk]
        self.grown = [
            tuple(part[prompts[:, None], :, answers].transpose(1, 2).contiguous() for part in layer)  # type: ignore[misc]
            for layer in self.grown
        ]
        if self.blank is not None:
            self.blank = self.blank[prompts[:, None], answers]
        self.prompts, self.n = answers.shape
        self.lengths = self.lengths[prompts]
        self.mask = self._mask()

    def widen(self, copies: int) -> None:
        """So many copies of every branch, next to each other, which then grow apart."""
        self.grown = [
            tuple(part.repeat_interleave(copies, 2) for part in layer)  # type: ignore[misc]
            for layer in self.grown
        ]
        self.blank = None if self.blank is None else self.blank.repeat_interleave(copies, 1)
        self.n *= copies

    def piece(self, row: int, since: int) -> Piece:
        """A copy of what a branch holds from its place ``since`` on."""
        prompt, answer = divmod(row, self.n)
        return [
            (
                keys[prompt, :, answer, since : self.length].clone(),
                values[prompt, :, answer, since : self.length].clone(),
            )
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
        made.length = max(sizes)
        for index, layer in enumerate(self.trunk):
            made.grown[index] = tuple(  # type: ignore[assignment]
                made._filled(part, [[piece[index][side] for piece in path] for path in paths])
                for side, part in enumerate(layer)
            )
        if min(sizes) < made.length:
            blank = torch.tensor([made.length - size for size in sizes], device=self.lengths.device)
            made.blank = blank.view(made.prompts, made.n)
        return made

    def _filled(self, like: Tensor, paths: Sequence[Sequence[Tensor]]) -> Tensor:
        """[P,H,n,capacity,d] that holds each row's tensors [H,t,d] behind each other, right-aligned."""
        heads, size = like.shape[1], like.shape[3]
        room = like.new_zeros(self.prompts, heads, self.n, self.length + FIRST_CAPACITY, size)
        for row, path in enumerate(paths):
            end = self.length
            for part in reversed(path):
                room[row // self.n, :, row % self.n, end - part.shape[1] : end] = part
                end -= part.shape[1]
        return room

    def _note(self, layer: int, part: int, new: Tensor) -> Tensor:
        """Writes the new token [R,H,1,d] behind its branch; the branches so far [P,H,n,t,d]."""
        room = self.grown[layer][part]
        if room.shape[3] == self.length:
            larger = self._room(room[:, :, 0], self.n, 2 * self.length)
            larger[:, :, :, : self.length] = room
            pair = list(self.grown[layer])
            pair[part] = room = larger
            self.grown[layer] = (pair[0], pair[1])
        heads, size = new.shape[1], new.shape[3]
        room[:, :, :, self.length] = new.view(self.prompts, self.n, heads, size).transpose(1, 2)
        return room[:, :, :, : self.length + 1]

    def _left_behind(self, window: int) -> Tensor:
        """[P,1,1 or n,1,L] bool: trunk tokens that the next token of a branch is too far from."""
        places = torch.arange(self.trunk[0][0].shape[2], device=self.lengths.device)
        own = self.length if self.blank is None else self.length - self.blank
        here = self.lengths[:, None] + own
        return (here[..., None] - places >= window)[:, None, :, None]

    def _mask(self) -> Tensor | None:
        """[P,1,1,1,L] additive: hides the padding of shorter prompts."""
        longest = self.trunk[0][0].shape[2]
        if bool((self.lengths == longest).all()):
            return None
        padding = torch.arange(longest, device=self.lengths.device) >= self.lengths[:, None]
        mask = torch.zeros(padding.shape, dtype=self.trunk[0][0].dtype, device=padding.device)
        return mask.masked_fill_(padding, -torch.inf)[:, None, None, None]

    @staticmethod
    def _room(like: Tensor, n: int, capacity: int) -> Tensor:
        """[P,H,n,capacity,d] for keys or values like [P,H,*,d]."""
        return like.new_empty(like.shape[0], like.shape[1], n, capacity, like.shape[3])


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
