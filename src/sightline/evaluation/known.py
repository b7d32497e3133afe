"""Pictures whose objects a benchmark annotates, and what is said of one, marked as the benchmark counts it.

CHAIR knows all pictures of COCO's annotation files, AMBER its 1,004. A picture is found by what its file holds, where
the benchmark's own files are there, and otherwise by its name.
"""

from __future__ import annotations

import filecmp
import itertools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, Literal, Protocol, TypeVar

from sightline.errors import DataError
from sightline.evaluation.bench import Answer, check_options, check_protocol
from sightline.evaluation.benches import amber, chair, load_bench
from sightline.evaluation.benches.amber import description_tools
from sightline.evaluation.benches.chair import chair_extraction
from sightline.evaluation.coco import Annotations, Noted, grade_mentions
from sightline.evaluation.option_values import text_option

KNOWN: Final = ("chair", "amber")
"""Benchmarks that annotate the objects of their pictures."""
Id = TypeVar("Id", int, str)
How = Literal["content", "name", "row"]
Span = tuple[int, int]
"""Half-open, in characters of the text."""


@dataclass(frozen=True, kw_only=True)
class Marks:
    """What a description names."""

    wrong: Sequence[Span] = ()
    """What the benchmark counts as hallucinated."""
    right: Sequence[Span] = ()
    """What is there."""
    missed: Sequence[str] = ()
    """What is there and not named."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a benchmark makes of an answer to a yes/no question of its own."""

    right: bool
    truth: str
    read: Span | None
    """The word that it reads as the answer; None: it reads none, and the answer counts as wrong."""


def _none_asked(question: str, text: str) -> Verdict | None:
    return None


@dataclass(frozen=True, kw_only=True)
class Known:
    """A picture whose objects are known."""

    bench: str
    name: str
    """Of the picture among the annotations; empty: its row told its objects."""
    by: How
    """How it was found."""
    objects: Sequence[str]
    question: str
    """Asks for the description that the benchmark grades; empty: the row says what it asks."""
    mark: Callable[[str], Marks]
    asks: Sequence[str] = ()
    """Its yes/no questions about the picture."""
    verdict: Callable[[str, str], Verdict | None] = _none_asked
    """Of a question and the answer to it; None: the question is none of these."""


class Annotated(Protocol):
    """Pictures that one benchmark annotates."""

    def find(self, picture: Path, name: str) -> Known | None:
        """A picture under the name that it was given; None: it is not among the annotations.

        Raises:
            DataError: its name is, and its content is not that of the benchmark's picture; or what is noted of it
                does not go with the word list.
        """
        ...

    def of_row(self, facts: Mapping[str, Any]) -> Known | None:
        """What the facts of a row tell in the benchmark's own layout; None: nothing.

        Raises:
            DataError: they name an object that is not on the benchmark's list.
        """
        ...


@dataclass(kw_only=True)
class Album(Generic[Id]):
    """The picture files of a benchmark."""

    names: Mapping[str, Id]
    """Names under which each annotated picture is known, to its id."""
    folders: Sequence[Path]
    """Where its file may lie, the official place first."""
    _seen: tuple[dict[Id, Path], dict[int, list[Id]]] | None = None
    """Files by id, ids by the size of their file."""

    def find(self, picture: Path, name: str) -> tuple[Id, How] | None:
        """The id of a picture, and how it was found.

        Raises:
            DataError: it bears the name of another picture.
        """
        if self._seen is None:
            self._seen = self._look()
        files, sizes = self._seen
        alike = [id for id in sizes.get(picture.stat().st_size, ()) if _same(picture, files[id])]
        named = self.names.get(name)
        if alike:
            return (named if named in alike else alike[0]), "content"
        if named is None:
            return None
        if named in files:
            raise DataError(
                f"the picture bears the name {name} and is another one than {files[named]}",
                remedy="Take that file, or give yours another name",
            )
        return named, "name"

    def _look(self) -> tuple[dict[Id, Path], dict[int, list[Id]]]:
        files: dict[Id, Path] = {}
        sizes: dict[int, list[Id]] = {}
        for entry in itertools.chain.from_iterable(os.scandir(folder) for folder in self.folders if folder.is_dir()):
            id = self.names.get(entry.name)
            if id is not None and id not in files and entry.is_file():
                files[id] = Path(entry.path)
                sizes.setdefault(entry.stat().st_size, []).append(id)
        return files, sizes


def _same(picture: Path, other: Path) -> bool:
    try:
        return filecmp.cmp(picture, other, shallow=False)
    except OSError:  # gone since
        return False


class CocoPictures:
    """Pictures of COCO, marked as CHAIR counts. COCO 2017 names them by the number alone, and they are found so too."""

    def __init__(self, data: Path, protocol: str, options: Mapping[str, Any]) -> None:
        """
        Raises:
            DataError: a file is missing or broken, or an option is wrong.
        """
        check_options(chair.BENCH.name, options, ("extractor",) if protocol == "lmms-eval" else ())
        extractor = text_option(chair.BENCH.name, options, "extractor", "table", ("table", "nltk"))
        self._objects, self._extract, _ = chair_extraction(data, protocol, extractor)
        self._noted = Annotations(data, chair.BENCH).noted()
        names = {f"{id:012d}.jpg": id for id in self._noted} | {one.file_name: id for id, one in self._noted.items()}
        self._album = Album(names=names, folders=[data / place for place in chair.PICTURES])

    def find(self, picture: Path, name: str) -> Known | None:
        """See :class:`Annotated`."""
        found = self._album.find(picture, name)
        return self._known(self._noted[found[0]], found[1]) if found else None

    def of_row(self, facts: Mapping[str, Any]) -> Known | None:
        """``instances``, a list of ``{category: name}``, and ``captions``, as COCO has them."""
        boxes, captions = facts.get("instances"), facts.get("captions")
        if not isinstance(boxes, list) or not all(isinstance(one, dict) for one in boxes):
            return None
        categories: Any = [one.get("category") for one in boxes]
        if not _are_texts(categories) or captions is None or not _are_texts(captions):
            return None
        told = dict.fromkeys(categories, "the fact 'instances' of the row")
        return self._known(Noted(file_name="", boxes=told, captions=captions), "row")

    def _known(self, noted: Noted, by: How) -> Known:
        picture = noted.read(self._objects)

        def mark(text: str) -> Marks:
            mentions = self._extract(text)
            details = grade_mentions("", text, mentions, picture, {}).details
            wrong = [(start, end) for start, end in details["wrong"]]
            right = [(one.word.start, one.word.end) for one in mentions if one.category in picture.objects]
            return Marks(wrong=wrong, right=right, missed=details["missed"])

        objects = sorted(picture.objects)
        return Known(bench="CHAIR", name=picture.file_name, by=by, objects=objects, question=chair.PROMPT, mark=mark)


class AmberPictures:
    """Pictures of AMBER, marked as its descriptions and the answers to its yes/no questions are judged."""

    def __init__(self, data: Path, protocol: str, options: Mapping[str, Any]) -> None:
        """
        Raises:
            DataError: a file is missing or broken, or an option is wrong.
        """
        check_options(amber.BENCH.name, options, amber.OPTIONS)
        rows = amber.BENCH.annotations(data)
        described = [query for query in rows.queries if rows.by_id[query["id"]]["type"] == amber.GENERATIVE]
        self._rows, self._queries = rows.by_id, {query["id"]: query for query in described}
        self._extract, self._judgement, _ = description_tools(rows.folder, options)
        names = {query["image"]: query["id"] for query in described}
        self._protocol, self._asked = protocol, dict[str, dict[str, Mapping[str, Any]]]()
        for query in rows.queries:
            part = amber.part_of(rows.by_id[query["id"]])
            if part != amber.GENERATIVE and part in amber.graded_parts(protocol):
                self._asked.setdefault(query["image"], {})[query["query"]] = query
        self._album = Album(names=names, folders=[rows.folder / place for place in amber.PICTURES])

    def find(self, picture: Path, name: str) -> Known | None:
        """See :class:`Annotated`."""
        found = self._album.find(picture, name)
        if found is None:
            return None
        query, row = self._queries[found[0]], self._rows[found[0]]
        return self._known(row, query["image"], query["query"], found[1])

    def of_row(self, facts: Mapping[str, Any]) -> Known | None:
        """``truth`` and ``hallu``, lists of words, as AMBER has them."""
        told = _are_texts(facts.get("truth")) and _are_texts(facts.get("hallu"))
        return self._known(facts, "", "", "row") if told else None

    def _known(self, row: Mapping[str, Any], name: str, question: str, by: How) -> Known:
        truth, likely = row["truth"], row["hallu"]
        self._judgement.judge([], truth, likely)  # refuses words that the relation table does not have

        def mark(text: str) -> Marks:
            found = self._judgement.judge(self._extract(text), truth, likely)
            safe = self._judgement.safe_words
            wrong = [(noun.start, noun.end) for noun in found.hallucinated]
            right = [(noun.start, noun.end) for noun in found.nouns if noun.text not in safe]
            missed = [word for word, hit in zip(truth, found.covered, strict=True) if not hit]
            return Marks(wrong=wrong, right=[span for span in right if span not in wrong], missed=missed)

        asked = self._asked.get(name, {})

        def verdict(question: str, text: str) -> Verdict | None:
            return self._verdict(asked[question], text) if question in asked else None

        return Known(
            bench="AMBER",
            name=name,
            by=by,
            objects=truth,
            question=question,
            mark=mark,
            asks=tuple(asked),
            verdict=verdict,
        )

    def _verdict(self, query: Mapping[str, Any], text: str) -> Verdict:
        answer = Answer(id=query["id"], text=text)
        found = amber.grade_yes_no(answer, self._rows[query["id"]], query, self._protocol).details
        word = re.search(re.escape(found["read_as"]), text, re.IGNORECASE) if found["read_as"] else None
        return Verdict(right=not found["error"], truth=found["truth"], read=word and word.span())


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def check_known(bench: str) -> None:
    """
    Raises:
        DataError: it is none of those whose pictures are known.
    """
    if bench not in KNOWN:
        raise DataError(f"{bench!r} does not annotate objects of pictures", remedy=f"Choose {' or '.join(KNOWN)}")


def known_pictures(bench: str, data: Path, protocol: str | None, options: Mapping[str, Any]) -> Annotated:
    """What a benchmark knows of single pictures.

    Args:
        bench: ``chair`` or ``amber``.
        data: Its folder, as ``sightline eval`` takes it.
        protocol: As which its words are counted; None: its first.
        options: Of the benchmark.

    Raises:
        DataError: there is no such benchmark or protocol, it does not grade descriptions, a file is missing or broken,
            or an option is wrong.
    """
    check_known(bench)
    chosen = load_bench(bench)
    protocol = protocol or chosen.protocols[0]
    check_protocol(chosen, protocol)
    if bench == "chair":
        return CocoPictures(data, protocol, options)
    if amber.GENERATIVE not in amber.graded_parts(protocol):
        raise DataError(f"protocol {protocol} grades no descriptions", source=bench, remedy="Take official")
    return AmberPictures(data, protocol, options)
