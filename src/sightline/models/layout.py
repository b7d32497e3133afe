"""Turns rendered groups into a flat Batch, in one of three ways that nothing above can tell apart.

=========  ==================  =============================================
layout     prefix computed     what a segment is
=========  ==================  =============================================
rows       per response        prompt + response; the model's own forward
packed     per response        prompt + response; one flat sequence
tree       once per group      a stretch of prompt, or a response
=========  ==================  =============================================

In ``tree``, prompts that begin alike (the same picture, then different questions) share that
beginning as well: the prompts of a group are laid out as a prefix trie.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sightline.errors import DataError
from sightline.models.family import Family
from sightline.rendered import ImageInputs, RenderedGroup, RenderedPrompt, RenderedResponse
from sightline.types import Batch, LayoutName


def lay_out(groups: Sequence[RenderedGroup], layout: LayoutName, family: Family, config: Any) -> Batch:
    """Lays ``groups`` out as one micro-batch.

    Args:
        groups: rendered groups; each has at least one response.
        layout: ``rows``, ``packed`` or ``tree``.
        family: supplies rope positions and joins image tensors.
        config: the model's config, as the family's position function needs it.

    Raises:
        DataError: trained history in a prompt with more than one response.
        UnsupportedError: the family does not support the layout.
    """
    family.check_layout(layout)
    builder = _Builder(layout=layout, family=family, config=config)
    for index, group in enumerate(groups):
        builder.add_group(index, group)
    return builder.batch([group.group for group in groups])


Array = np.ndarray
"""The layout works on numpy arrays of 64-bit integers: a step lays out hundreds of short pieces."""


@dataclass(eq=False)
class _Sequence:
    """A prompt as the layout sees it."""

    tokens: Array
    """[L]."""
    features: Array
    """[L]: image feature row of each placeholder, -1 for text."""
    positions: Array
    """[L] or [3,L]."""
    trained: Array
    """[L] bool: history that SFT trains."""
    key: Array
    """[L]: equal where two prompts hold the same token and the same picture; where the whole prompt sees itself, only
    if they are the same."""
    block: Array
    """[L]: number of the block that a token is in, unique in the batch; -1: in none."""

    def next_position(self) -> int:
        return int(self.positions.max()) + 1 if self.positions.size else 0


@dataclass(eq=False)
class _Node:
    """A segment of the trie: positions [start, end) of ``sequence``."""

    sequence: _Sequence
    start: int
    end: int
    children: list[_Node] = field(default_factory=list)
    prompts: list[int] = field(default_factory=list)
    """Prompts that end with this segment."""


@dataclass(eq=False)
class _Builder:
    layout: LayoutName
    family: Family
    config: Any
    images: list[ImageInputs] = field(default_factory=list)
    offsets: dict[str, int] = field(default_factory=dict)
    num_features: int = 0
    chunks: list[tuple[Array, Array, Array, Array]] = field(default_factory=list)
    """(tokens, positions, feature rows, blocks) of each segment."""
    parents: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    length: int = 0
    num_blocks: int = 0
    wholes: dict[bytes, int] = field(default_factory=dict)
    """Numbers of distinct prompts."""
    responses: list[tuple[int, Array, Array, int]] = field(default_factory=list)
    """(group, source [n], target [n], last) of each response."""

    def add_group(self, index: int, group: RenderedGroup) -> None:
        self.check_history(group)
        if self.layout == "tree":
            self.add_tree(index, group)
            return
        for response in group.responses:
            prompt = self.sequence(group.prompts[response.prompt], group)
            base = self.add_segment(prompt.tokens, prompt.positions, prompt.features, prompt.block, -1)
            places = np.arange(base, base + len(prompt.tokens))
            first = self.length
            tokens = np.array(response.tokens, dtype=np.int64)
            self.extend_segment(tokens, self.answer_positions(prompt, len(tokens)))
            self.add_response(index, prompt, places, response, tokens, first)

    def add_tree(self, index: int, group: RenderedGroup) -> None:
        used = sorted({response.prompt for response in group.responses})
        prompts = {number: self.sequence(group.prompts[number], group) for number in used}
        places: dict[int, Array] = {}
        ends: dict[int, int] = {}
        for root in _trie(prompts.items()):
            self.place(root, -1, np.empty(0, dtype=np.int64), places, ends)
        for response in group.responses:
            prompt = prompts[response.prompt]
            tokens = np.array(response.tokens, dtype=np.int64)
            text = np.full_like(tokens, -1)
            positions = self.answer_positions(prompt, len(tokens))
            first = self.add_segment(tokens, positions, text, text, ends[response.prompt])
            self.add_response(index, prompt, places[response.prompt], response, tokens, first)

    def place(self, node: _Node, parent: int, before: Array, places: dict[int, Array], ends: dict[int, int]) -> None:
        """Lays a subtree of the trie out; notes where the tokens of each prompt stand and its last segment."""
        cut = slice(node.start, node.end)
        whole = node.sequence
        base = self.add_segment(
            whole.tokens[cut], whole.positions[..., cut], whole.features[cut], whole.block[cut], parent
        )
        segment = len(self.parents) - 1
        here = np.concatenate([before, np.arange(base, base + node.end - node.start)])
        for prompt in node.prompts:
            places[prompt], ends[prompt] = here, segment
        for child in node.children:
            self.place(child, segment, here, places, ends)

    def add_response(
        self, group: int, prompt: _Sequence, places: Array, response: RenderedResponse, tokens: Array, first: int
    ) -> None:
        """``places`` [L]: where the prompt's tokens stand; ``first``: where the response starts."""
        spots = np.concatenate([places, np.arange(first, first + len(tokens))])
        ids = np.concatenate([prompt.tokens, tokens])
        scored = np.concatenate([prompt.trained, np.array(response.trained, dtype=bool)]).nonzero()[0]
        self.responses.append((group, spots[scored - 1], ids[scored], first + len(tokens) - 1))

    def answer_positions(self, prompt: _Sequence, length: int) -> Array:
        start = prompt.next_position()
        positions = np.arange(start, start + length)
        return np.broadcast_to(positions, (3, length)) if prompt.positions.ndim == 2 else positions

    def add_segment(self, tokens: Array, positions: Array, features: Array, block: Array, parent: int) -> int:
        self.parents.append(parent)
        self.starts.append(self.length)
        self.chunks.append((tokens, positions, features, block))
        self.length += len(tokens)
        return self.starts[-1]

    def extend_segment(self, tokens: Array, positions: Array) -> None:
        text = np.full_like(tokens, -1)
        self.chunks.append((tokens, positions, text, text))
        self.length += len(tokens)

    def sequence(self, prompt: RenderedPrompt, group: RenderedGroup) -> _Sequence:
        tokens = np.array(prompt.tokens, dtype=np.int64)
        images = [group.images[index] for index in prompt.images]
        features = np.full_like(tokens, -1)
        if images:
            features[list(prompt.placeholders)] = np.concatenate([self.feature_rows(image) for image in images])
        trained = np.zeros(len(tokens), dtype=bool)
        for start, end in prompt.trained:
            trained[start:end] = True
        positions = self.family.positions(features >= 0, images, self.config)
        key = np.where(features >= 0, -1 - features, tokens)
        if self.family.prefix_rule == "full":
            key = np.full_like(key, self.wholes.setdefault(key.tobytes(), len(self.wholes)))
        block = self.blocks(features)
        return _Sequence(tokens=tokens, features=features, positions=positions, trained=trained, key=key, block=block)

    def blocks(self, features: Array) -> Array:
        """[L]: what sees itself entirely, by the family's rule."""
        inside = {
            "causal": np.zeros(len(features), dtype=bool),
            "image_block": features >= 0,
            "full": np.ones(len(features), dtype=bool),
        }[self.family.prefix_rule]
        begins = inside & ~np.concatenate([[False], inside[:-1]])
        block = np.where(inside, np.cumsum(begins) - 1 + self.num_blocks, -1)
        self.num_blocks += int(begins.sum())
        return block

    def feature_rows(self, image: ImageInputs) -> Array:
        """Rows of this picture among all features. A picture seen before keeps its rows, but in ``rows``,
        which pays for every copy as the model's own forward does."""
        if self.layout == "rows" or image.key not in self.offsets:
            self.offsets[image.key] = self.num_features
            self.num_features += image.num_tokens
            self.images.append(image)
        offset = self.offsets[image.key]
        return np.arange(offset, offset + image.num_tokens)

    def check_history(self, group: RenderedGroup) -> None:
        for number, prompt in enumerate(group.prompts):
            if prompt.trained and self.family.prefix_rule == "full":
                raise DataError(
                    f"prompt {group.group.prompts[number].id!r} trains its history, and models of family "
                    f"{self.family.name!r} see all of a prompt at once, answers included",
                    source=group.group.source,
                    remedy="Set data.train.train_on to last",
                )
            answers = sum(response.prompt == number for response in group.responses)
            if prompt.trained and answers > 1:
                raise DataError(
                    f"prompt {group.group.prompts[number].id!r} trains its history and has {answers} responses",
                    source=group.group.source,
                    remedy="Remove the weights of its assistant messages, or give it one response",
                )

    def batch(self, groups: Sequence[Any]) -> Batch:
        features, block = (np.concatenate([chunk[number] for chunk in self.chunks]) for number in (2, 3))
        placeholder = (features >= 0).nonzero()[0]
        lengths = np.diff(self.starts, append=self.length)
        segment = np.repeat(np.arange(len(lengths)), lengths)
        owner = np.repeat(np.arange(len(self.responses)), [len(response[1]) for response in self.responses])
        answers = [response for group in groups for response in group.responses]
        first = list(accumulate([len(group.responses) for group in groups], initial=0))
        edges = [(base, edge) for base, group in zip(first, groups, strict=False) for edge in group.edges]
        return Batch(
            layout=self.layout,
            tokens=_join([chunk[0] for chunk in self.chunks]),
            positions=_join([chunk[1] for chunk in self.chunks]),
            segment=torch.from_numpy(segment),
            parent=torch.tensor(self.parents, dtype=torch.long),
            length=torch.from_numpy(lengths),
            block=torch.from_numpy(block) if self.num_blocks else None,
            whole=self.family.prefix_rule == "full",
            blocked=tuple(np.unique(segment[block >= 0]).tolist()),
            vision=self.family.join([image.tensors for image in self.images]),
            image_tokens=tuple(image.num_tokens for image in self.images),
            placeholder=torch.from_numpy(placeholder),
            feature=torch.from_numpy(features[placeholder]),
            source=_join([response[1] for response in self.responses]),
            target=_join([response[2] for response in self.responses]),
            response=torch.from_numpy(owner),
            group=torch.tensor([response[0] for response in self.responses], dtype=torch.long),
            last=torch.tensor([response[3] for response in self.responses], dtype=torch.long),
            pairs=torch.tensor([(b + e.winner, b + e.loser) for b, e in edges], dtype=torch.long).reshape(-1, 2),
            pair_weight=torch.tensor([edge.weight for _, edge in edges], dtype=torch.float32),
            pair_kind=tuple(edge.kind for _, edge in edges),
            num_groups=len(groups),
            **_columns(answers, [len(response[1]) for response in self.responses]),
        )


def _join(parts: Sequence[Array]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts, axis=-1))


def _columns(responses: Sequence[Any], scored: Sequence[int]) -> dict[str, Any]:
    """Columns that the data brings along; a column is filled only if every response has it."""
    columns: dict[str, Any] = {}
    if any(response.weights is not None for response in responses):
        rows = [_weights(response, count) for response, count in zip(responses, scored, strict=True)]
        columns["weights"] = torch.tensor([value for row in rows for value in row], dtype=torch.float32)
    if all(response.rollout_logprobs is not None for response in responses):
        kept = [_of_trained(response.rollout_logprobs, response.trained) for response in responses]
        if [len(row) for row in kept] == list(scored):
            columns["rollout_logprobs"] = torch.tensor([value for row in kept for value in row], dtype=torch.float32)
    if all(response.reward is not None for response in responses):
        columns["rewards"] = torch.tensor([response.reward for response in responses], dtype=torch.float32)
    if all(response.label is not None for response in responses):
        columns["labels"] = torch.tensor([response.label for response in responses], dtype=torch.float32)
    names = sorted({name for response in responses for name in response.rewards})
    if names:
        parts = [[response.rewards.get(name, math.nan) for name in names] for response in responses]
        columns |= {"reward_parts": torch.tensor(parts, dtype=torch.float32), "reward_names": tuple(names)}
    return columns | _of_round(responses, scored)


def _of_round(responses: Sequence[Any], scored: Sequence[int]) -> dict[str, Tensor]:
    """Columns that were filled when the round began."""
    found = {}
    for name in {name for response in responses for name in response.columns}:
        rows = [response.columns.get(name) for response in responses]
        if all(row is not None and len(row) == count for row, count in zip(rows, scored, strict=True)):
            found[name] = torch.tensor([value for row in rows for value in row], dtype=torch.float32)
    return found


def _weights(response: Any, count: int) -> list[float]:
    if response.weights is None:
        return [1.0] * count
    own = list(response.weights)
    if response.trained is not None and len(own) != sum(response.trained):  # one for each token, trained or not
        own = _of_trained(own, response.trained)
    return [1.0] * (count - len(own)) + own  # trained history comes first and weighs 1


def _of_trained(values: Sequence[float], trained: Sequence[bool] | None) -> list[float]:
    return [value for value, keep in zip(values, trained or [True] * len(values), strict=True) if keep]


def _trie(prompts: Iterable[tuple[int, _Sequence]]) -> list[_Node]:
    """Prefix trie of prompts; roots in order of appearance."""
    roots: list[_Node] = []
    for number, sequence in prompts:
        _insert(roots, number, sequence)
    return roots


def _insert(nodes: list[_Node], number: int, sequence: _Sequence) -> None:
    start, end = 0, len(sequence.tokens)
    while True:
        for node in nodes:
            shared = _common(node.sequence.key[node.start : node.end], sequence.key[start:])
            if shared:
                break
        else:
            nodes.append(_Node(sequence=sequence, start=start, end=end, prompts=[number]))
            return
        if shared < node.end - node.start:
            _split(node, node.start + shared)
        start += shared
        if start == end:
            node.prompts.append(number)
            return
        nodes = node.children


def _split(node: _Node, at: int) -> None:
    """Cuts a segment in two; what hung on it hangs on the second half."""
    tail = _Node(sequence=node.sequence, start=at, end=node.end, children=node.children, prompts=node.prompts)
    node.end, node.children, node.prompts = at, [tail], []


def _common(a: Array, b: Array) -> int:
    """Length of the common prefix of two arrays."""
    length = min(len(a), len(b))
    differs = a[:length] != b[:length]
    return int(differs.argmax()) if differs.any() else length
