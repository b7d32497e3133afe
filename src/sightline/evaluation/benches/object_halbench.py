"""Object HalBench (Rohrbach et al. 2018; Yu et al., RLHF-V, CVPR 2024): objects invented in 300 detailed answers.

A judge lists the objects that an answer names; they are reduced and mapped to COCO categories. ``official`` follows
``eval_gpt_obj_halbench.py`` of RLAIF-V (the list must stand in a json fence, or on the last line), ``ovip`` its copy in
OViP (also bare JSON; F1 of correct objects and recall). ``judge-free`` is the script without ``--use_gpt``: the words
of the whole answer, repetitions kept. Answers may take 1,024 new tokens, OViP allows 384 (``--max-tokens``); RLAIF-V
answers with three beams, here answers are greedy.

Options: ``template`` (a rubric file with ``{{question}}`` and ``{{answer}}``), ``attempts`` (times a judge is asked;
3), ``lemmatizer`` (``table``: built in; ``spacy``: en_core_web_trf as the original, with its part-of-speech tags).
"""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from sightline.errors import DataError
from sightline.evaluation.bench import (
    Answer,
    Graded,
    Judge,
    JudgeRequest,
    Question,
    Result,
    check_options,
    check_protocol,
    match_ids,
    need_judge,
)
from sightline.evaluation.coco import (
    Annotations,
    ObjectList,
    grade_mentions,
    read_synonyms,
    tokens_of,
    word_pairs,
)
from sightline.evaluation.nouns import load_spacy, wordnet_forms
from sightline.evaluation.option_values import count_option, text_option
from sightline.evaluation.rubric import Rubric, load_rubric
from sightline.evaluation.submissions import read_answers
from sightline.evaluation.tables import check_ids, find_file, picture_prompt, read_table, text_field, write_lines
from sightline.evaluation.verdicts import Said, ask, need_verdicts, verdict_notes
from sightline.evaluation.words import Word, as_written, treebank_words
from sightline.files import replace_file

_SYNONYMS: Final = ("synonyms_refine.txt", "eval/data/synonyms_refine.txt", "data/synonyms_refine.txt")
_SHORT: Final = 3
"""An answer of so many words or fewer names no object; no judge is asked."""
_ATTEMPTS: Final = 3
_WANTED: Final = "list of objects"
_MAX_NEW_TOKENS: Final = 1024
_SPACY_MODEL: Final = "en_core_web_trf"
_FENCE: Final = re.compile(r"```json\n(.*?)\n```", re.DOTALL)
_NOUN_TAGS: Final = ("NNP", "NNPS", "NN", "NNS")

_RATES: Final = {
    "response_hall": ("responses_hallucinated", "responses_with_objects"),
    "object_hall": ("hallucinated", "mentions"),
    "object_recall": ("found", "objects"),
    "chair_s": ("responses_hallucinated", "answers"),
}
"""Figure to the counts it is the ratio of; ``chair_s`` divides by all answers."""

Reduce = Callable[[str], list[str]]
"""From an object phrase of the judge to objects, pairs joined."""


class ObjectHalBench:
    """The benchmark. An id is a COCO picture id."""

    name = "object_halbench"
    protocols = ("official", "ovip", "judge-free")
    needs = (
        "obj_halbench_300_with_image.jsonl and synonyms_refine.txt of github.com/RLHF-V/RLAIF-V (eval/data), COCO 2014 "
        "annotations of train and val (instances_*, captions_*); a judge, except for judge-free"
    )

    def questions(self, data: Path) -> list[Question]:
        """300 questions; the pictures inside the file are written to ``images`` beside it."""
        path = find_file(data, ("obj_halbench_300_with_image.jsonl", "*/obj_halbench_300_with_image.jsonl"), self)
        questions = []
        meta = {"max_new_tokens": _MAX_NEW_TOKENS, "token_limits": {"ovip": 384}}
        for number, row in enumerate(read_table(path), start=1):
            source = f"{path}:{number}"
            id, text = _coco_id(row, source), text_field(row, "question", source)
            image = _written(text_field(row, "image", source), path.parent / "images" / f"{id}.jpg", source)
            prompt = picture_prompt(f"object_halbench-{id}", text, [image])
            questions.append(Question(id=id, prompt=prompt, meta=meta))
        return questions

    def grade(
        self, data: Path, answers: Sequence[Answer], protocol: str, options: Mapping[str, Any], judge: Judge | None
    ) -> Result:
        check_protocol(self, protocol)
        check_options(self.name, options, () if protocol == "judge-free" else ("template", "attempts", "lemmatizer"))
        texts = self._texts(data)
        matched = [_cleaned(answer) for answer in match_ids(list(texts), answers)]
        categories = read_synonyms(find_file(data, _SYNONYMS, self), strip=True)
        pairs = word_pairs([*(entry for entry in categories if " " in entry), "home plate", "train track"])
        objects = ObjectList(categories=categories, pairs=pairs, forms=wordnet_forms(tokens_of([*categories, *pairs])))
        pictures = Annotations(data, self).pictures([int(answer.id) for answer in matched], objects)
        notes: list[str] = []
        failed: set[str] = set()
        if protocol == "judge-free":
            mentions = {answer.id: objects.mentions(answer.text) for answer in matched}
        else:
            lemmatizer = text_option(self.name, options, "lemmatizer", "table", ("table", "spacy"))
            reduce = _reducer(objects, lemmatizer)  # before the judge is paid
            judge = need_judge(self.name, judge)
            lists, told, rubric = _object_lists(judge, protocol, options, matched, texts)
            failed = {one.id for one in told if one.verdict is None}
            notes = [f"judge {judge.name}, rubric {rubric.source}", f"lemmatizer {lemmatizer}"]
            notes += verdict_notes(told, wanted=_WANTED)
            mentions = {
                answer.id: objects.listed(_placed(answer.text, _distinct(lists[answer.id], reduce)))
                for answer in matched
                if answer.id not in failed
            }
        graded = [
            grade_mentions(
                answer.id, answer.text, mentions[answer.id], pictures[int(answer.id)], {"question": texts[answer.id]}
            )
            for answer in matched
            if answer.id not in failed
        ]
        return _result(graded, protocol, notes, len(failed))

    def export(self, data: Path, answers: Sequence[Answer], path: Path) -> None:
        """JSON lines with ``image_id``, ``question`` and ``answer``, as the scripts read them."""
        texts = self._texts(data)
        write_lines(
            path,
            [
                {"image_id": int(answer.id), "question": texts[answer.id], "answer": answer.text}
                for answer in match_ids(list(texts), answers)
            ],
        )

    def read_export(self, path: Path) -> list[Answer]:
        return read_answers(path, "image_id", ("text", "response", "answer", "model_answer"))

    def _texts(self, data: Path) -> dict[str, str]:
        """Picture id to question, without its picture."""
        path = find_file(data, ("obj_halbench_300_with_image.jsonl", "*/obj_halbench_300_with_image.jsonl"), self)
        rows = [(row, f"{path}:{number}") for number, row in enumerate(read_table(path), start=1)]
        check_ids([_coco_id(row, source) for row, source in rows], str(path))
        return {_coco_id(row, source): text_field(row, "question", source) for row, source in rows}


BENCH: Final = ObjectHalBench()


def _coco_id(row: Mapping[str, Any], source: str) -> str:
    id = text_field(row, "image_id", source)
    if not (id.isdecimal() and id.isascii() and len(id) < 19):
        raise DataError(f"'image_id' is {id!r:.100}", source=source, remedy="Expected a COCO picture id, as 391895")
    return id


def _cleaned(answer: Answer) -> Answer:
    return Answer(id=answer.id, text=answer.text.replace("Assistant:", "").strip())


def _written(encoded: str, path: Path, source: str) -> str:
    """The path of an embedded picture, written where it is not there yet."""
    if not path.is_file():
        try:
            content = base64.b64decode(encoded, validate=True)
            replace_file(path, content)
        except ValueError as error:  # binascii.Error is one, letters beyond ASCII are another
            raise DataError("its picture is no base64", source=source, remedy="Download the file again") from error
        except OSError as error:
            remedy = "Make the folder writable, it receives the pictures"
            raise DataError(
                f"its picture cannot be written ({error.strerror})", source=source, remedy=remedy
            ) from error
    return str(path)


# --- the judge --------------------------------------------------------------------------------


def _object_lists(
    judge: Judge, protocol: str, options: Mapping[str, Any], answers: Sequence[Answer], questions: Mapping[str, str]
) -> tuple[dict[str, list[str]], list[Said[list[str]]], Rubric]:
    """Objects by id, where there is a list, and what the judge was asked, again while a reply could not be read."""
    rubric = load_rubric("object_halbench", options.get("template"))
    attempts = count_option("object_halbench", options, "attempts", _ATTEMPTS)
    official = protocol == "official"
    requests = [
        JudgeRequest(
            id=answer.id,
            messages=rubric.messages({"question": questions[answer.id], "answer": answer.text}),
            temperature=0.2 if official else 0.0,
            max_tokens=None,
        )
        for answer in answers
        if not _is_short(answer)
    ]
    read = read_object_list if official else read_object_list_ovip
    told = ask(judge, requests, read, wanted=_WANTED, attempts=attempts)
    need_verdicts("object_halbench", told)
    found: dict[str, list[str]] = {answer.id: [] for answer in answers if _is_short(answer)}
    return found | {one.id: one.verdict for one in told if one.verdict is not None}, told, rubric


def _is_short(answer: Answer) -> bool:
    return len(answer.text.split()) <= _SHORT


def read_object_list(reply: str) -> list[str] | None:
    """RLAIF-V: the list in a ```json fence, or on the last line if ``["`` stands somewhere; None if there is none."""
    fenced = _FENCE.search(reply)
    if fenced:
        found = _strings(fenced.group(1))
        if found is not None:
            return found
    return _strings(reply.strip().split("\n")[-1]) if '["' in reply else None


def read_object_list_ovip(reply: str) -> list[str] | None:
    """OViP: the whole reply, or what a fence leaves, or the last line if ``["`` stands somewhere."""
    whole = _strings(reply)
    if whole is not None:
        return whole
    if "```json" in reply:
        return _strings(reply.replace("```json", "").replace("```", "").strip())
    return _strings(reply.strip().split("\n")[-1]) if '["' in reply else None


def _strings(text: str) -> list[str] | None:
    """What the scripts walk through, whatever it is: items, but also the keys of an object or the letters of a text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return [str(item) for item in value] if isinstance(value, list | dict | str) else None


# --- from phrases to objects ------------------------------------------------------------------


def _distinct(phrases: Sequence[str], reduce: Reduce) -> list[str]:
    return list(dict.fromkeys(found for phrase in phrases for found in reduce(phrase)))


def _placed(text: str, objects: Sequence[str]) -> list[Word]:
    """Objects with their first place in the answer; width 0 where they do not stand there as they are."""
    found = [(one, text.lower().find(one.lower())) for one in objects]
    words = [Word(one, max(start, 0), start + len(one.lower()) if start >= 0 else 0) for one, start in found]
    return as_written(text, words)


def _reducer(objects: ObjectList, lemmatizer: str) -> Reduce:
    if lemmatizer == "table":
        return lambda phrase: _reduce_by_table(phrase, objects)
    model = load_spacy(_SPACY_MODEL, instead="lemmatizer: table")
    return lambda phrase: _reduce_by_spacy(phrase, objects, model)


def _pairs_in(tokens: Sequence[str], objects: ObjectList) -> list[str]:
    """Known word pairs, left to right, without what lies between them."""
    words = [Word(token, 0, 0) for token in tokens]
    found, index = [], 0
    while index < len(words):
        pair = objects.pair(words[index : index + 2])
        if pair:
            found.append(pair.text)
        index += 2 if pair else 1
    return found


def _reduce_by_table(phrase: str, objects: ObjectList) -> list[str]:
    """A pair wins; otherwise the phrase if it is on the list, or else its last word, the head of a noun phrase."""
    tokens = [objects.forms.get(word.text, word.text) for word in treebank_words(phrase.lower())]
    if not tokens:
        return []
    whole = " ".join(tokens)
    return _pairs_in(tokens, objects) or [whole if whole in objects.categories else tokens[-1]]


def _reduce_by_spacy(phrase: str, objects: ObjectList, model: Any) -> list[str]:
    """As the original: "a " in front, lemmas; a pair wins, otherwise each run of noun tags is one object."""
    tokens = list(model(f"a {phrase}"))
    pairs = _pairs_in([token.lemma_ for token in tokens], objects)
    if pairs:
        return pairs
    runs = "".join(f" {token.lemma_}" if token.tag_ in _NOUN_TAGS else "\n" for token in tokens)
    return [run.strip() for run in runs.split("\n") if run.strip()]


# --- figures ----------------------------------------------------------------------------------


def _result(graded: Sequence[Graded], protocol: str, notes: Sequence[str], failures: int) -> Result:
    sums: Counter[str] = Counter()
    for row in graded:
        sums.update(row.counts)
    rates: dict[str, float] = {}
    for name, (part, whole) in _RATES.items():
        below = len(graded) if whole == "answers" else sums[whole]
        rates[name] = sums[part] / below if below else 0.0
    # a fraction first, as the script has it: 23 of 160 prints 14.37, and 100 * 23 / 160 would print 14.38
    metrics = {name: rate * 100 for name, rate in rates.items()}
    metrics["response_correct"] = (1 - rates["response_hall"]) * 100
    metrics["object_correct"] = (1 - rates["object_hall"]) * 100
    metrics["average_length"] = sums["words"] / len(graded) if graded else 0.0
    formulas = {name: f"100 * {part} / {whole}" for name, (part, whole) in _RATES.items()}
    formulas["response_correct"] = f"100 - {formulas['response_hall']}"
    formulas["object_correct"] = f"100 - {formulas['object_hall']}"
    formulas["average_length"] = "words / answers"
    if protocol == "ovip":
        # its lookup.py reads what was printed
        right, recall = (round(metrics[name], 2) for name in ("object_correct", "object_recall"))
        metrics["f1"] = 2 * recall * right / (recall + right) if right + recall else 0.0
        text, found = f"({formulas['object_correct']})", f"({formulas['object_recall']})"
        formulas["f1"] = f"2 * {text} * {found} / ({text} + {found})"
    more = [f"{len(graded)} answers, {sums['responses_with_objects']:.0f} of them name a COCO object"]
    return Result(
        bench="object_halbench",
        protocol=protocol,
        metrics=metrics,
        metrics_printed={name: f"{value:.2f}" for name, value in metrics.items()},
        graded=graded,
        notes=[*notes, *more],
        failures=failures,
        formulas=formulas,
        better={"chair_s": "lower"},
    )
