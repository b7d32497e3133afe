"""CHAIR (Rohrbach et al., EMNLP 2018): COCO objects that a description names and the picture does not hold.

``official`` follows ``utils/chair.py`` of LisaAnne/Hallucination, its singulariser's losses included (bus, tie; see
:func:`sightline.evaluation.nouns.chair_forms`), and gives fractions. ``lmms-eval`` reduces words by WordNet, adds the
recall of objects and gives percent. Descriptions may take 512 new tokens here and 2,048 there.

Which pictures are described is not part of CHAIR. ``questions`` takes those that ``image_ids.json`` lists (a JSON list
beside the annotations), otherwise 500 drawn with seed 0; ``grade`` insists on the list if there is one, and otherwise
grades the pictures that are answered.

Option of ``lmms-eval``: ``extractor``: ``table`` (built in, nouns only) or ``nltk`` (as the original, needs its data).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from sightline.errors import DataError
from sightline.evaluation.bench import (
    ANSWERS,
    Answer,
    Graded,
    Judge,
    Question,
    Result,
    check_options,
    check_protocol,
    match_ids,
)
from sightline.evaluation.coco import (
    CHAIR_PAIRS,
    Annotations,
    Mention,
    ObjectList,
    grade_mentions,
    read_synonyms,
    tokens_of,
    word_pairs,
)
from sightline.evaluation.json_files import read_json, write_json
from sightline.evaluation.nouns import chair_forms, load_nltk, nltk_name, place, wordnet_forms
from sightline.evaluation.option_values import text_option
from sightline.evaluation.submissions import answers_of, submitted_rows
from sightline.evaluation.tables import PictureFiles, find_file, picture_prompt
from sightline.evaluation.words import as_written

PROMPT: Final = "Please describe this image in detail."
PICTURES: Final = ("val2014", "train2014", "images", ".")
"""Where pictures may lie in the folder, the official place first."""
SAMPLE: Final = 500
"""Pictures that are described where no list says which."""
_SYNONYMS: Final = ("synonyms.txt", "data/synonyms.txt", "annotations/synonyms.txt")
_MAX_NEW_TOKENS: Final = 512
_UNUSED: Final = ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "METEOR", "CIDEr", "SPICE", "ROUGE_L")
"""Caption scores that the official script wants to find in its input and only passes on."""
_FORMULAS: Final = {
    "chair_s": "responses_hallucinated / answers",
    "chair_i": "hallucinated / mentions",
    "recall": "found / objects",
}


class Chair:
    """The benchmark. An id is a COCO picture id."""

    name = "chair"
    protocols = ("official", "lmms-eval")
    needs = (
        "COCO 2014 annotations (instances_val2014.json and captions_val2014.json, the train files if train pictures "
        "are described), synonyms.txt of github.com/LisaAnne/Hallucination (data), pictures in val2014"
    )

    def questions(self, data: Path) -> list[Question]:
        names = Annotations(data, self).file_names()
        ids = self._listed(data)
        if ids is None:
            every = sorted(names)
            ids = sorted(random.Random(0).sample(every, SAMPLE)) if len(every) > SAMPLE else every
        missing = [id for id in ids if id not in names]
        if missing:
            raise DataError(f"image_ids.json lists {missing[0]}, which has no annotation", source=str(data))
        pictures = PictureFiles(data, PICTURES)
        meta = {"max_new_tokens": _MAX_NEW_TOKENS, "token_limits": {"lmms-eval": 2048}}
        return [
            Question(id=str(id), prompt=picture_prompt(f"chair-{id}", PROMPT, [pictures.named(names[id])]), meta=meta)
            for id in ids
        ]

    def grade(
        self, data: Path, answers: Sequence[Answer], protocol: str, options: Mapping[str, Any], judge: Judge | None
    ) -> Result:
        check_protocol(self, protocol)
        check_options(self.name, options, ("extractor",) if protocol == "lmms-eval" else ())
        listed = self._listed(data)
        ids = list(dict.fromkeys(answer.id for answer in answers)) if listed is None else [str(id) for id in listed]
        matched = match_ids(ids, answers)
        extractor = text_option(self.name, options, "extractor", "table", ("table", "nltk"))
        objects, extract, note = chair_extraction(data, protocol, extractor)
        numbers = [_number(answer.id) for answer in matched]
        pictures = Annotations(data, self).pictures(numbers, objects, source=ANSWERS if listed is None else "")
        graded = [
            grade_mentions(answer.id, answer.text, extract(answer.text), pictures[int(answer.id)], {})
            for answer in matched
        ]
        metrics, printed, formulas = _figures(graded, protocol)
        notes = [f"{len(graded)} pictures", *note, *_empty(graded)]
        return Result(
            bench=self.name,
            protocol=protocol,
            metrics=metrics,
            metrics_printed=printed,
            graded=graded,
            notes=notes,
            formulas=formulas,
        )

    def export(self, data: Path, answers: Sequence[Answer], path: Path) -> None:
        """The caption file of the official script; the caption scores that it passes on are 0."""
        unused = dict.fromkeys(_UNUSED, 0.0)
        match_ids(list(dict.fromkeys(answer.id for answer in answers)), answers)  # none stands twice
        rows = {answer.id: {"image_id": _number(answer.id), "caption": answer.text, **unused} for answer in answers}
        write_json(path, {"overall": unused, "imgToEval": rows})

    def read_export(self, path: Path) -> list[Answer]:
        """Reads the official caption file, or rows of ``image_id`` and ``caption`` as COCO results are."""
        rows: list[tuple[Any, str]] = list(submitted_rows(path))
        if len(rows) == 1 and isinstance(rows[0][0].get("imgToEval"), dict):
            rows = [(row, f"{path}: imgToEval {key}") for key, row in rows[0][0]["imgToEval"].items()]
        for row, source in rows:
            if not isinstance(row, dict):
                raise DataError("is no object", source=source, remedy='Expected {"image_id": ..., "caption": ...}')
        return answers_of(rows, "image_id", ("caption",))

    def _listed(self, data: Path) -> list[int] | None:
        path = data / "image_ids.json"
        if not path.is_file():
            return None
        ids = read_json(path)
        if not isinstance(ids, list) or not ids or not all(str(id).isdecimal() for id in ids):
            raise DataError("is no list of COCO picture ids", source=str(path), remedy="Expected [391895, 522418, ...]")
        numbers = [int(id) for id in ids]
        if len(set(numbers)) < len(numbers):
            raise DataError("holds an id twice", source=str(path), remedy="List each picture once")
        return numbers


BENCH: Final = Chair()


def chair_extraction(
    data: Path, protocol: str, extractor: str = "table"
) -> tuple[ObjectList, Callable[[str], list[Mention]], list[str]]:
    """The list of synonyms in a folder, what finds its objects in a text, and notes on the latter.

    Args:
        data: Folder with ``synonyms.txt``.
        protocol: ``official`` or ``lmms-eval``.
        extractor: Of ``lmms-eval``: ``table`` or ``nltk``.

    Raises:
        DataError: The list is missing or empty, or NLTK or its data is.
    """
    categories = read_synonyms(find_file(data, _SYNONYMS, BENCH), strip=False)
    pairs = word_pairs(CHAIR_PAIRS)
    tokens = tokens_of([*categories, *pairs])
    forms = chair_forms(tokens) if protocol == "official" else wordnet_forms(tokens)
    objects = ObjectList(categories=categories, pairs=pairs, forms=forms)
    if protocol == "official":
        return objects, objects.mentions, []
    if extractor == "nltk":
        return objects, _nltk_mentions(objects), [f"extractor {nltk_name()}"]
    return objects, objects.mentions, ["extractor table: close to the tagger of lmms-eval, not equal to it"]


def _number(id: str) -> int:
    if not id.isdecimal():
        raise DataError(f"the id {id!r} is no COCO picture id", source=ANSWERS, remedy="Expected a number as in 391895")
    return int(id)


def _nltk_mentions(objects: ObjectList) -> Callable[[str], list[Mention]]:
    """Words reduced by their tag, as lmms-eval's ``coco_cap_chair`` does; unknown tags count as nouns."""
    nltk = load_nltk()
    lemmatizer, kinds = nltk.stem.WordNetLemmatizer(), {"J": "a", "V": "v", "N": "n", "R": "r"}

    def mentions(text: str) -> list[Mention]:
        tokens = nltk.word_tokenize(text.lower())
        tags = [kinds.get(tag[:1], "n") for _, tag in nltk.pos_tag(tokens)]
        words = zip(as_written(text, place(text.lower(), tokens)), tags, strict=True)
        reduced = [word._replace(text=lemmatizer.lemmatize(word.text, pos=tag)) for word, tag in words]
        return objects.listed(objects.joined(reduced))

    return mentions


def _figures(graded: Sequence[Graded], protocol: str) -> tuple[dict[str, float], dict[str, str], dict[str, str]]:
    """Fractions, printed in percent with one decimal; lmms-eval: percent, printed with four."""
    sums: Counter[str] = Counter()
    for row in graded:
        sums.update(row.counts)
    values = {
        "chair_s": sums["responses_hallucinated"] / len(graded),
        "chair_i": sums["hallucinated"] / sums["mentions"] if sums["mentions"] else 0.0,
        "recall": sums["found"] / sums["objects"] if sums["objects"] else 0.0,
    }
    if protocol == "official":
        del values["recall"]
        printed = {name: f"{100 * value:.1f}" for name, value in values.items()}
        return values, printed, {name: _FORMULAS[name] for name in values}
    percent = {name: 100 * value for name, value in values.items()}
    printed = {name: f"{value:.4f}" for name, value in percent.items()}
    return percent, printed, {name: f"100 * {_FORMULAS[name]}" for name in percent}


def _empty(graded: Sequence[Graded]) -> list[str]:
    if any(row.counts["mentions"] for row in graded):
        return []
    return ["no object is mentioned: CHAIRi is not defined and shown as 0 (the official script stops)"]
