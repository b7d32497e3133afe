"""The built-in world as judge, describer and image maker: exact, without a model."""

from __future__ import annotations

import functools
import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from PIL import Image

from sightline.errors import DataError
from sightline.evaluation.bench import JudgeReply, JudgeRequest
from sightline.evaluation.judges.base import OnReply, Outcome
from sightline.evaluation.rubric import load_rubric
from sightline.scenes.grader import colour, grade_answer, mentions, number, yes_no
from sightline.scenes.language import phrase, plural
from sightline.scenes.reward import ScenesReward
from sightline.scenes.scene import COLOURS, SHAPES, SIZES, Scene, SceneObject
from sightline.services.batching import Refused
from sightline.services.image import Wanted
from sightline.services.judge import REFERENCE
from sightline.types import Group

Told = tuple[str, str | None]
"""Shape and colour of an object; None: its colour is not told."""
_MOST: Final = 36
"""Objects of one picture."""
_LONGEST: Final = 20_000
"""Characters of a message."""
_WIDEST: Final = 1024
"""Pixels of a side."""


class _Unreadable(Exception):
    """The world cannot answer that."""


class ScenesJudge:
    """Grades and describes what the package's own rubrics ask about drawn scenes.

    A grade is exact: of a caption the harmonic mean of the share of its objects that are there, in their colours, and
    of the share of those that it tells; of a short answer all or nothing. It is held against the facts of the scene
    where the request tells them (``facts: [scene, kind, truth]``), otherwise against the reference answer.
    """

    name, identity, cached = "scenes", "", True

    def answer(self, requests: Sequence[JudgeRequest], on_reply: OnReply) -> None:
        """See ``judges.base.Backend``."""
        for place, request in enumerate(requests):
            on_reply(place, Outcome(reply=self._reply(request)))

    def give_up(self) -> None:
        """It waits for nobody."""

    def _reply(self, request: JudgeRequest) -> JudgeReply:
        if request.likeliest is not None:
            return JudgeReply(text=None, error="the judge of scenes has no tokens, and tells no log-probabilities")
        if len(request.messages[-1]["content"]) > _LONGEST:
            return JudgeReply(text=None, error=f"the last message has more than {_LONGEST} characters")
        for name, say in _SAYS.items():
            values = _worded(name, request.messages)
            if values is not None:
                try:
                    return JudgeReply(text=say(values))
                except _Unreadable as error:
                    return JudgeReply(text=None, error=str(error))
        return JudgeReply(text=None, error=f"the judge of scenes reads the rubrics {', '.join(_SAYS)} alone")


class ScenesMaker:
    """Draws what a description tells: so many objects of each shape, in the colours and sizes that it names; what it
    does not name is drawn by the seed."""

    name = "scenes"

    def make(self, wanted: Sequence[Wanted]) -> list[Image.Image | Refused]:
        """See ``image.Maker``. Steps and guidance are of diffusion models."""
        return [self._made(one) for one in wanted]

    def _made(self, wanted: Wanted) -> Image.Image | Refused:
        if wanted.picture is not None:
            return Refused(422, "scenes are drawn anew; this service changes no picture")
        if wanted.width != wanted.height or wanted.width > _WIDEST:
            found = f"w is {wanted.width}, h {wanted.height}"
            return Refused(422, f"scenes are square, up to {_WIDEST} pixels wide, and {found}")
        try:
            return told_scene(wanted.text, wanted.seed, wanted.width).draw()
        except _Unreadable as error:
            return Refused(422, str(error))


def scenes_rewards(groups: Sequence[Group]) -> list[Group]:
    """The reward of the world for every answer.

    Raises:
        DataError: The facts are not those of a scene.
    """
    try:
        return [ScenesReward().reward(group) for group in groups]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        found = f"the facts of a prompt are not those of a scene ({type(error).__name__}: {error})"
        raise DataError(found, remedy="Send facts as sightline.scenes writes them") from error


def told_scene(text: str, seed: int, pixels: int) -> Scene:
    """The scene that a description tells.

    Raises:
        _Unreadable: It tells no object, or too many.
    """
    rng = random.Random(seed)
    told = [one for one in mentions(text) for _ in range(one.number)]
    if not 0 < len(told) <= _MOST:
        raise _Unreadable(f"the description tells {len(told)} objects of the world, expected 1 to {_MOST}")
    grid = next(side for side in range(3, 7) if side**2 >= len(told))
    cells = rng.sample(range(grid**2), len(told))
    objects = [
        SceneObject(
            shape=one.shape,
            colour=one.colour or rng.choice(list(COLOURS)),
            size=one.size or rng.choice(list(SIZES)),
            row=cell // grid,
            column=cell % grid,
        )
        for one, cell in zip(told, cells, strict=True)
    ]
    objects.sort(key=lambda one: (one.row, one.column))
    return Scene(id=f"told-{seed}", objects=tuple(objects), grid=grid, pixels=pixels)


@functools.lru_cache
def _template(name: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """What a rubric begins with, and its fields, each with the text behind it."""
    begin, *rest = re.split(r"\{\{\s*(\w+)\s*\}\}", load_rubric(name).parts[-1][1])
    return begin, tuple(zip(rest[::2], rest[1::2], strict=True))


def _worded(name: str, messages: Sequence[Mapping[str, str]]) -> dict[str, str] | None:
    """The values that fill a rubric to give these messages; None: it is another one. Each field ends where the text
    behind it first stands."""
    begin, fields = _template(name)
    text, values = messages[-1]["content"], dict[str, str]()
    if not text.startswith(begin):
        return None
    place = len(begin)
    for count, (field, behind) in enumerate(fields, start=1):
        last = count == len(fields)
        end = len(text) - len(behind) if last and text.endswith(behind) else -1 if last else text.find(behind, place)
        if end < place or values.setdefault(field, text[place:end]) != text[place:end]:
            return None
        place = end + len(behind)
    return values


def _score(values: Mapping[str, str]) -> str:
    lowest, highest = float(values["lowest"]), float(values["highest"])
    return f"Score: {lowest + (highest - lowest) * _share(values):.4g}"


def _yes(values: Mapping[str, str]) -> str:
    return "yes" if _share(values) == 1 else "no"


def _share(values: Mapping[str, str]) -> float:
    """How right an answer is, 0 to 1."""
    answer, facts = values["answer"], values["facts"]
    if facts.startswith(REFERENCE):
        reference = facts.removeprefix(REFERENCE)
        true = _objects(reference)
        return _overlap(_objects(answer), true) if true else _same(answer, reference)
    known = _facts(facts)
    if known["kind"] != "caption":
        return float(grade_answer(answer, known) is True)
    scene = Scene.from_facts(known["scene"])
    return _overlap(_objects(answer), [(one.shape, one.colour) for one in scene.objects])


def _facts(text: str) -> dict[str, Any]:
    """Facts of a scene as a judge is told them: ``key: value`` in lines."""
    lines = [line.partition(": ") for line in text.splitlines()]
    told: dict[str, Any] = {key: value for key, _, value in lines}
    try:
        told["scene"] = json.loads(told["scene"])
        return {key: told[key] for key in ("scene", "kind", "truth")}
    except (ValueError, KeyError, RecursionError) as error:
        raise _Unreadable("the facts are not those of a scene (scene, kind, truth), nor a reference answer") from error


def _objects(text: str) -> list[Told]:
    return [(one.shape, one.colour) for one in mentions(text) for _ in range(min(one.number, _MOST))]


def _overlap(told: Sequence[Told], true: Sequence[Told]) -> float:
    """Harmonic mean of precision and coverage; an object in the wrong colour is wrong."""
    left, right = list(true), 0
    for one in sorted(told, key=lambda one: one[1] is None):  # those that name a colour choose first
        match = next((other for other in left if other[0] == one[0] and _agree(one[1], other[1])), None)
        if match is not None:
            left.remove(match)
            right += 1
    return 2 * right / (len(told) + len(true))


def _agree(first: str | None, second: str | None) -> bool:
    return first is None or second is None or first == second


def _same(answer: str, reference: str) -> float:
    """Whether two short answers say the same."""
    readers: tuple[Callable[[str], object], ...] = (yes_no, number, colour)
    for read in readers:
        if (said := read(reference)) is not None:
            return float(read(answer) == said)
    return float(answer.split() == reference.split())


def _described(values: Mapping[str, str]) -> str:
    """A caption is its own description; what a short answer says is put into words with its question."""
    shown, asked = values["answer_shown"], mentions(values["question"])
    if mentions(shown):
        return shown.strip()
    if len(asked) > 1 or not asked:
        raise _Unreadable("where objects stand, or how many there are of any kind, is not told in words that are drawn")
    shape = asked[0].shape
    if (told := colour(shown)) is not None:
        return f"There is {_one(replace(asked[0], colour=told))}."
    if (said := yes_no(shown)) is not None:
        other = next(name for name in SHAPES if name != shape)
        return f"There is {_one(asked[0] if said else replace(asked[0], shape=other))}."
    amount = number(shown)
    if not amount:
        raise _Unreadable("the answer to be shown says neither yes nor no, no colour, and no number above 0")
    return f"There are {amount} {plural(shape)}." if amount > 1 else f"There is {_one(asked[0])}."


def _one(mention: Any) -> str:
    return phrase(mention.colour or "", mention.shape, mention.size or "")


_SAYS: Final[Mapping[str, Callable[[Mapping[str, str]], str]]] = {
    "reward_score": _score,
    "reward_yes_no": _yes,
    "negative_describe": _described,
}
"""What it answers, by rubric."""
