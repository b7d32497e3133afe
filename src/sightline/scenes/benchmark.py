"""Answers about scenes as rows of counts, and the metrics that are ratios of their sums.

CHAIR as Rohrbach et al. 2018 (arXiv:1809.02156) define it per mention; Hal, Cover and Cog as AMBER does
(Wang et al. 2023, arXiv:2311.07397); the yes/no figures as POPE does (Li et al. 2023, arXiv:2305.10355).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sightline.scenes.grader import grade_answer, grade_caption, word_count, yes_no
from sightline.scenes.reward import scene_facts
from sightline.scenes.scene import Scene
from sightline.types import Group, Prompt, Response

RATIOS: Final[dict[str, tuple[str, str]]] = {
    "chair": ("hallucinated", "mentions"),
    "hal": ("hallucinating", "captions"),
    "cover": ("covered", "present"),
    "cog": ("cog", "mentions"),
    "repeated": ("repeated", "mentions"),
    "miscoloured": ("miscoloured", "mentions"),
    "length": ("words", "captions"),
    "accuracy": ("right", "asked"),
    "precision": ("hits", "claims"),
    "recall": ("hits", "positives"),
    "f1": ("twice_hits", "claims_and_positives"),
    "yes_rate": ("claims", "asked"),
    "tempting_accuracy": ("tempting_right", "tempting_asked"),
    "relation_accuracy": ("relation_right", "relation_asked"),
    "count_accuracy": ("count_right", "count_asked"),
    "colour_accuracy": ("colour_right", "colour_asked"),
}
"""Metric to (numerator, denominator): both are sums over answers of a column of counts.

``chair``: mentions of shapes that are not there, of all mentions. ``hal``: captions with such a mention.
``cover``: distinct shapes that are there and mentioned, of those that are there. ``cog``: mentions of shapes that
are not there but go with what is (the co-occurrence prior), of all mentions: the part of CHAIR that the prior
explains. ``length``: words of a caption. ``accuracy`` to ``yes_rate``: presence questions, "yes" is positive, an
answer that is neither yes nor no is wrong and not a yes. ``tempting_accuracy``: presence questions about absent
shapes that go with what is there.
"""
COLUMNS: Final = tuple(dict.fromkeys(column for ratio in RATIOS.values() for column in ratio))
"""Every column of counts, each once."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One graded answer."""

    prompt: str
    """Id of the prompt."""
    scene: str
    """Id of the scene: answers about one scene are not independent."""
    kind: str
    text: str
    counts: Mapping[str, float]
    """What the answer adds to each of ``COLUMNS``; 0 where left out."""
    wrong: tuple[tuple[int, int], ...] = ()
    """Half-open character spans [start, end) of ``text`` that name what is not there."""
    missed: tuple[str, ...] = ()
    """Shapes that are there and that a caption does not mention."""


def grade(groups: Iterable[Group]) -> list[Record]:
    """Every response of every group, held against the facts of its prompt.

    Raises:
        DataError: A prompt was not made by the world: its facts are missing.
    """
    return [
        grade_response(group.prompts[response.prompt], response) for group in groups for response in group.responses
    ]


def grade_response(prompt: Prompt, response: Response) -> Record:
    """One answer, held against the facts of its prompt."""
    facts = scene_facts(prompt)
    if facts["kind"] == "caption":
        return _caption(prompt, response.text, facts)
    return _answer(prompt, response.text, facts)


def _caption(prompt: Prompt, text: str, facts: Mapping[str, Any]) -> Record:
    scene = Scene.from_facts(facts["scene"])
    grade = grade_caption(text, scene, facts["tempting"])
    counts = {
        "captions": 1,
        "hallucinating": bool(grade.hallucinated),
        "mentions": len(grade.mentions),
        "hallucinated": len(grade.hallucinated),
        "cog": len(grade.cog),
        "repeated": len(grade.repeated),
        "miscoloured": len(grade.miscoloured),
        "covered": grade.covered,
        "present": grade.present,
        "words": word_count(text),
    }
    return Record(
        prompt=prompt.id,
        scene=scene.id,
        kind="caption",
        text=text,
        counts=counts,
        wrong=tuple((mention.start, mention.end) for mention in grade.hallucinated),
        missed=grade.missed,
    )


def _answer(prompt: Prompt, text: str, facts: Mapping[str, Any]) -> Record:
    kind = facts["kind"]
    right = bool(grade_answer(text, facts))
    if kind == "presence":
        claim, positive = yes_no(text) is True, facts["truth"] == "yes"
        counts = {
            "asked": 1,
            "right": right,
            "claims": claim,
            "positives": positive,
            "hits": claim and positive,
            "twice_hits": 2 * (claim and positive),
            "claims_and_positives": claim + positive,
            "tempting_asked": facts["about"]["tempting"],
            "tempting_right": facts["about"]["tempting"] and right,
        }
    else:
        counts = {f"{kind}_asked": 1, f"{kind}_right": right}
    return Record(prompt=prompt.id, scene=facts["scene"]["id"], kind=kind, text=text, counts=counts)


def columns(records: Sequence[Record]) -> dict[str, list[float]]:
    """Each of ``COLUMNS`` as a list over answers, for a bootstrap over answers or scenes."""
    return {name: [float(record.counts.get(name, 0)) for record in records] for name in COLUMNS}


def metrics(records: Sequence[Record]) -> dict[str, float]:
    """The metrics of ``RATIOS``; those without anything to divide by are left out."""
    sums = {name: sum(values) for name, values in columns(records).items()}
    return {name: sums[top] / sums[bottom] for name, (top, bottom) in RATIOS.items() if sums[bottom]}
