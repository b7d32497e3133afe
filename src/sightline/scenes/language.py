"""What is said about a scene: captions, questions and their true answers, each in several phrasings."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from sightline.scenes.scene import COLOURS, SHAPES, SIZES, Scene, SceneObject

Kind = Literal["caption", "presence", "count", "colour", "relation"]

NUMBERS: Final = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WORD: Final = re.compile(r"[A-Za-z]+(?:'[a-z]+)?|\d+|[^\sA-Za-z\d]")
"""A word, a number or one punctuation mark."""

_CAPTION_REQUESTS: Final = (
    "Describe the picture.",
    "What is in the picture?",
    "What do you see in this image?",
    "Please describe this image.",
    "Which objects are there?",
)
_CAPTIONS: Final = (
    "The picture shows {all}.",
    "There is {all}.",
    "I can see {all}.",
    "The image has {all}.",
    "There is {first}. I can also see {rest}.",
)
_PRESENCE: Final = (
    "Is there {a} in the picture?",
    "Can you see {a}?",
    "Does the image show {a}?",
    "Do you see {a} here?",
)
_COUNT: Final = ("How many {things} are there?", "How many {things} do you see?", "Count the {things}.")
_COLOUR: Final = ("What colour is the {shape}?", "Which colour does the {shape} have?")
_RELATION: Final = ("Is the {first} {relation} the {second}?", "Do you see the {first} {relation} the {second}?")
_YES: Final = ("Yes.", "Yes, {it} is.")
_NO: Final = ("No.", "No, {it} is not.")
RELATIONS: Final = ("to the left of", "to the right of", "above", "below")


@dataclass(frozen=True, kw_only=True)
class Companion:
    """What usually goes with an object, as it usually looks."""

    shape: str
    colour: str


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question about a scene, or the request for a caption."""

    kind: Kind
    text: str
    answer: str
    """A right answer in words; for a caption, what the biased captioner says."""
    truth: str
    """``yes`` or ``no``, a number in words, a colour; empty for a caption."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """What it asks for, as plain JSON."""


def article(word: str) -> str:
    """``a`` or ``an``, as the next word asks for."""
    return "an" if word[0] in "aeiou" else "a"


def plural(noun: str) -> str:
    """The plural of a shape or of ``object``."""
    return noun + ("es" if noun.endswith("s") else "s")


def phrase(colour: str, shape: str, size: str = "") -> str:
    """``a small red circle``."""
    words = [word for word in (size, colour, shape) if word]
    return " ".join([article(words[0]), *words])


def listing(phrases: Sequence[str]) -> str:
    """``a star``, ``a star and a moon``, ``a star, a moon and a ring``."""
    if len(phrases) == 1:
        return phrases[0]
    return ", ".join(phrases[:-1]) + " and " + phrases[-1]


def caption(
    scene: Scene, rng: random.Random, *, companions: Mapping[str, Companion], prior: float, sized: float
) -> Question:
    """A caption as a biased captioner writes it.

    Objects come in reading order, a companion right after the object that it goes with. A companion that is
    absent is named all the same with probability ``prior``, as it usually looks. ``sized`` is the probability
    that an object's size is told.
    """
    phrases: list[str] = []
    shapes = scene.shapes
    follows = {companions[s].shape: s for s in shapes if s in companions}
    told: set[str] = set()
    for item in scene.objects:
        if item.shape in follows:
            continue
        phrases.append(_told(item, rng, sized))
        companion = companions.get(item.shape)
        if companion is None or item.shape in told:
            continue
        told.add(item.shape)
        present = [other for other in scene.objects if other.shape == companion.shape]
        phrases.extend(_told(other, rng, sized) for other in present)
        if not present and rng.random() < prior:
            phrases.append(phrase(companion.colour, companion.shape))
    template = rng.choice(_CAPTIONS if len(phrases) > 1 else _CAPTIONS[:-1])
    text = template.format(all=listing(phrases), first=phrases[0], rest=listing(phrases[1:] or phrases))
    return Question(kind="caption", text=rng.choice(_CAPTION_REQUESTS), answer=text, truth="")


def _told(item: SceneObject, rng: random.Random, sized: float) -> str:
    return phrase(item.colour, item.shape, item.size if rng.random() < sized else "")


def _yes_no(rng: random.Random, truth: bool, subject: str) -> dict[str, str]:
    return {"answer": rng.choice(_YES if truth else _NO).format(it=subject), "truth": "yes" if truth else "no"}


def presence(scene: Scene, rng: random.Random, *, shapes: Sequence[str], tempting: Sequence[str]) -> Question:
    """Whether a shape is there: yes and no equally often; half of the absent ones are ``tempting`` (they would
    go with what is there), where there are any."""
    truth = rng.random() < 0.5
    absent = [shape for shape in shapes if shape not in scene.shapes]
    lure = not truth and bool(tempting) and rng.random() < 0.5
    pool = sorted(scene.shapes) if truth else list(tempting) if lure else absent
    shape = rng.choice(pool)
    text = rng.choice(_PRESENCE).format(a=phrase("", shape))
    about = {"shape": shape, "tempting": shape in tempting}
    return Question(kind="presence", text=text, about=about, **_yes_no(rng, truth, "there"))


def count(scene: Scene, rng: random.Random, *, shapes: Sequence[str], colours: Sequence[str]) -> Question:
    """How many objects there are: of all, of a colour or of a shape."""
    of = rng.choice(("all", "colour", "shape"))
    about: dict[str, str] = {}
    things, number = "objects", len(scene.objects)
    if of == "colour":
        colour = rng.choice([o.colour for o in scene.objects] + [rng.choice(colours)])
        things, number = f"{colour} objects", sum(o.colour == colour for o in scene.objects)
        about = {"colour": colour}
    elif of == "shape":
        shape = rng.choice([o.shape for o in scene.objects] + [rng.choice(shapes)])
        things, number = plural(shape), sum(o.shape == shape for o in scene.objects)
        about = {"shape": shape}
    word = NUMBERS[number]
    answer = rng.choice((f"{word.capitalize()}.", f"There {'is' if number == 1 else 'are'} {word}."))
    return Question(kind="count", text=rng.choice(_COUNT).format(things=things), answer=answer, truth=word, about=about)


def colour(scene: Scene, rng: random.Random) -> Question | None:
    """The colour of a shape that is there once; None where there is no such shape."""
    single = _single(scene)
    if not single:
        return None
    item = rng.choice(single)
    answer = rng.choice((f"{item.colour.capitalize()}.", f"It is {item.colour}."))
    text = rng.choice(_COLOUR).format(shape=item.shape)
    return Question(kind="colour", text=text, answer=answer, truth=item.colour, about={"shape": item.shape})


def relation(scene: Scene, rng: random.Random) -> Question | None:
    """Where one object stands from another, both of shapes that are there once; None where there are not two."""
    single = _single(scene)
    if len(single) < 2:
        return None
    first, second = rng.sample(single, 2)
    across, down = first.column - second.column, first.row - second.row
    options = [name for name, gap in zip(RELATIONS, (across, across, down, down), strict=True) if gap]
    name = rng.choice(options)
    truth = {"to the left of": across < 0, "to the right of": across > 0, "above": down < 0, "below": down > 0}[name]
    text = rng.choice(_RELATION).format(first=first.shape, relation=name, second=second.shape)
    about = {"first": first.shape, "relation": name, "second": second.shape}
    return Question(kind="relation", text=text, about=about, **_yes_no(rng, truth, "it"))


def _single(scene: Scene) -> list[SceneObject]:
    shapes = [item.shape for item in scene.objects]
    return [item for item in scene.objects if shapes.count(item.shape) == 1]


def vocabulary() -> tuple[str, ...]:
    """Every word and mark that captions, questions and answers are made of, sorted."""
    texts = [*_CAPTION_REQUESTS, *_CAPTIONS, *_PRESENCE, *_COUNT, *_COLOUR, *_RELATION, *_YES, *_NO, *RELATIONS]
    texts += ["a an and , . It is it there There are objects"]
    words = {word for text in texts for word in WORD.findall(re.sub(r"\{\w+\}", " ", text))}
    words.update(COLOURS, SIZES, SHAPES, map(plural, SHAPES), NUMBERS)
    words.update(word.capitalize() for word in (*COLOURS, *NUMBERS))
    return tuple(sorted(words))
