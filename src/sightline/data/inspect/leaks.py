"""Whether rows that are trained on show what a benchmark asks: its pictures, or its questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sightline.data.inspect.answers import plain
from sightline.data.inspect.figures import Finding, Found
from sightline.data.inspect.pictures import Look, similar
from sightline.data.template import text_of
from sightline.types import Group, Prompt


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a benchmark, or held-out data, ask: the texts of a prompt's user turns, and its pictures."""

    questions: frozenset[str] = frozenset()
    """Its text in every wording, without what white space and case say."""
    pictures: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Leak:
    """What of a benchmark is in the rows."""

    name: str
    pictures: int
    """Of the benchmark, by path."""
    questions: int
    """Distinct texts, other wordings counted."""
    unread: int
    """Of its pictures, how many cannot be read."""
    same: Found
    """Rows with the pixels of one of its pictures."""
    similar: Found
    """Rows with a picture that looks like one of its pictures and has other pixels: approximate."""
    both: Found
    """Rows that ask the same question about the same pixels."""
    question: Found
    """Rows that ask the same question, about any picture: common questions are no leak by themselves."""


def asked_of(prompt: Prompt, *wordings: str) -> Asked:
    """What a prompt asks, and how else it is worded."""
    texts = [" ".join(text_of(message) for message in prompt.messages if message["role"] == "user"), *wordings]
    return Asked(questions=frozenset(map(plain, texts)) - {""}, pictures=prompt.images)


def leak(groups: Sequence[Group], looks: Mapping[str, Look], name: str, asked: Sequence[Asked]) -> Leak:
    """
    Args:
        groups: that are trained on.
        looks: by path, of all pictures of the groups and of the benchmark.
        name: of the benchmark.
        asked: what it asks.
    """
    theirs = dict.fromkeys(path for one in asked for path in one.pictures)
    by_pixels = {looks[path].pixels: path for path in reversed(theirs) if looks[path].pixels is not None}
    twins = _similar(groups, looks, theirs)
    exact = {
        (text, looks[path].pixels)
        for one in asked
        for path in one.pictures
        for text in one.questions
        if not looks[path].fault
    }
    questions = {text for one in asked for text in one.questions}
    same, like, both, question = Finding(), Finding(), Finding(), Finding()
    for group in groups:
        paths = [path for prompt in group.prompts for path in prompt.images]
        hits = [(path, by_pixels[looks[path].pixels]) for path in paths if looks[path].pixels in by_pixels]
        near = [(path, twins[path]) for path in paths if path in twins and looks[path].pixels not in by_pixels]
        if hits:
            same.add(_told(group, *hits[0]))
        if near:
            like.add(_told(group, *near[0]))
        own = [asked_of(prompt) for prompt in group.prompts]
        pairs = [(text, looks[path].pixels) for one in own for path in one.pictures for text in one.questions]
        if not exact.isdisjoint(pairs):
            both.add(_told(group, *hits[0]))
        if repeated := [text for one in own for text in one.questions & questions]:
            question.add(f"{group.source}: {repeated[0]!r:.60}")
    return Leak(
        name=name,
        pictures=len(theirs),
        questions=len(questions),
        unread=sum(bool(looks[path].fault) for path in theirs),
        same=same.found(),
        similar=like.found(),
        both=both.found(),
        question=question.found(),
    )


def _similar(groups: Sequence[Group], looks: Mapping[str, Look], theirs: Mapping[str, None]) -> dict[str, str]:
    """Path of a group to the path of a benchmark that looks like it."""
    own = dict.fromkeys(path for group in groups for prompt in group.prompts for path in prompt.images)
    sides = [[path for path in paths if looks[path].gradient is not None] for paths in (own, theirs)]
    gradients = [[looks[path].gradient or b"" for path in side] for side in sides]
    return {sides[0][place]: sides[1][other] for place, other in similar(*gradients).items()}


def _told(group: Group, own: str, other: str) -> str:
    return f"{group.source}: {own} is {other}"
