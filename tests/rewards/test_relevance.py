"""Relevance of sentences: asked of any reward, each once, and never a zero for what failed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from sightline.errors import ServiceError
from sightline.relations.tree import Sentence, SentenceTree
from sightline.rewards.relevance import with_relevance
from sightline.types import Group, Prompt


@dataclass
class Length:
    """Characters of an answer; none for one that begins with X."""

    asked: list[list[str]] = field(default_factory=list)

    def reward(self, group):
        self.asked.append([response.text for response in group.responses])
        return replace(
            group,
            responses=tuple(
                replace(r, reward=None if r.text[0] == "X" else float(len(r.text)), reward_error="it broke")
                for r in group.responses
            ),
        )


def tree(name, *texts):
    prompt = Prompt(id=name, messages=({"role": "user", "content": "?"},))
    nodes = [Sentence(id=0), *(Sentence(id=i, parent=0, text=text) for i, text in enumerate(texts, 1))]
    return SentenceTree(group=Group(prompts=(prompt,)), nodes=tuple(nodes))


def test_each_sentence_is_asked_once_and_what_is_none_is_not():
    reward = Length()
    trees = [tree("a", "A *dog*.", "", "B."), tree("b", ""), tree("c", "Cat.")]
    made = with_relevance(reward, trees)
    assert [[node.clip for node in one.nodes] for one in made] == [[None, 6.0, None, 2.0], [None, None], [None, 4.0]]
    assert reward.asked == [["A dog.", "B."], ["Cat."]]
    assert with_relevance(reward, made) == made and len(reward.asked) == 2
    more = replace(made[0], nodes=(*made[0].nodes, Sentence(id=4, parent=1, text="More.")))
    assert [node.clip for node in with_relevance(reward, [more])[0].nodes] == [None, 6.0, None, 2.0, 5.0]
    assert reward.asked[2:] == [["More."]]


def test_a_sentence_without_relevance_is_an_error_that_names_it():
    with pytest.raises(ServiceError, match=r"sentence 1 of the tree of 'a', 'X\.', got no relevance: it broke"):
        with_relevance(Length(), [tree("a", "X.")])
