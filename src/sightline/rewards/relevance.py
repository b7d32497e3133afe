"""How far each sentence of a tree of answers goes with its picture: any reward, asked sentence by sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sightline.errors import ServiceError
from sightline.relations.junk import plain
from sightline.relations.tree import Sentence, SentenceTree
from sightline.rewards.base import Reward, reward_groups
from sightline.types import Group, Response


def with_relevance(reward: Reward, trees: Sequence[SentenceTree]) -> list[SentenceTree]:
    """The trees with ``clip`` of every sentence that counts and has none yet. Each sentence is asked as an answer to
    the prompt by itself, all of them together where the reward can.

    Raises:
        DataError: a prompt lacks what the reward reads.
        ServiceError: a sentence got no reward. What failed must not look like a sentence without relevance.
    """
    asked = [tree for tree in trees if tree.unasked()]
    scored = iter(reward_groups(reward, [_told(tree.group, tree.unasked()) for tree in asked]))
    return [tree.with_relevance(_found(tree.unasked(), next(scored))) if tree.unasked() else tree for tree in trees]


def _told(group: Group, sentences: Sequence[Sentence]) -> Group:
    return replace(group, responses=tuple(Response(text=plain(one.text)) for one in sentences), edges=())


def _found(sentences: Sequence[Sentence], scored: Group) -> dict[int, float]:
    found: dict[int, float] = {}
    for sentence, response in zip(sentences, scored.responses, strict=True):
        if response.reward is None:
            raise ServiceError(
                f"sentence {sentence.id} of the tree of {scored.id!r}, {response.text!r:.60}, got no relevance: "
                f"{response.reward_error}",
                source=scored.source,
                remedy="Mend what fails and run the same command, which goes on here. Of a term clip: long: cut reads "
                "what is too long as far as it reads",
            )
        found[sentence.id] = response.reward
    return found
