"""The scene that a wrong answer tells, drawn: negatives of the built-in world, which show the hallucination exactly."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sightline.files import replacing
from sightline.negatives.pairs import Lost, Made, Pair
from sightline.rewards.terms import within
from sightline.scenes.grader import (
    CaptionGrade,
    Mention,
    colour,
    grade_answer,
    grade_caption,
    mentions,
    number,
    yes_no,
)
from sightline.scenes.language import NUMBERS
from sightline.scenes.reward import scene_facts
from sightline.scenes.scene import COLOURS, SHAPES, SIZES, Scene, SceneObject
from sightline.types import Group

_MISTAKES = ("hallucinated", "miscoloured", "repeated")


class _Undrawable(Exception):
    """No scene bears the answer out."""


@dataclass(frozen=True, kw_only=True)
class DrawnScenes:
    """Draws, for each pair, the scene with as little changed as makes the rejected answer right, and the chosen one
    wrong where both can be had. The result is checked by the world's own grader."""

    folder: Path

    def make(self, pairs: Sequence[Pair]) -> list[Made | Lost]:
        """See ``Maker.make``."""
        return [self._made(pair) for pair in pairs]

    def check(self, groups: Sequence[Group]) -> None:
        """See ``Maker.check``."""
        for group in groups:
            for prompt in group.prompts:
                within(group, scene_facts, prompt)

    def give_up(self) -> None:
        """It never waits."""

    def _made(self, pair: Pair) -> Made | Lost:
        facts = scene_facts(pair.prompt)
        try:
            scene = told_scene(facts, pair.chosen, pair.rejected, random.Random(pair.seed))
        except _Undrawable as why:
            return Lost(outcome="failed", reason=str(why))
        file = self.folder.absolute() / f"scene-{pair.key}-{pair.seed:x}.png"
        if not file.exists():
            with replacing(file) as aside:
                scene.draw().save(aside, format="PNG", compress_level=1)
        return Made(image=str(file), facts={**facts, "scene": scene.facts(), **_truth(facts, scene)})


def told_scene(facts: Mapping[str, Any], chosen: str, rejected: str, rng: random.Random) -> Scene:
    """The scene that the rejected answer tells.

    Args:
        facts: of the prompt.
        chosen: the answer that is to be wrong about it, where both can be had.
        rejected: the answer that is to be right about it.
        rng: draws what no answer says: places, sizes, colours.

    Raises:
        _Undrawable: no scene bears the answer out.
    """
    before = Scene.from_facts(facts["scene"])
    make = {"caption": _captioned, "presence": _present, "count": _counted, "colour": _coloured, "relation": _related}
    after = make[facts["kind"]](before, facts, chosen, rejected, rng)
    if not after.objects or after.signature == before.signature:
        raise _Undrawable(f"no scene differs from the true one and bears out {rejected!r:.80}")
    if not _holds(rejected, facts, after):
        raise _Undrawable(f"the scene that was drawn does not bear out {rejected!r:.80}")
    return after


def _holds(text: str, facts: Mapping[str, Any], scene: Scene) -> bool:
    """Whether an answer is right about a scene."""
    if facts["kind"] == "caption":
        grade = grade_caption(text, scene, ())
        return bool(grade.mentions) and not any(vars(grade)[name] for name in _MISTAKES)
    return grade_answer(text, {**facts, **_truth(facts, scene)}) is True


def _truth(facts: Mapping[str, Any], scene: Scene) -> dict[str, str]:
    """The true answer to the prompt's question about another scene."""
    about, kind, objects = facts["about"], facts["kind"], scene.objects
    if kind == "presence":
        return {"truth": "yes" if about["shape"] in scene.shapes else "no"}
    if kind == "count":
        return {"truth": NUMBERS[min(sum(_is_of(one, about) for one in objects), len(NUMBERS) - 1)]}
    single = {one.shape: one for one in objects}
    if kind == "colour":
        return {"truth": single[about["shape"]].colour if about["shape"] in single else ""}
    if kind == "relation":
        first, second = single.get(about["first"]), single.get(about["second"])
        holds = first is not None and second is not None and _stands(first, about["relation"], second)
        return {"truth": "yes" if holds else "no"}
    return {"truth": ""}


def _is_of(item: SceneObject, about: Mapping[str, str]) -> bool:
    return all(vars(item)[key] == about[key] for key in ("shape", "colour") if key in about)


def _stands(first: SceneObject, relation: str, second: SceneObject) -> bool:
    across, down = first.column - second.column, first.row - second.row
    return {"to the left of": across < 0, "to the right of": across > 0, "above": down < 0, "below": down > 0}[relation]


def _captioned(before: Scene, facts: Mapping[str, Any], chosen: str, rejected: str, rng: random.Random) -> Scene:
    """Everything that the rejected caption tells and nothing that the chosen one tells beside."""
    grade = grade_caption(rejected, before, ())
    if not grade.mentions:
        raise _Undrawable(f"{rejected!r:.80} tells no object")
    scene = _recoloured(before, grade)
    told = {mention.shape for mention in grade.mentions}
    beside = {mention.shape for mention in mentions(chosen)} - told
    scene = replace(scene, objects=tuple(one for one in scene.objects if one.shape not in beside))
    wanted: list[Mention] = [m for m in grade.hallucinated for _ in range(m.number)] + list(grade.repeated)
    for mention in wanted:
        scene = _with(scene, mention.shape, mention.colour, mention.size, told, rng)
    return scene


def _recoloured(scene: Scene, grade: CaptionGrade) -> Scene:
    """Objects in the colours that they are told in; one that is told as it is stays so."""
    told = Counter((m.shape, m.colour) for m in grade.mentions for _ in range(m.number) if m.colour is not None)
    objects, others = list(scene.objects), list[int]()
    for place, item in enumerate(objects):
        if told[item.shape, item.colour]:
            told[item.shape, item.colour] -= 1
        else:
            others.append(place)
    for mention in grade.miscoloured:
        place = next(place for place in others if objects[place].shape == mention.shape)
        others.remove(place)
        objects[place] = replace(objects[place], colour=str(mention.colour))
    return replace(scene, objects=tuple(objects))


def _with(scene: Scene, shape: str, colour: str | None, size: str | None, told: set[str], rng: random.Random) -> Scene:
    """The scene with one more object, in a free cell, or in the place of an object that nobody tells."""
    cells = {(one.row, one.column) for one in scene.objects}
    free = [cell for cell in _cells(scene) if cell not in cells]
    objects = list(scene.objects)
    if not free:
        untold = [one for one in objects if one.shape not in told]
        if not untold:
            raise _Undrawable(f"there is no room for another {shape}")
        gone = rng.choice(untold)
        objects.remove(gone)
        free = [(gone.row, gone.column)]
    row, column = rng.choice(free)
    objects.append(
        SceneObject(
            shape=shape,
            colour=colour or rng.choice(list(COLOURS)),
            size=size or rng.choice(list(SIZES)),
            row=row,
            column=column,
        )
    )
    return replace(scene, objects=tuple(sorted(objects, key=lambda one: (one.row, one.column))))


def _cells(scene: Scene) -> list[tuple[int, int]]:
    return [(row, column) for row in range(scene.grid) for column in range(scene.grid)]


def _present(before: Scene, facts: Mapping[str, Any], chosen: str, rejected: str, rng: random.Random) -> Scene:
    shape, said = facts["about"]["shape"], yes_no(rejected)
    if said is None:
        raise _Undrawable(f"{rejected!r:.80} says neither yes nor no")
    if said:
        return before if shape in before.shapes else _with(before, shape, None, None, set(), rng)
    left = tuple(one for one in before.objects if one.shape != shape)
    if left:
        return replace(before, objects=left)
    others = [name for name in SHAPES if name != shape]  # a picture of nothing would show more than that
    return replace(before, objects=tuple(replace(one, shape=rng.choice(others)) for one in before.objects[:1]))


def _counted(before: Scene, facts: Mapping[str, Any], chosen: str, rejected: str, rng: random.Random) -> Scene:
    about, said = facts["about"], number(rejected)
    if said is None or said >= len(NUMBERS):
        raise _Undrawable(f"{rejected!r:.80} says no number that can be drawn")
    counted = [one for one in before.objects if _is_of(one, about)]
    if said < len(counted):
        gone = rng.sample(counted, len(counted) - said)
        return replace(before, objects=tuple(one for one in before.objects if one not in gone))
    scene = before
    for _ in range(said - len(counted)):
        if len(scene.objects) == scene.grid**2 and not about:
            raise _Undrawable(f"there is no room for {said} objects")
        scene = _one_more(scene, about, rng)
    return scene


def _one_more(scene: Scene, about: Mapping[str, str], rng: random.Random) -> Scene:
    """With one more of what is counted; where there is no free cell, in the place of one that is not."""
    if len(scene.objects) == scene.grid**2:
        others = [one for one in scene.objects if not _is_of(one, about)]
        if not others:
            raise _Undrawable("there is no room for another object")
        gone = rng.choice(others)
        scene = replace(scene, objects=tuple(one for one in scene.objects if one is not gone))
    shape = about.get("shape") or rng.choice(list(SHAPES))
    return _with(scene, shape, about.get("colour"), None, set(), rng)


def _coloured(before: Scene, facts: Mapping[str, Any], chosen: str, rejected: str, rng: random.Random) -> Scene:
    said, shape = colour(rejected), facts["about"]["shape"]
    if said is None:
        raise _Undrawable(f"{rejected!r:.80} names no colour")
    objects = tuple(replace(one, colour=said) if one.shape == shape else one for one in before.objects)
    return replace(before, objects=objects)


def _related(before: Scene, facts: Mapping[str, Any], chosen: str, rejected: str, rng: random.Random) -> Scene:
    """The two objects change places."""
    about, said = facts["about"], yes_no(rejected)
    first = next((one for one in before.objects if one.shape == about["first"]), None)
    second = next((one for one in before.objects if one.shape == about["second"]), None)
    if said is None or first is None or second is None:
        raise _Undrawable(f"{rejected!r:.80} says neither yes nor no, or of what is not there")
    if said == _stands(first, about["relation"], second):
        return before
    swapped = {
        first: replace(first, row=second.row, column=second.column),
        second: replace(second, row=first.row, column=first.column),
    }
    objects = [swapped.get(one, one) for one in before.objects]
    return replace(before, objects=tuple(sorted(objects, key=lambda one: (one.row, one.column))))
