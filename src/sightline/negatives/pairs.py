"""A pair of answers that is to have its negative picture, and what became of that."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from sightline.types import Edge, Group, Prompt

Outcome = Literal["made", "undescribed", "failed", "refused"]
"""``undescribed``: nobody said what it is to show; ``failed``: no picture came of that; ``refused``: the picture does
not show the rejected answer."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two answers to one prompt, one of them preferred."""

    prompt: Prompt
    chosen: str
    rejected: str
    key: str
    """Identity: of prompt and both answers."""
    seed: int
    """Of all that is drawn for it."""

    def draw(self, attempt: int) -> int:
        """A seed of its own for every attempt."""
        return self.seed if attempt == 0 else _number(f"{self.seed}:{attempt}")


@dataclass(frozen=True, kw_only=True)
class Made:
    """A picture that shows the rejected answer."""

    image: str
    """Path."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """How it came about: description, seed, what the gate measured. Plain JSON."""


@dataclass(frozen=True, kw_only=True)
class Lost:
    """Why there is no such picture."""

    outcome: Literal["undescribed", "failed", "refused"]
    reason: str
    facts: Mapping[str, Any] = field(default_factory=dict)


class Maker(Protocol):
    """Makes negative pictures. A pair's picture depends on the pair alone."""

    def make(self, pairs: Sequence[Pair]) -> list[Made | Lost]:
        """
        Raises:
            DataError: what would fail for every pair.
        """
        ...

    def check(self, groups: Sequence[Group]) -> None:
        """Looks, before there is an answer, whether a picture can be made for each prompt.

        Raises:
            DataError: names the row.
        """
        ...

    def give_up(self) -> None:
        """Called from another thread where the work is given up: ``make`` waits for nothing more."""
        ...


def pair_of(group: Group, edge: Edge, seed: int) -> Pair:
    """The pair of a comparison of two answers to one prompt.

    Args:
        group: with the edge.
        edge: of kind ``text``.
        seed: of the run; the pair's own is drawn from it.
    """
    winner, loser = group.responses[edge.winner], group.responses[edge.loser]
    prompt = group.prompts[winner.prompt]
    key = hashlib.blake2b(repr((prompt.id, winner.text, loser.text)).encode(), digest_size=12).hexdigest()
    return Pair(prompt=prompt, chosen=winner.text, rejected=loser.text, key=key, seed=_number(f"{seed}:{key}"))


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
