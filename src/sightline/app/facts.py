"""What is known of the picture that is talked about, and which words of an answer it makes wrong or right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sightline.errors import DataError
from sightline.evaluation.known import Annotated, Known, Marks, Span
from sightline.scenes.benchmark import grade_response
from sightline.scenes.grader import grade_caption
from sightline.scenes.scene import Scene
from sightline.types import Prompt, Response

_BY: Final = {"content": "its content is that of", "name": "its name is that of"}
_UNKNOWN: Final = "What is in it is not known, so no word of an answer is marked."
_START: Final = "Start the app with --facts, and words about pictures of COCO and AMBER are."
_ROW: Final = "Its row tells what is in it as {} does; start the app with --facts {}=FOLDER for the list of words."
_ASKS: Final = "An answer to one of its yes/no questions in {} ({}) is told right or wrong, where asked word for word."


@dataclass(frozen=True, kw_only=True)
class Told:
    """Whether an answer to a question that has one right answer is right."""

    words: str
    marks: Marks | None = None
    """The word that was read as the answer; None: words are marked as in a description."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a benchmark or the built-in world knows of a picture; nothing, where both are empty."""

    scene: Mapping[str, Any] | None = None
    """The facts of a scene."""
    known: Known | None = None
    question: str = ""
    """What the facts answer."""
    note: str = ""
    """Where they come from, or why there are none."""

    @property
    def counts(self) -> str:
        """Whose rule says what is wrong; empty: that of the built-in world."""
        return self.known.bench if self.known else ""

    @property
    def there(self) -> str:
        """What is in the picture, in words; empty: not known."""
        if self.scene is not None:
            return ", ".join(f"{one['colour']} {one['shape']}" for one in self.scene["scene"]["objects"])
        if self.known is not None:
            return ", ".join(self.known.objects) or f"nothing that {self.known.bench} lists"
        return ""

    def told(self, question: str, text: str) -> Told | None:
        """Whether an answer is right; None: nobody says what the right one would be."""
        if self.scene is not None:
            asked = question == self.question and self.scene["kind"] != "caption"
            return Told(words=_of_scene(self.scene, text)) if asked else None
        found = self.known.verdict(question, text) if self.known else None
        if found is None:
            return None
        spans = [found.read] if found.read else []
        if found.right:
            return Told(words=f"right, as {self.counts} counts", marks=Marks(right=spans))
        why = "" if spans else ', which reads only "Yes" or "No" alone'
        return Told(words=f"wrong, as {self.counts} counts{why}: {found.truth}", marks=Marks(wrong=spans))

    def marks(self, question: str, text: str) -> Marks:
        """What an answer names; what it leaves out, where a description is what was asked for."""
        if self.scene is not None:
            return _in_scene(self.scene, text, whole=question == self.question and self.scene["kind"] == "caption")
        if self.known is None:
            return Marks()
        found = self.known.mark(text)
        return Marks(wrong=found.wrong, right=found.right, missed=found.missed if question == self.question else ())


def is_world(facts: Mapping[str, Any]) -> bool:
    """Whether they are those of a scene."""
    return {"scene", "kind", "truth", "tempting"} <= facts.keys()


def facts_of(
    annotated: Sequence[Annotated], picture: str | None, name: str, row: Mapping[str, Any], question: str = ""
) -> Facts:
    """What is known of a picture.

    Args:
        annotated: Benchmarks that know pictures, the first that knows it tells.
        picture: Path; None: there is none.
        name: Of the file, as whoever brought it named it.
        row: Facts of its row.
        question: Of its row.
    """
    if is_world(row):
        return Facts(scene=row, question=question)
    if picture is None:
        return Facts()
    try:
        found = next(filter(None, (one.find(Path(picture), name) for one in annotated)), None)
        found = found or next(filter(None, (one.of_row(row) for one in annotated)), None)
    except DataError as error:
        return Facts(note=f"No word of an answer is marked: {error}")
    if found is None:
        return Facts(note=f"{_UNKNOWN} {_hint(annotated, row)}".strip())
    told = "as its row tells" if found.by == "row" else f"{_BY[found.by]} {found.name}"
    note = f"Words are marked as {found.bench} counts: {told}."
    if found.asks:
        note += f" {_ASKS.format(found.bench, len(found.asks))}"
    return Facts(known=found, question=found.question or question, note=note)


def _hint(annotated: Sequence[Annotated], row: Mapping[str, Any]) -> str:
    if annotated:
        return ""
    for bench, keys in (("chair", {"instances", "captions"}), ("amber", {"truth", "hallu"})):
        if keys <= row.keys():
            return _ROW.format(bench.upper(), bench)
    return _START


def _in_scene(facts: Mapping[str, Any], text: str, *, whole: bool) -> Marks:
    grade = grade_caption(text, Scene.from_facts(facts["scene"]), facts["tempting"])
    amiss = {*grade.hallucinated, *grade.repeated, *grade.miscoloured}
    return Marks(
        wrong=[(one.start, one.end) for one in grade.hallucinated],
        right=[(one.start, one.end) for one in grade.mentions if one not in amiss],
        missed=grade.missed if whole else (),
    )


def _of_scene(facts: Mapping[str, Any], text: str) -> str:
    counts = grade_response(Prompt(id="asked", messages=(), facts=facts), Response(text=text)).counts
    right = any(value == 1 for name, value in counts.items() if name == "right" or name.endswith("_right"))
    return "right" if right else f"wrong: {facts['truth']}"


def shifted(spans: Sequence[Span], by: int) -> list[Span]:
    """The spans in a text that has so many characters before this one."""
    return [(start + by, end + by) for start, end in spans]
