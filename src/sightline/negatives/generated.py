"""Negative pictures of pairs that a run finds: described, painted and looked at, or drawn (OViP, arXiv 2505.15963)."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sightline.data.picture import read_picture
from sightline.errors import DataError, ServiceError
from sightline.negatives.describe import Describer
from sightline.negatives.gate import Gate
from sightline.negatives.painting import Box, Gallery, Order, Unpainted
from sightline.negatives.pairs import Lost, Made, Maker, Outcome, Pair, pair_of
from sightline.negatives.prompts import without_pictures
from sightline.recipes.negatives import GeneratedSpec
from sightline.rewards.terms import fact, within
from sightline.types import Edge, Group, Prompt


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """A pair, and what became of its picture."""

    group: Group
    """Question and negative, chosen and rejected answer; with the comparison where it is trained, so that it can be
    trained from disk (``negative: {kind: column}``, without a picture as it is)."""
    outcome: Outcome


@dataclass(frozen=True, kw_only=True)
class Generated:
    """Gives each comparison of a group its negative picture. Thread-safe where its maker is."""

    spec: GeneratedSpec
    maker: Maker
    seed: int

    def __call__(self, groups: Sequence[Group]) -> list[tuple[Group | None, tuple[Pairing, ...]]]:
        """Each group with a prompt for the negative of every comparison, and what became of each. Comparisons without a
        picture leave, unless ``failed`` is ``text``; where none is left, the group does.

        Raises:
            ServiceError: a picture failed, and ``failed`` is ``stop``.
            DataError: what would fail for every pair.
        """
        pairs = [[pair_of(group, edge, self.seed) for edge in group.edges] for group in groups]
        made = iter(self.maker.make([pair for some in pairs for pair in some]))
        return [self._given(group, some, [next(made) for _ in some]) for group, some in zip(groups, pairs, strict=True)]

    def check(self, groups: Sequence[Group]) -> None:
        """Whether a picture can be made for each prompt: to know before answers are sampled.

        Raises:
            DataError: names the row.
        """
        for group in groups:
            for prompt in group.prompts:
                if len(prompt.images) != 1:
                    raise DataError(
                        f"prompt {prompt.id!r} has {len(prompt.images)} pictures, expected the one that is replaced",
                        source=group.source,
                        remedy="Leave it out, or remove online.negatives",
                    )
        self.maker.check(groups)

    def give_up(self) -> None:
        """Called from another thread: nothing is waited for any more."""
        self.maker.give_up()

    def _given(
        self, group: Group, pairs: Sequence[Pair], made: Sequence[Made | Lost]
    ) -> tuple[Group | None, tuple[Pairing, ...]]:
        pairings, prompts, edges = list[Pairing](), list(group.prompts), list[Edge]()
        for edge, pair, one in zip(group.edges, pairs, made, strict=True):
            negative = _negative(pair, one)
            trained = isinstance(one, Made) or self.spec.failed == "text"
            pairings.append(_pairing(group, edge, negative, one, trained=trained))
            if trained:
                edges.append(edge)
            if isinstance(one, Made):
                prompts.append(negative)
            elif self.spec.failed == "stop" and one.outcome != "refused":
                remedy = "Mend it and run again: the run goes on from its last checkpoint. Or set failed: drop"
                raise ServiceError(f"the negative picture of {group.id} failed ({one.reason})", remedy=remedy)
        if not edges:
            return None, tuple(pairings)
        return replace(group, prompts=tuple(prompts), edges=tuple(edges)), tuple(pairings)


def negative_of(group: Group, edge: Edge, *, bare: bool = False) -> Prompt | None:
    """The negative that :class:`Generated` gave a comparison; None where it has none, and may be ``bare``.

    Raises:
        DataError: it has none.
    """
    name = _name(pair_of(group, edge, 0))
    found = next((prompt for prompt in group.prompts if prompt.id == name), None)
    if found is None and not bare:
        raise DataError(
            f"the pair {group.responses[edge.winner].text!r:.60} over {group.responses[edge.loser].text!r:.60} has no "
            "negative picture",
            source=group.source or group.id,
            remedy="Make one with online.negatives",
        )
    return found


def _name(pair: Pair) -> str:
    return f"{pair.prompt.id}/negative-{pair.key}"


def _negative(pair: Pair, one: Made | Lost) -> Prompt:
    if isinstance(one, Made):
        return replace(pair.prompt, id=_name(pair), images=(one.image,), facts=one.facts)
    told = {**one.facts, "outcome": one.outcome, "reason": one.reason}
    bare = without_pictures(pair.prompt.messages, range(len(pair.prompt.images)))
    return Prompt(id=_name(pair), messages=bare, facts=told)


def _pairing(group: Group, edge: Edge, negative: Prompt, one: Made | Lost, *, trained: bool) -> Pairing:
    """The pair by itself: prompt ids are those of the group, answers as they were scored."""
    winner, loser = group.responses[edge.winner], group.responses[edge.loser]
    kept = replace(
        group,
        prompts=(group.prompts[winner.prompt], negative),
        responses=(replace(winner, prompt=0), replace(loser, prompt=0)),
        edges=(Edge(winner=0, loser=1, weight=edge.weight),) if trained else (),
    )
    return Pairing(group=kept, outcome="made" if isinstance(one, Made) else one.outcome)


@dataclass(frozen=True, kw_only=True)
class Painting:
    """Describes, paints and looks: the ``Maker`` of all kinds but ``scenes``."""

    spec: GeneratedSpec
    describer: Describer
    gallery: Gallery
    gate: Gate | None

    def make(self, pairs: Sequence[Pair]) -> list[Made | Lost]:
        """See ``Maker.make``. What the gate refuses is painted again, with other seeds, ``gate.tries`` times in all."""
        told = self.describer(pairs) if pairs else []
        found: dict[int, Made | Lost] = {place: one for place, one in enumerate(told) if isinstance(one, Lost)}
        left = [place for place in range(len(pairs)) if place not in found]
        for attempt in range(1 if self.spec.gate is None else self.spec.gate.tries):
            orders = {place: self._order(pairs[place], str(told[place]), attempt) for place in left}
            found |= self._shown(pairs, orders)
            left = [place for place in left if _refused(found[place])]
        return [found[place] for place in range(len(pairs))]

    def check(self, groups: Sequence[Group]) -> None:
        """See ``Maker.check``."""
        for group in groups if self.spec.box_fact is not None else ():
            for prompt in group.prompts:
                within(group, _told_box, prompt, self.spec.box_fact)

    def give_up(self) -> None:
        """See ``Maker.give_up``."""
        self.describer.give_up()
        self.gallery.painter.give_up()
        if self.gate is not None:
            self.gate.give_up()

    def _shown(self, pairs: Sequence[Pair], orders: Mapping[int, Order]) -> dict[int, Made | Lost]:
        """What was painted of some pairs and passed the gate, by their places."""
        found: dict[int, Made | Lost] = {}
        painted = dict(zip(orders, self.gallery.paint(list(orders.values())), strict=True))
        for place, path in painted.items():
            facts = {"description": orders[place].text, "seed": orders[place].seed, "box": orders[place].box}
            facts = {name: value for name, value in facts.items() if value is not None}
            found[place] = (
                Lost(outcome="failed", reason=path.reason, facts=facts)
                if isinstance(path, Unpainted)
                else Made(image=path, facts=facts)
            )
        shown = {place: (pairs[place], one) for place, one in found.items() if isinstance(one, Made)}
        if self.gate is None or not shown:
            return found
        return found | dict(zip(shown, self.gate(list(shown.values())), strict=True))

    def _order(self, pair: Pair, text: str, attempt: int) -> Order:
        paint = self.spec.paint
        assert paint is not None, "refused before (GeneratedSpec)"
        seed = pair.draw(attempt) if paint.seed is None else paint.seed + attempt
        about = {
            "id": pair.prompt.id,
            "pair": pair.key,
            "chosen_response": pair.chosen,
            "rejected_response": pair.rejected,
        }
        if self.spec.kind == "text_to_image":
            return Order(text=text, seed=seed, about=about)
        picture = pair.prompt.images[0]
        box = self._box(pair, attempt) if self.spec.kind == "inpaint" else None
        return Order(text=text, seed=seed, picture=picture, box=box, about=about)

    def _box(self, pair: Pair, attempt: int) -> Box:
        """Named by the facts; or drawn: of the picture's own shape, a share of its area, anywhere in it."""
        if self.spec.box_fact is not None:
            return _told_box(pair.prompt, self.spec.box_fact)
        rng = random.Random(pair.draw(attempt))
        side = rng.uniform(*self.spec.box) ** 0.5
        width, height = read_picture(pair.prompt.images[0]).size
        across, down = max(1, round(width * side)), max(1, round(height * side))
        left, top = rng.randint(0, width - across), rng.randint(0, height - down)
        return left, top, left + across, top + down


def _refused(one: Made | Lost) -> bool:
    return isinstance(one, Lost) and one.outcome == "refused"


def _told_box(prompt: Prompt, key: str) -> Box:
    """
    Raises:
        DataError: no four numbers in order.
    """
    value: Any = fact(prompt, key, "four pixels: left, top, right, bottom")
    whole = isinstance(value, list | tuple) and len(value) == 4 and all(type(one) in (int, float) for one in value)
    if not whole or not (0 <= value[0] < value[2] and 0 <= value[1] < value[3]):
        raise DataError(
            f"fact {key!r} of prompt {prompt.id!r} is {value!r:.80}",
            remedy="Expected four pixels: left, top, right, bottom, with left < right and top < bottom",
        )
    return round(value[0]), round(value[1]), round(value[2]), round(value[3])
