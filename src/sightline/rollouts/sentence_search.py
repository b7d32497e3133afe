"""Trees of answers, a sentence a level, on the policy itself (CSR, arXiv 2405.14622).

Picture and prompt are computed once for a whole tree, and each sentence once for all that follow it: keys and values of
a node's tokens stay with the node, and the branches of a level begin with those along its path.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from sightline.errors import DataError
from sightline.models.decoding import decoding
from sightline.recipes.csr import CalibrationSpec, SearchSpec
from sightline.recipes.schema import SamplingSpec
from sightline.relations.calibrated import cumulative_own, kept, sentence_scores
from sightline.relations.junk import junk
from sightline.relations.sentence_end import CLOSING, MARKS, ends, may_end
from sightline.relations.tree import End, Sentence, SentenceTree
from sightline.rollouts.engine import check_finite, check_room
from sightline.rollouts.hf import HFEngine
from sightline.rollouts.refill import begin, go_on
from sightline.types import Group

PUBLISHED = CalibrationSpec()
Relevance = Callable[[Sequence[SentenceTree]], list[SentenceTree]]
"""Fills ``clip`` of the sentences that lack it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Open:
    """A node that goes on: what the next level needs of it."""

    id: int
    depth: int
    tokens: tuple[int, ...] = ()
    """From the first sentence on."""
    pieces: tuple[Any, ...] = ()
    """Keys and values of the same."""
    logits: Tensor
    """[V] of what follows."""


@dataclass(kw_only=True, eq=False)
class _Tree:
    """A tree as it grows."""

    group: Group
    prompt: int
    """Tokens of the prompt."""
    nodes: list[Sentence] = field(default_factory=lambda: [Sentence(id=0)])
    open: list[_Open] = field(default_factory=list)

    def made(self) -> SentenceTree:
        return SentenceTree(group=self.group, nodes=tuple(self.nodes))


@dataclass(kw_only=True, eq=False)
class _Candidate:
    """A sentence as it grows."""

    tree: _Tree
    parent: _Open
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    text: str = ""
    """Up to the last token at which it could end."""
    might_end: bool = False
    done: bool = False
    final: End | None = None
    piece: Any = None
    logits: Tensor | None = None


class SentenceSearch:
    """Grows trees with group decoding: greedy groups that are pushed away from each other's tokens.

    >>> SentenceSearch(load_engine(ModelSpec(path="models/llava")), SearchSpec()).grow(groups)  # doctest: +SKIP
    """

    def __init__(
        self,
        engine: HFEngine,
        spec: SearchSpec,
        score: CalibrationSpec = PUBLISHED,
        relevance: Relevance | None = None,
    ) -> None:
        """
        Args:
            engine: holds the policy.
            spec: how trees grow.
            score: by what is pruned.
            relevance: asked after every level with ``prune_by: calibrated``, else not at all.
        """
        assert (relevance is not None) == (spec.prune_by == "calibrated")
        self.engine, self.spec, self.score, self.relevance = engine, spec, score, relevance
        self._marked: dict[int, bool] = {}

    def grow(self, groups: Sequence[Group]) -> list[SentenceTree]:
        """A tree for each prompt, searched together; it depends on its prompt alone.

        Raises:
            DataError: a group with more or less than one prompt, or one that cannot be rendered or is too long.
        """
        for group in groups:
            if len(group.prompts) != 1:
                raise DataError(
                    f"group {group.id!r} has {len(group.prompts)} prompts, and a tree grows from one",
                    source=group.source,
                    remedy="Make a group of each prompt",
                )
        asked = [replace(group, responses=(), edges=()) for group in groups]
        with decoding(self.engine.policy):
            rendered = [self.engine.renderer.render(group) for group in asked]
            room = SamplingSpec(max_new_tokens=self.spec.max_new_tokens)
            for one in rendered:
                check_room(one, room, self.engine.longest, "search.max_new_tokens")
            root, logits, positions = begin(self.engine.policy, rendered, 1)
            trees = [
                _Tree(group=group, prompt=len(one.prompts[0].tokens), open=[_Open(id=0, depth=0, logits=logits[index])])
                for index, (group, one) in enumerate(zip(asked, rendered, strict=True))
            ]
            while any(tree.open for tree in trees):
                candidates = self._level(root, trees, positions)
                for tree in trees:
                    tree.open.clear()
                for candidate in candidates:
                    self._add(candidate)
                self._prune(trees)
        return [tree.made() for tree in trees]

    # --- a level ---

    def _level(self, root: Any, trees: Sequence[_Tree], positions: Tensor) -> list[_Candidate]:
        """All sentences that continue the open nodes."""
        nodes = [(index, tree, node) for index, tree in enumerate(trees) for node in tree.open]
        owner = torch.tensor([index for index, _, _ in nodes], device=positions.device)
        branches = root.regrown(owner, [node.pieces for _, _, node in nodes])
        count = self.spec.candidates
        branches.widen(count)
        rows = [_Candidate(tree=tree, parent=node) for _, tree, node in nodes for _ in range(count)]
        place = positions[..., owner] + torch.tensor([len(node.tokens) for _, _, node in nodes], device=owner.device)
        logits = torch.stack([node.logits for _, _, node in nodes])
        self._decode(branches, rows, logits.repeat_interleave(count, 0), place.repeat_interleave(count, -1))
        return rows

    def _decode(self, branches: Any, rows: Sequence[_Candidate], logits: Tensor, positions: Tensor) -> None:
        while True:
            tokens = self._choose(rows, logits.float())
            for index, row in enumerate(rows):
                if row.done and row.final is None and row.logits is None:
                    row.piece, row.logits = branches.piece(index, len(row.parent.tokens)), logits[index].clone()
            going = [index for index, row in enumerate(rows) if not row.done]
            if not going:
                return
            if len(going) < len(rows):
                stay = torch.tensor(going, device=logits.device)
                branches.keep(stay)
                rows, tokens, positions = [rows[i] for i in going], [tokens[i] for i in going], positions[..., stay]
            logits = go_on(self.engine.policy, branches, torch.tensor(tokens, device=logits.device), positions)
            positions = positions + 1

    def _choose(self, rows: Sequence[_Candidate], logits: Tensor) -> list[int]:
        """The next token of each row, groups of a node in their order; rows that end are marked. A row that is done
        gets any."""
        forbidden = torch.tensor(self.engine.forbidden, dtype=torch.long, device=logits.device)
        allowed = logits.index_fill(1, forbidden, -torch.inf)
        # at most candidates - 1 tokens are lowered, so one of the highest is the highest afterwards
        values, ids = allowed.topk(min(self.spec.candidates, logits.shape[1]))
        totals, highest, likeliest = logits.logsumexp(-1).tolist(), values.tolist(), ids.tolist()
        check_finite(totals)
        taken: dict[_Open, Counter[int]] = {}
        chosen = []
        for index, row in enumerate(rows):
            token = likeliest[index][0]
            if not row.done:
                here = taken.setdefault(row.parent, Counter())
                scored = zip(highest[index], likeliest[index], strict=True)
                _, token, value = max(
                    ((value - self.spec.diversity * here[token], -token, value), token, value)
                    for value, token in scored
                )
                if self._takes(row, token):
                    here[token] += 1
                    row.tokens.append(token)
                    row.logprobs.append(value - totals[index])
            chosen.append(token)
        return chosen

    def _takes(self, row: _Candidate, token: int) -> bool:
        """Whether the next token belongs to the row's sentence; where not, or where it ends the turn, the row is
        done."""
        if len(row.tokens) == self.spec.max_new_tokens:
            row.done = True
            return False
        if token in self.engine.ends:
            row.done, row.final = True, "stop"
            return True
        if row.might_end:
            following = self._decoded([*row.tokens, token]).removeprefix(row.text)
            if ends(row.text, following):
                row.done = True
                return False
        row.might_end = False
        if self._may_end_at(token):
            row.text = self._decoded([*row.tokens, token])
            row.might_end = may_end(row.text)
        return True

    def _may_end_at(self, token: int) -> bool:
        """Whether the text of a token has something that may end a sentence, or half a character."""
        if token not in self._marked:
            text = self.engine.tokenizer.decode([token])
            self._marked[token] = any(mark in text for mark in (*MARKS, *CLOSING, "\ufffd"))
        return self._marked[token]

    def _decoded(self, tokens: Sequence[int]) -> str:
        text: str = self.engine.tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text

    # --- between levels ---

    def _add(self, row: _Candidate) -> None:
        """The candidate as a node of its tree, open where it goes on."""
        tree, parent = row.tree, row.parent
        tokens, depth = (*parent.tokens, *row.tokens), parent.depth + 1
        text, answer = self._decoded(row.tokens), self._decoded(tokens).strip()
        # an end of turn by itself says nothing, and is none
        fault = junk(text) if self.spec.junk == "drop" and (text.strip() or row.final is None) else None
        if row.final is None and self._is_full(answer, depth, tree.prompt + len(tokens)):
            row.final = "length"
        node = Sentence(
            id=len(tree.nodes),
            parent=parent.id,
            tokens=tuple(row.tokens),
            logprobs=tuple(row.logprobs),
            text=text.strip(),
            final=row.final,
            answer=answer if row.final else None,
            junk=fault,
        )
        tree.nodes.append(node)
        if node.final is None and fault is None:
            assert row.logits is not None
            pieces = (*parent.pieces, row.piece)
            tree.open.append(_Open(id=node.id, depth=depth, tokens=tokens, pieces=pieces, logits=row.logits))

    def _is_full(self, answer: str, depth: int, length: int) -> bool:
        spec = self.spec
        return (
            len(answer) >= spec.max_characters
            or (spec.max_sentences is not None and depth >= spec.max_sentences)
            or length + spec.max_new_tokens > self.engine.longest
        )

    def _prune(self, trees: Sequence[_Tree]) -> None:
        """Of the sentences of this level, those that go on; the nodes before them are open no more."""
        scores: list[dict[int, float]] = [{} for _ in trees]
        if self.relevance is not None:
            grown = [tree for tree in trees if tree.open]
            for tree, made in zip(grown, self.relevance([tree.made() for tree in grown]), strict=True):
                tree.nodes[:] = made.nodes
            scores = [sentence_scores(tree.made(), self.score) if tree.open else {} for tree in trees]
        for tree, known in zip(trees, scores, strict=True):
            made = tree.made()
            by_id = {node.id: node for node in tree.open}
            if self.relevance is not None:
                total = {key: sum(known.get(one.id, 0.0) for one in made.path(key)) for key in by_id}
            else:
                total = {key: cumulative_own(made, key, self.score) for key in by_id}
            order = sorted(by_id, key=lambda key: (-total[key], key))
            tree.open = [by_id[key] for key in sorted(kept(order, self.spec.width))]
