"""A tree of partial answers: each node is one sentence, each path from the root one answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from sightline.types import Group, Response

End = Literal["stop", "length"]
"""Why nothing follows a sentence: the answer ended its turn, or was cut at a limit."""


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """A node of the tree; the root has no tokens."""

    id: int
    """Its place among the nodes."""
    parent: int | None = None
    """The sentence before it; None: the root."""
    tokens: tuple[int, ...] = ()
    """As sampled, an end of turn included."""
    logprobs: tuple[float, ...] = ()
    """Log-probability of each token under the policy itself: no penalty, whole vocabulary."""
    text: str = ""
    """Of its own tokens."""
    final: End | None = None
    """None: it could go on."""
    answer: str | None = None
    """Of a final sentence: the whole text up to here."""
    junk: str | None = None
    """Why the sentence, and what would follow, counts for nothing; None: it counts."""
    clip: float | None = None
    """How far it goes with the picture, higher is better; None: not asked yet, or nothing is said."""

    @property
    def counts(self) -> bool:
        """Whether it is a sentence: an end of turn by itself, marks without a word, the root and junk are none."""
        return self.junk is None and self.parent is not None and any(map(str.isalnum, self.text))


@dataclass(frozen=True, kw_only=True)
class SentenceTree:
    """All answers that a search made of one prompt."""

    group: Group
    """With the prompt, without responses."""
    nodes: tuple[Sentence, ...]
    """Parents before their children; the root first."""

    @property
    def id(self) -> str:
        return self.group.id

    @property
    def source(self) -> str:
        return self.group.source

    def path(self, node: int) -> tuple[Sentence, ...]:
        """From the first sentence to this one."""
        found = []
        here = self.nodes[node]
        while here.parent is not None:
            found.append(here)
            here = self.nodes[here.parent]
        return tuple(reversed(found))

    def answers(self) -> Iterator[tuple[Sentence, ...]]:
        """The paths that reached an end."""
        return (self.path(node.id) for node in self.nodes if node.final is not None and node.junk is None)

    def unasked(self) -> list[Sentence]:
        """Sentences whose relevance is not known."""
        return [node for node in self.nodes if node.counts and node.clip is None]

    def with_relevance(self, found: dict[int, float]) -> SentenceTree:
        """The same tree with the relevance of some nodes, by their ids."""
        nodes = (replace(node, clip=found[node.id]) if node.id in found else node for node in self.nodes)
        return replace(self, nodes=tuple(nodes))


def response_of(path: tuple[Sentence, ...]) -> Response:
    """The answer of a path that reached an end, its tokens as they were sampled."""
    last = path[-1]
    assert last.final is not None and last.answer is not None
    return Response(
        text=last.answer,
        tokens=tuple(token for node in path for token in node.tokens),
        rollout_logprobs=tuple(value for node in path for value in node.logprobs),
        finish_reason=last.final,
    )
