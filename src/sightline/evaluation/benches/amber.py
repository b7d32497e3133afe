"""AMBER (Wang et al., arXiv 2311.07397): hallucinations in descriptions, and yes/no questions about 1,004 pictures.

Graded as ``inference.py`` of junyangwang0410/AMBER does, with every denominator starting at 0.001 and F1 made from
rounded precision and recall. Protocols: ``official``; ``ovip`` adds the harmonic mean of 100 - CHAIR and Cover;
``lmms-eval`` is the description part with 0.001 per answer; ``vlmevalkit`` is the yes/no part by its own reading
of the answers.

Options: ``extractor`` (``table``: built in, ``nltk``: exact, needs NLTK and its data), ``similarity`` (``none``,
``spacy``, or a table file written by :func:`sightline.evaluation.similarity.export_similarity`), ``threshold``
(0.8) and ``spacy_model`` (en_core_web_lg).

Descriptions may take 512 new tokens, for the script sets no limit; under OViP 384, under lmms-eval 2,048.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sightline.errors import DataError
from sightline.evaluation.amber_figures import ATTRIBUTES, DIMENSIONS, figures
from sightline.evaluation.amber_objects import Judgement
from sightline.evaluation.bench import (
    ANSWERS,
    OFFICIAL,
    Answer,
    Graded,
    Judge,
    Question,
    Result,
    check_options,
    check_protocol,
    match_ids,
)
from sightline.evaluation.json_files import read_text, write_json
from sightline.evaluation.nouns import Extractor, nltk_extractor, nltk_name, table_extractor
from sightline.evaluation.option_values import number_option, text_option
from sightline.evaluation.similarity import SPACY_MODEL, THRESHOLD, load_similarity, read_relation, vocabulary
from sightline.evaluation.submissions import read_answers
from sightline.evaluation.tables import (
    DOWNLOAD_AGAIN,
    PictureFiles,
    find_file,
    picture_prompt,
    read_table,
    text_field,
    texts_field,
)
from sightline.evaluation.yes_no import vlmeval_yes_no

GENERATIVE: Final = "generative"
KINDS: Final = {
    "discriminative-hallucination": "existence",
    "discriminative-attribute-state": "state",
    "discriminative-attribute-number": "number",
    "discriminative-attribute-action": "action",
}
"""Type of an annotation to the kind of its question; any other type is one of relation, as in the script."""
PICTURES: Final = ("image", "images", "AMBER", ".")
"""Where pictures may lie beside the annotations, the official place first."""
_QUERIES: Final = ("generative", "discriminative-existence", "discriminative-attribute", "discriminative-relation")
OPTIONS: Final = ("extractor", "similarity", "threshold", "spacy_model")
"""Of the grading of descriptions."""
_DESCRIPTION_TOKENS: Final = 512
_YES_NO_TOKENS: Final = 10


class Amber:
    """The benchmark."""

    name = "amber"
    protocols = ("official", "lmms-eval", "vlmevalkit", "ovip")
    needs = (
        "the folder data of github.com/junyangwang0410/AMBER (annotations.json, relation.json, safe_words.txt, "
        "query/), and the pictures linked there in its folder image"
    )

    def questions(self, data: Path) -> list[Question]:
        """1,004 descriptions, then 14,216 yes/no questions. ``meta["prompts"]``: the wording of other protocols."""
        rows = self.annotations(data)
        pictures = PictureFiles(rows.folder, PICTURES)
        return [self._question(query, rows.by_id[str(query["id"])], pictures) for query in rows.queries]

    def grade(
        self, data: Path, answers: Sequence[Answer], protocol: str, options: Mapping[str, Any], judge: Judge | None
    ) -> Result:
        """Grades the parts that are answered; each must be complete."""
        check_protocol(self, protocol)
        check_options(self.name, options, OPTIONS if GENERATIVE in graded_parts(protocol) else ())
        rows = self.annotations(data)
        parts = _answered_parts(rows.by_id, answers, protocol)
        ids = [id for id, row in rows.by_id.items() if part_of(row) in parts]
        grader = _Grader(rows=rows, protocol=protocol, options=options)
        others = {id for id, row in rows.by_id.items() if part_of(row) not in graded_parts(protocol)}
        graded = [grader.grade(answer) for answer in match_ids(ids, [one for one in answers if one.id not in others])]
        found = figures(graded, protocol, parts)
        return Result(
            bench=self.name,
            protocol=protocol,
            metrics=found.metrics,
            metrics_printed=found.printed,
            by_category=found.by_category,
            graded=graded,
            notes=[f"answered: {', '.join(parts)}", *grader.notes, *_unreadable(graded, protocol)],
            formulas=found.formulas,
        )

    def export(self, data: Path, answers: Sequence[Answer], path: Path) -> None:
        """A JSON list of ``{"id", "response"}``, as ``inference.py --inference_data`` takes it."""
        rows = self.annotations(data)
        parts = _answered_parts(rows.by_id, answers, OFFICIAL)
        matched = match_ids([id for id, row in rows.by_id.items() if part_of(row) in parts], answers)
        write_json(path, [{"id": int(answer.id), "response": answer.text} for answer in matched])

    def read_export(self, path: Path) -> list[Answer]:
        return read_answers(path, "id", ("response",))

    def annotations(self, data: Path) -> Rows:
        """What is annotated and asked of each id.

        Raises:
            DataError: A file is missing, broken, or of another release.
        """
        path = find_file(data, ("annotations.json", "data/annotations.json"), self)
        by_id = {}
        for number, row in enumerate(read_table(path), start=1):
            source = f"{path}:{number}"
            id, kind = _id(row, source), text_field(row, "type", source)
            told = (
                {name: texts_field(row, name, source) for name in ("truth", "hallu")}
                if kind == GENERATIVE
                else {"truth": text_field(row, "truth", source)}
            )
            if id in by_id:
                raise DataError(f"the id {id} stands twice", source=source, remedy=DOWNLOAD_AGAIN)
            by_id[id] = {"id": id, "type": kind, **told}
        queries = self._queries(path.parent)
        alone = sorted(by_id.keys() ^ {query["id"] for query in queries}, key=int)
        if alone:
            missing = "question" if alone[0] in by_id else "annotation"
            raise DataError(f"id {alone[0]} has no {missing}", source=str(path), remedy="Take all files of one release")
        return Rows(folder=path.parent, by_id=by_id, queries=queries)

    def _queries(self, folder: Path) -> list[dict[str, Any]]:
        whole = folder / "query" / "query_all.json"
        names = [f"query/query_{name}.json" for name in _QUERIES]
        paths = [whole] if whole.is_file() else [find_file(folder, (name,), self) for name in names]
        rows = []
        for path in paths:
            for number, row in enumerate(read_table(path), start=1):
                source = f"{path}:{number}"
                told = {name: text_field(row, name, source) for name in ("image", "query")}
                rows.append({"id": _id(row, source), **told})
        return sorted(rows, key=lambda row: int(row["id"]))

    def _question(self, query: Mapping[str, Any], row: Mapping[str, Any], pictures: PictureFiles) -> Question:
        text, described = str(query["query"]), row["type"] == GENERATIVE
        others = (
            {"lmms-eval": text.removesuffix(".")} if described else {"vlmevalkit": f"{text}\nPlease answer yes or no."}
        )
        prompt = picture_prompt(f"amber-{query['id']}", text, [pictures.named(query["image"])], {"truth": row["truth"]})
        return Question(
            id=str(query["id"]),
            prompt=prompt,
            meta={
                "category": part_of(row),
                "max_new_tokens": _DESCRIPTION_TOKENS if described else _YES_NO_TOKENS,
                "token_limits": {"ovip": 384, "lmms-eval": 2048} if described else {},
                "prompts": others,
                "protocols": [name for name in self.protocols if part_of(row) in graded_parts(name)],
            },
        )


BENCH: Final = Amber()


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Annotations and questions."""

    folder: Path
    by_id: Mapping[str, Mapping[str, Any]]
    queries: Sequence[Mapping[str, Any]]


def _id(row: Mapping[str, Any], source: str) -> str:
    id = text_field(row, "id", source)
    if not (id.isdecimal() and id.isascii() and len(id) < 10):
        raise DataError(f"'id' is {id!r:.100}", source=source, remedy="Expected a number, as 1 to 15220")
    return id


def part_of(row: Mapping[str, Any]) -> str:
    """``generative``, or the dimension of a yes/no question: what is answered and complete together."""
    kind = _kind(row)
    return "attribute" if kind in ATTRIBUTES else kind


def _kind(row: Mapping[str, Any]) -> str:
    return GENERATIVE if row["type"] == GENERATIVE else KINDS.get(row["type"], "relation")


def graded_parts(protocol: str) -> list[str]:
    """The parts that a protocol grades."""
    return {"lmms-eval": [GENERATIVE], "vlmevalkit": [*DIMENSIONS]}.get(protocol, [GENERATIVE, *DIMENSIONS])


def _answered_parts(by_id: Mapping[str, Mapping[str, Any]], answers: Sequence[Answer], protocol: str) -> list[str]:
    """The parts that hold an answer and that the protocol grades, as ``--evaluation_type`` chooses them."""
    possible = graded_parts(protocol)
    answered = {part_of(by_id[answer.id]) for answer in answers if answer.id in by_id}
    parts = [part for part in possible if part in answered]
    if not parts:
        raise DataError(
            f"protocol {protocol} grades {', '.join(possible)}, and none of it is answered",
            source=ANSWERS,
            remedy="Check that the answers are AMBER's (ids 1 to 15220), or take another protocol",
        )
    return parts


class _Grader:
    """Grades single answers; what it needs for descriptions is loaded with the first one."""

    def __init__(self, *, rows: Rows, protocol: str, options: Mapping[str, Any]) -> None:
        self.rows, self.protocol, self.options = rows, protocol, options
        self.queries = {str(query["id"]): query for query in rows.queries}
        self.notes: list[str] = []
        self._tools: tuple[Extractor, Judgement] | None = None

    def grade(self, answer: Answer) -> Graded:
        row, query = self.rows.by_id[answer.id], self.queries[answer.id]
        if row["type"] == GENERATIVE:
            return self._description(answer, row, query)
        return grade_yes_no(answer, row, query, self.protocol)

    def _description(self, answer: Answer, row: Mapping[str, Any], query: Mapping[str, Any]) -> Graded:
        self._tools = self._tools or self._load()
        extract, judgement = self._tools
        truth, likely = row["truth"], row["hallu"]
        try:
            found = judgement.judge(extract(answer.text), truth, likely)
        except DataError as error:
            source = f"{self.rows.folder / 'annotations.json'}: id {answer.id}"
            raise DataError(error.found, source=source, remedy=error.remedy) from error
        wrong = len(found.hallucinated)
        return Graded(
            id=answer.id,
            cluster=query["image"],
            counts={
                "descriptions": 1,
                "nouns": len(found.nouns),
                "hallucinated": wrong,
                "objects": len(truth),
                "covered": sum(found.covered),
                "targets": len(likely),
                "lured": sum(found.targets),
                "clean": float(not wrong),
            },
            details={
                "answer": answer.text,
                "category": GENERATIVE,
                "truth": list(truth),
                "hallucinated": [noun.text for noun in found.hallucinated],
                "wrong": [[noun.start, noun.end] for noun in found.hallucinated],
                "missed": [word for word, hit in zip(truth, found.covered, strict=True) if not hit],
                "error": wrong,
            },
        )

    def _load(self) -> tuple[Extractor, Judgement]:
        extract, judgement, notes = description_tools(self.rows.folder, self.options)
        self.notes += notes
        return extract, judgement


def description_tools(folder: Path, options: Mapping[str, Any]) -> tuple[Extractor, Judgement, list[str]]:
    """What finds the nouns of a description, what judges them, and notes on both.

    Args:
        folder: AMBER's folder ``data``, with ``relation.json`` and ``safe_words.txt``.
        options: As of the benchmark.

    Raises:
        DataError: A file is missing, an option is wrong, or what it asks for is not installed.
    """
    relation = read_relation(find_file(folder, ("relation.json",), BENCH))
    safe = read_text(find_file(folder, ("safe_words.txt",), BENCH)).split("\n")
    kind = text_option(BENCH.name, options, "similarity", "none")
    idle = {"none": ("threshold", "spacy_model"), "spacy": ()}.get(kind, ("spacy_model",))
    unread = [name for name in idle if name in options]
    if unread:
        found = f"{' and '.join(unread)} is given, and similarity {kind} does not read it"
        raise DataError(found, source=BENCH.name, remedy="Leave it out, or set similarity=spacy")
    similarity = load_similarity(
        kind,
        threshold=number_option(BENCH.name, options, "threshold", THRESHOLD, least=0, most=1),
        spacy_model=text_option(BENCH.name, options, "spacy_model", SPACY_MODEL),
    )
    choice = text_option(BENCH.name, options, "extractor", "table", ("table", "nltk"))
    notes = [f"extractor {nltk_name() if choice == 'nltk' else choice}; similarity {similarity.name}"]
    if choice == "table" or similarity.name.startswith("none"):
        notes.append("offline variant: close to the official figures, not equal to them")
    extract = (table_extractor if choice == "table" else nltk_extractor)(vocabulary(relation))
    return extract, Judgement(relation=relation, safe_words=frozenset(safe), similarity=similarity), notes


def grade_yes_no(answer: Answer, row: Mapping[str, Any], query: Mapping[str, Any], protocol: str) -> Graded:
    """One yes/no answer; ``read_as`` is what it was taken for. Positive is no: the hallucination is in the question."""
    kind, label = _kind(row), row["truth"]
    said = vlmeval_yes_no(answer.text) if protocol == "vlmevalkit" else {"Yes": "yes", "No": "no"}.get(answer.text, "")
    counts = {
        f"{kind}_asked": 1,
        f"{kind}_right": said == label,
        f"{kind}_label_no": label == "no",
        f"{kind}_said_no": said == "no",
        f"{kind}_right_no": said == label == "no",
    }
    return Graded(
        id=answer.id,
        cluster=query["image"],
        counts={name: float(count) for name, count in counts.items() if count},
        details={
            "answer": answer.text,
            "question": query["query"],
            "category": kind,
            "truth": label,
            "read_as": said,
            "error": float(said != label),
        },
    )


def _unreadable(graded: Sequence[Graded], protocol: str) -> list[str]:
    """A note where answers to yes/no questions are neither: a long answer is wrong whatever it says."""
    lost = [row for row in graded if row.details.get("read_as", "yes") not in ("yes", "no")]
    if not lost:
        return []
    rule = "with exactly one of the words" if protocol == "vlmevalkit" else "that are exactly 'Yes' or 'No'"
    return [f"{len(lost)} yes/no answers count as wrong: only answers {rule} are read (first: id {lost[0].id})"]
