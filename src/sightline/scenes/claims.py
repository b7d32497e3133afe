"""What a caption of the built-in world claims, by its grammar, and how the world asks about it."""

from __future__ import annotations

from sightline.scenes.grader import mentions
from sightline.scenes.language import NUMBERS, phrase, plural

_MANY = len(NUMBERS) - 1


def claims_of(text: str) -> list[str]:
    """A sentence for each object that a text says is there, in order.

    >>> claims_of("There is a small red star and no ring. I can also see two moons.")
    ['There is a small red star.', 'There are two moons.']
    """
    found = []
    for one in mentions(text):
        adjectives = " ".join(word for word in (one.size, one.colour) if word)
        if one.number == 1:
            found.append(f"There is {phrase(one.colour or '', one.shape, one.size or '')}.")
        else:
            number = NUMBERS[min(one.number, _MANY)]
            found.append(f"There are {' '.join(word for word in (number, adjectives, plural(one.shape)) if word)}.")
    return found


def question_about(claim: str) -> str | None:
    """Whether the shape is there of which a claim speaks first: colour, size and number are not asked, for the world
    asks for these by other questions than of yes and no. None where it names no shape.

    >>> question_about("There is a small red star.")
    'Is there a star in the picture?'
    """
    found = mentions(claim)
    return f"Is there {phrase('', found[0].shape)} in the picture?" if found else None
