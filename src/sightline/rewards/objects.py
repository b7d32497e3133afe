"""Objects that a description names against those of the picture, by the graders of the benchmarks."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from sightline.errors import DataError
from sightline.evaluation.benches import chair
from sightline.evaluation.benches.amber import description_tools
from sightline.evaluation.benches.chair import chair_extraction
from sightline.evaluation.coco import Annotations, Mention, ObjectList, Picture, grade_mentions
from sightline.recipes.terms import ObjectsSpec
from sightline.rewards.terms import Rule, Term, Value, fact, within, wrong_fact
from sightline.scenes.grader import grade_caption
from sightline.scenes.reward import scene_facts
from sightline.scenes.scene import Scene
from sightline.types import Group, Prompt, Response

_NUMBERED: Final = re.compile(r"(\d+)$")
"""COCO names a picture by its id: ``COCO_val2014_000000310196.jpg``, ``000000310196.jpg``."""


class Named(NamedTuple):
    """What a description names."""

    mentions: int
    hallucinated: int
    objects: int
    found: int


def objects(spec: ObjectsSpec) -> Term:
    """The term.

    Raises:
        DataError: A word list is missing.
    """
    if spec.world == "scenes":
        return Rule(judge=lambda prompt, response: measure(spec, _in_scene(prompt, response)), reads=scene_facts)
    assert spec.data is not None
    if spec.world == "amber":
        return _amber(spec, Path(spec.data))
    listed, extract, _ = chair_extraction(Path(spec.data), spec.protocol)
    if spec.fact is None:
        return CocoAnnotated(spec=spec, objects=listed, extract=extract)
    return _coco_facts(spec, listed, extract)


def measure(spec: ObjectsSpec, named: Named) -> float:
    """Precision, coverage or their harmonic mean, in [0, 1].

    Four mentions, one of them wrong, that name two of five objects: precision 0.75, coverage 0.4, f1 0.5217.
    """
    precision = 1 - named.hallucinated / named.mentions if named.mentions else 1.0
    coverage = named.found / named.objects if named.objects else 1.0
    if spec.measure != "f1":
        return precision if spec.measure == "precision" else coverage
    return 2 * precision * coverage / (precision + coverage) if precision + coverage else 0.0


def _in_scene(prompt: Prompt, response: Response) -> Named:
    facts = scene_facts(prompt)
    grade = grade_caption(response.text, Scene.from_facts(facts["scene"]), facts["tempting"])
    return Named(len(grade.mentions), len(grade.hallucinated), grade.present, grade.covered)


def _amber(spec: ObjectsSpec, data: Path) -> Rule:
    extract, judgement, _ = description_tools(data, {"similarity": spec.similarity})
    key = spec.fact or "truth"

    def truth(prompt: Prompt) -> list[str]:
        words = _names(prompt, key)
        judgement.judge([], words, [])  # refuses words that the relation table does not have
        return words

    def judge(prompt: Prompt, response: Response) -> Value:
        found = judgement.judge(extract(response.text), _names(prompt, key), [])
        return measure(spec, Named(len(found.nouns), len(found.hallucinated), len(found.covered), sum(found.covered)))

    return Rule(judge=judge, reads=truth)


def _coco_facts(spec: ObjectsSpec, listed: ObjectList, extract: Callable[[str], list[Mention]]) -> Rule:
    assert spec.fact is not None
    key: str = spec.fact

    def present(prompt: Prompt) -> frozenset[str]:
        names = _names(prompt, key)
        unknown = [name for name in names if name not in listed.categories]
        if unknown:
            remedy = "Give names that the list of synonyms has"
            raise DataError(f"fact {key!r} of prompt {prompt.id!r} names {unknown[0]!r:.100}", remedy=remedy)
        told = [] if spec.captions is None else _texts(prompt, spec.captions)
        said = {mention.category for text in told for mention in listed.mentions(text)}
        return frozenset({listed.categories[name] for name in names} | said)

    def judge(prompt: Prompt, response: Response) -> Value:
        picture = Picture(file_name=prompt.id, objects=present(prompt))
        return measure(spec, _in_picture(response.text, extract, picture))

    return Rule(judge=judge, reads=present)


def _in_picture(text: str, extract: Callable[[str], list[Mention]], picture: Picture) -> Named:
    counts = grade_mentions("", text, extract(text), picture, {}).counts
    return Named(*(int(counts[name]) for name in ("mentions", "hallucinated", "objects", "found")))


@dataclass(kw_only=True)
class CocoAnnotated:
    """COCO pictures, found by the number in their name in the annotation files of a folder."""

    spec: ObjectsSpec
    objects: ObjectList
    extract: Callable[[str], list[Mention]]
    remote: bool = False
    _pictures: dict[int, Picture] = field(default_factory=dict)

    def check(self, groups: Sequence[Group]) -> None:
        self._load(groups)

    def values(self, groups: Sequence[Group]) -> list[list[Value]]:
        self._load(groups)
        return [[self._value(group, response) for response in group.responses] for group in groups]

    def give_up(self) -> None:
        """It never waits."""

    def _value(self, group: Group, response: Response) -> Value:
        picture = self._pictures[_picture_id(group.prompts[response.prompt])]
        return measure(self.spec, _in_picture(response.text, self.extract, picture))

    def _load(self, groups: Sequence[Group]) -> None:
        """All new pictures in one pass over the files, which are large."""
        ids = {within(group, _picture_id, prompt) for group in groups for prompt in group.prompts}
        new = sorted(ids - self._pictures.keys())
        if new:
            assert self.spec.data is not None
            self._pictures |= Annotations(Path(self.spec.data), chair.BENCH).pictures(new, self.objects)


def _picture_id(prompt: Prompt) -> int:
    found = _NUMBERED.search(Path(prompt.images[0]).stem) if len(prompt.images) == 1 else None
    if found is None:
        raise DataError(
            f"prompt {prompt.id!r} has the pictures {list(prompt.images)!r:.100}",
            remedy="Expected one whose name ends in its COCO id, as COCO_val2014_000000310196.jpg; or give a fact",
        )
    return int(found[1])


def _names(prompt: Prompt, key: str) -> list[str]:
    """Names of objects: texts, or objects with a ``category``."""
    listed: Any = fact(prompt, key, "a list of names of objects")
    entries = listed if isinstance(listed, list) else [listed]
    names = [one.get("category") if isinstance(one, dict) else one for one in entries]
    told = [name for name in names if isinstance(name, str)]
    if not isinstance(listed, list) or len(told) < len(listed):
        raise wrong_fact(prompt, key, "a list of names, or of {category: name}")
    return told


def _texts(prompt: Prompt, key: str) -> list[str]:
    listed: Any = fact(prompt, key, "captions")
    texts = [listed] if isinstance(listed, str) else listed
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise wrong_fact(prompt, key, "a text or a list of texts")
    return texts
