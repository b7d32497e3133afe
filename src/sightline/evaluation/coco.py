"""COCO objects in a text and in a picture, for CHAIR and Object HalBench.

A text's words are reduced to singular forms, two-word objects joined, and what is on the list of synonyms becomes one
of 80 categories. A picture holds the categories of its boxes and those that its five captions mention.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from sightline.errors import DataError
from sightline.evaluation.bench import Benchmark, Graded
from sightline.evaluation.json_files import read_json, read_text
from sightline.evaluation.tables import DOWNLOAD_AGAIN, field, find_file, object_of, text_field
from sightline.evaluation.words import Word, as_written, treebank_words

_CHAIR_PAIRS: Final = (
    "motor bike|motor cycle|air plane|traffic light|street light|traffic signal|stop light|fire hydrant|stop sign|"
    "parking meter|suit case|sports ball|baseball bat|baseball glove|tennis racket|wine glass|hot dog|cell phone|"
    "mobile phone|teddy bear|hair drier|potted plant|laptop computer|home plate|train track"
)
_ANIMALS: Final = "bird|cat|dog|horse|sheep|cow|elephant|bear|zebra|giraffe|animal|cub"
_RENAMED: Final = {"bow tie": "tie", "toilet seat": "toilet", "wine glas": "wine glass"}
CHAIR_PAIRS: Final = tuple(_CHAIR_PAIRS.split("|"))
"""Two-word objects that the original CHAIR script joins."""


class Mention(NamedTuple):
    """An object that a text names."""

    word: Word
    """As it stands on the list of synonyms, with its place in the text."""
    category: str


@dataclass(frozen=True, kw_only=True)
class ObjectList:
    """The list of synonyms, and how words reach it."""

    categories: Mapping[str, str]
    """Word or word pair of the list to its category."""
    pairs: Mapping[str, str]
    """Word pair to what it is treated as: ``"baby bird"`` to ``"bird"``."""
    forms: Mapping[str, str]
    """Written form to a word of the list or of a pair; all other words, and what reduces to none of these, count as
    nothing ("bus" of the original, which becomes "bu")."""

    def mentions(self, text: str) -> list[Mention]:
        """All objects that a text names, repetitions kept, in order."""
        cut = as_written(text, treebank_words(text.lower()))
        words = [word._replace(text=self.forms.get(word.text, "")) for word in cut]
        return self.listed(self.joined(words))

    def joined(self, words: Sequence[Word]) -> list[Word]:
        """The words with every known pair made one, from left to right."""
        joined, index = [], 0
        while index < len(words):
            pair = self.pair(words[index : index + 2])
            joined.append(pair or words[index])
            index += 2 if pair else 1
        return joined

    def pair(self, words: Sequence[Word]) -> Word | None:
        """The two words as one, if they are a known pair."""
        known = self.pairs.get(" ".join(word.text for word in words))
        return Word(known, words[0].start, words[-1].end) if known else None

    def listed(self, words: Iterable[Word]) -> list[Mention]:
        """The words that are on the list; a seat is no chair where a toilet is named."""
        words = list(words)
        if any(word.text == "toilet" for word in words):
            words = [word for word in words if word.text != "seat"]
        return [Mention(word, self.categories[word.text]) for word in words if word.text in self.categories]


def read_synonyms(path: Path, *, strip: bool) -> dict[str, str]:
    """Word to category from lines of comma-separated synonyms, the category first.

    Args:
        path: ``synonyms.txt`` or ``synonyms_refine.txt``.
        strip: False, as the original CHAIR: only whole lines are stripped, so an entry with a blank before it never
            matches.

    Raises:
        DataError: The file cannot be read or is empty.
    """
    lines = read_text(path).splitlines()
    rows = [line.strip().split(", ") for line in lines if line.strip()]
    if not rows:
        raise DataError("is empty", source=str(path), remedy="Download the list of synonyms again")
    if strip:
        rows = [[entry.strip() for entry in row] for row in rows]
    return {entry: row[0] for row in rows for entry in row}


def word_pairs(pairs: Iterable[str]) -> dict[str, str]:
    """Known pairs to what they are treated as: baby and adult animals, passenger jets and trains included."""
    table = {pair: pair for pair in pairs}
    table |= {f"{age} {animal}": animal for animal in _ANIMALS.split("|") for age in ("baby", "adult")}
    table |= {f"passenger {vehicle}": vehicle for vehicle in ("jet", "train")}
    return table | _RENAMED


def tokens_of(entries: Iterable[str]) -> set[str]:
    """The single words of entries."""
    return {token for entry in entries for token in entry.split()}


# --- ground truth -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A COCO picture."""

    file_name: str
    objects: frozenset[str]
    """Its categories: of its boxes and of its captions."""


@dataclass(frozen=True, kw_only=True)
class Noted:
    """What annotation files say of a picture."""

    file_name: str
    boxes: dict[str, str] = dataclasses.field(default_factory=dict)
    """Categories of its boxes to where the first one stands."""
    captions: list[str] = dataclasses.field(default_factory=list)

    def read(self, objects: ObjectList) -> Picture:
        """
        Raises:
            DataError: A category of its boxes is not on the list.
        """
        for category, source in self.boxes.items():
            if category not in objects.categories:
                remedy = "Take the synonyms that go with the annotations"
                raise DataError(f"the category {category!r:.100} has no synonyms", source=source, remedy=remedy)
        told = {mention.category for caption in self.captions for mention in objects.mentions(caption)}
        held = {objects.categories[category] for category in self.boxes} | told
        return Picture(file_name=self.file_name, objects=frozenset(held))


class Annotations:
    """COCO 2014 annotation files of a folder: ``instances_*2014.json`` and ``captions_*2014.json``."""

    def __init__(self, data: Path, bench: Benchmark) -> None:
        """
        Raises:
            DataError: There is no such file.
        """
        first = find_file(data, ("instances_*2014.json", "annotations/instances_*2014.json"), bench)
        self.folder = first.parent
        self._instances = _read_all(self.folder, "instances_*2014.json")
        find_file(self.folder, ("captions_*2014.json",), bench)
        self._captions = _read_all(self.folder, "captions_*2014.json")

    def file_names(self) -> dict[int, str]:
        """Picture id to file name.

        Raises:
            DataError: A picture has no id or no name.
        """
        return {
            _number(image, "id", source): text_field(image, "file_name", source)
            for path, file in (self._instances | self._captions).items()
            for image, source in _listed(path, file, "images")
        }

    def pictures(self, ids: Iterable[int], objects: ObjectList, *, source: str = "") -> dict[int, Picture]:
        """The pictures of these ids with what they hold.

        Args:
            ids: COCO picture ids.
            objects: How captions are read.
            source: Where the ids come from, for the error; the folder, if nothing is given.

        Raises:
            DataError: A picture is not in the files.
        """
        found = self.noted()
        asked = list(dict.fromkeys(ids))
        missing = [id for id in asked if id not in found]
        if missing:
            raise DataError(
                f"{len(missing)} pictures have no annotation in {self.folder} ({', '.join(map(str, missing[:5]))})",
                source=source or str(self.folder),
                remedy="Add the annotation files of the part (train2014, val2014) that they are of",
            )
        return {id: found[id].read(objects) for id in asked}

    def noted(self) -> dict[int, Noted]:
        """Every picture by its id, its captions unread."""
        found = {id: Noted(file_name=name) for id, name in self.file_names().items()}
        for box, category, source in self._boxes():
            if box in found:
                found[box].boxes.setdefault(category, source)
        for path, file in self._captions.items():
            for row, source in _listed(path, file, "annotations"):
                if (id := _number(row, "image_id", source)) in found:
                    found[id].captions.append(text_field(row, "caption", source))
        return found

    def _boxes(self) -> Iterable[tuple[int, str, str]]:
        """Picture, name of the category, and where it stands."""
        for path, file in self._instances.items():
            names = {
                _number(one, "id", source): text_field(one, "name", source)
                for one, source in _listed(path, file, "categories")
            }
            for row, source in _listed(path, file, "annotations"):
                category = _number(row, "category_id", source)
                if category not in names:
                    raise DataError(f"there is no category {category}", source=source, remedy=DOWNLOAD_AGAIN)
                yield _number(row, "image_id", source), names[category], source


def _read_all(folder: Path, pattern: str) -> dict[Path, dict[str, Any]]:
    return {path: object_of(read_json(path), str(path)) for path in sorted(folder.glob(pattern))}


def _listed(path: Path, file: Mapping[str, Any], name: str) -> Iterator[tuple[dict[str, Any], str]]:
    """The objects of a list of the file, with where each stands."""
    listed = field(file, name, str(path))
    if not isinstance(listed, list):
        raise DataError(f"'{name}' is {listed!r:.100}", source=str(path), remedy=f"Expected a list. {DOWNLOAD_AGAIN}")
    for number, one in enumerate(listed, start=1):
        source = f"{path}: {name} {number}"
        yield object_of(one, source), source


def _number(row: Mapping[str, Any], name: str, source: str) -> int:
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise DataError(f"'{name}' is {value!r:.100}", source=source, remedy="Expected a whole number")
    return value


def grade_mentions(
    id: str, text: str, mentions: Sequence[Mention], picture: Picture, details: Mapping[str, Any]
) -> Graded:
    """What one description counts for: mentions, those of them that are not there, and categories found."""
    wrong = [mention for mention in mentions if mention.category not in picture.objects]
    found = {mention.category for mention in mentions} & picture.objects
    return Graded(
        id=id,
        cluster=picture.file_name,
        counts={
            "mentions": len(mentions),
            "hallucinated": len(wrong),
            "responses_hallucinated": float(bool(wrong)),
            "responses_with_objects": float(bool(mentions)),
            "objects": len(picture.objects),
            "found": len(found),
            "words": len(text.strip().split(" ")),
        },
        details={
            "answer": text,
            "truth": sorted(picture.objects),
            "hallucinated": [mention.word.text for mention in wrong],
            "hallucinated_categories": [mention.category for mention in wrong],
            "wrong": [[mention.word.start, mention.word.end] for mention in wrong],
            "missed": sorted(picture.objects - found),
            "error": len(wrong),
            **details,
        },
    )
