"""HallusionBench (Guan et al., CVPR 2024): yes/no questions about figures, edited figures, and none.

Questions come in pairs on similar figures (or with and without one) and in sets on one figure; a pair or figure is
right where all its questions are. ``official`` follows ``evaluation.py`` of tianyi-lab/HallusionBench: a judge
compares the answer with the true statement, and the script's diagnosis follows: the bias to yes, the consistency on
a figure, and whether language or vision is at fault (:mod:`sightline.evaluation.attribution`), for which the judge is
asked as well whether two answers say the same where that decides. A reply without a verdict is a failure; the scripts
take it for "unclear", and so it stands in the figures. ``lmms-eval`` takes the questions with a figure and
computes three accuracies; ``vlmevalkit`` does so too, and reads yes or no without a judge.

Options: ``template`` (a rubric file; it may name ``question``, ``reference`` and ``answer``), ``same_template`` (one
for the comparison; ``answer`` and ``original``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from sightline.errors import DataError
from sightline.evaluation.attribution import Fault, JudgedAnswer, Verdict, fault, needs_comparison
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
from sightline.evaluation.hallusion_figures import BETTER, FORMULAS, count_wholes, figures, pair_faults, printed
from sightline.evaluation.json_files import write_json
from sightline.evaluation.rubric import Rubric, load_rubric
from sightline.evaluation.submissions import answer_id, read_answers
from sightline.evaluation.tables import (
    DOWNLOAD_AGAIN,
    PictureFiles,
    find_file,
    optional_text,
    picture_prompt,
    read_table,
    text_field,
)
from sightline.evaluation.verdicts import Said, ask, need_verdicts, verdict_notes
from sightline.evaluation.yes_no import vlmeval_yes_no

_KEYS: Final = ("category", "subcategory", "set_id", "figure_id", "question_id")
_OPTIONS: Final = {"official": ("template", "same_template"), "lmms-eval": ("template",), "vlmevalkit": ()}
_COLUMNS: Final = ("visual_input", "question", "gt_answer", "gt_answer_details")
_MAX_NEW_TOKENS: Final = 128
_TRUTH: Final = {"0": "no", "1": "yes"}
_LABELS: Final = (*_TRUTH, "2")
"""The script's third value is "uncertain"; its arithmetic of yes takes it as the number it is."""


class HallusionBench:
    """The benchmark. An id is category, subcategory, set, figure and question: ``VD_illusion_0_0_0``."""

    name = "hallusionbench"
    protocols = ("official", "lmms-eval", "vlmevalkit")
    needs = (
        "HallusionBench.json of github.com/tianyi-lab/HallusionBench and the folder hallusion_bench of the archive "
        "linked there; a judge, except for vlmevalkit"
    )

    def questions(self, data: Path) -> list[Question]:
        """All questions, those without a figure included."""
        pictures = PictureFiles(data, (".", "hallusion_bench", "images"))
        return [
            Question(
                id=id,
                prompt=picture_prompt(f"hallusionbench-{id}", row["question"], _figure(row, pictures)),
                meta={
                    "category": row["category"],
                    "max_new_tokens": _MAX_NEW_TOKENS,
                    "protocols": list(self.protocols if _has_figure(row) else self.protocols[:1]),
                },
            )
            for id, row in self._rows(data).items()
        ]

    def grade(
        self, data: Path, answers: Sequence[Answer], protocol: str, options: Mapping[str, Any], judge: Judge | None
    ) -> Result:
        check_protocol(self, protocol)
        check_options(self.name, options, _OPTIONS[protocol])
        rows = self._rows(data)
        if protocol != "official":  # answers to the others may be there and are not looked at
            text_only = {id for id, row in rows.items() if not _has_figure(row)}
            rows = {id: row for id, row in rows.items() if id not in text_only}
            answers = [answer for answer in answers if answer.id not in text_only]
        matched = match_ids(list(rows), answers)
        notes = [f"{len(rows)} questions"]
        problems: dict[str, str] = {}
        verdicts: dict[str, Verdict]
        if protocol == "vlmevalkit":
            verdicts = {answer.id: _by_word(answer.text, str(rows[answer.id]["gt_answer"])) for answer in matched}
        else:
            judge, rubric = need_judge(self.name, judge), load_rubric(self.name, options.get("template"))
            told = _ask(judge, matched, rows, rubric)
            need_verdicts(self.name, told)
            verdicts = {one.id: one.verdict or "unclear" for one in told if not one.silent}
            problems = {one.id: one.problem for one in told if one.problem}
            unread = "taken for unclear, as the script does"
            notes += [f"judge {judge.name}, rubric {rubric.source}", *verdict_notes(told, unread=unread)]
        faults: dict[str, Fault] = {}
        if protocol == "official" and judge is not None:
            faults, note = _faults(judge, {one.id: one.text for one in matched}, rows, verdicts, options)
            notes += note
        graded = [
            _grade(one, rows[one.id], verdicts[one.id], faults.get(one.id, ""), problems.get(one.id, ""))
            for one in matched
            if one.id in verdicts
        ]
        if protocol == "official":
            pairs = ", ".join(f"{name} {count}" for name, count in pair_faults(graded).items())
            notes.append(f"wrong pairs by fault: {pairs}")
        return _result(graded, protocol, notes, len(problems))

    def export(self, data: Path, answers: Sequence[Answer], path: Path) -> None:
        """``HallusionBench_result.json``: the rows with ``model_prediction`` added."""
        rows = self._rows(data)
        matched = match_ids(list(rows), answers)
        write_json(path, [{**rows[answer.id], "model_prediction": answer.text} for answer in matched])

    def read_export(self, path: Path) -> list[Answer]:
        return read_answers(path, _id, ("model_prediction",))

    def _rows(self, data: Path) -> dict[str, dict[str, Any]]:
        path = find_file(data, ("HallusionBench.json", "*/HallusionBench.json"), self)
        rows = {}
        for number, row in enumerate(read_table(path), start=1):
            source = f"{path}:{number}"
            told = {name: text_field(row, name, source) for name in (*_KEYS, *_COLUMNS)}
            if told["gt_answer"] not in _LABELS:
                found = f"gt_answer is {told['gt_answer']!r:.100}"
                raise DataError(found, source=source, remedy="Expected 0 (no) or 1")
            optional_text(row, "filename", source)
            id = _id(row, source)
            if id in rows:
                raise DataError(f"the id {id:.100} stands twice", source=source, remedy=DOWNLOAD_AGAIN)
            rows[id] = {**row, **told}
        return rows


BENCH: Final = HallusionBench()


def _id(row: Mapping[str, Any], source: str) -> str:
    return "_".join(answer_id(row, key, source) for key in _KEYS)


def _has_figure(row: Mapping[str, Any]) -> bool:
    return str(row["visual_input"]) != "0"


def _figure(row: Mapping[str, Any], pictures: PictureFiles) -> list[str]:
    if not _has_figure(row):
        return []
    name = row.get("filename") or (
        f"hallusion_bench/{row['category']}/{row['subcategory']}/{row['set_id']}_{row['figure_id']}.png"
    )
    return [pictures.named(str(name).removeprefix("./"))]


def read_verdict(reply: str) -> Verdict | None:
    """What the judge says: ``incorrect`` before ``correct`` before ``unclear``, wherever they stand; None for none."""
    text = reply.lower()
    verdicts: tuple[Verdict, ...] = ("incorrect", "correct", "unclear")
    return next((verdict for verdict in verdicts if verdict in text), None)


def read_same(reply: str) -> bool | None:
    """Whether two answers say the same: ``same`` wherever it stands, or else ``different``; None for neither."""
    text = reply.lower()
    return True if "same" in text else False if "different" in text else None


def _by_word(answer: str, label: str) -> Verdict:
    return "correct" if vlmeval_yes_no(answer) == _TRUTH.get(label) else "incorrect"


def _ask(
    judge: Judge, answers: Sequence[Answer], rows: Mapping[str, Mapping[str, Any]], rubric: Rubric
) -> list[Said[Verdict]]:
    requests = []
    for answer in answers:
        row = rows[answer.id]
        values = {"question": row["question"], "reference": row["gt_answer_details"], "answer": answer.text}
        requests.append(JudgeRequest(id=answer.id, messages=rubric.messages(values), max_tokens=None))
    return ask(judge, requests, read_verdict)


def _faults(
    judge: Judge,
    texts: Mapping[str, str],
    rows: Mapping[str, Mapping[str, Any]],
    verdicts: Mapping[str, Verdict],
    options: Mapping[str, Any],
) -> tuple[dict[str, Fault], list[str]]:
    """What each wrong answer comes from, by id, and what a reader must know of it."""
    originals = {_pair(row): id for id, row in rows.items() if not _edited(row)}
    judged = {id: _judged(rows[id], verdict, verdicts, originals) for id, verdict in verdicts.items()}
    rubric = load_rubric("hallusionbench_same", options.get("same_template"))
    asked = [id for id, one in judged.items() if needs_comparison(one)]
    requests = [
        JudgeRequest(
            id=f"{id}/same",
            messages=rubric.messages({"answer": texts[id], "original": texts[originals[_pair(rows[id])]]}),
            max_tokens=None,
        )
        for id in asked
    ]
    told = ask(judge, requests, read_same)
    for id, one in zip(asked, told, strict=True):
        judged[id] = replace(judged[id], same=one.verdict)
    found = {id: name for id, one in judged.items() if (name := fault(one)) is not None}
    unknown = sum(name == "unknown" for name in found.values())
    notes = [f"{len(asked)} pairs of answers compared, rubric {rubric.source}"] if asked else []
    notes += verdict_notes(told, unread="not attributed")
    if unknown:
        notes.append(f"{unknown} wrong answers are not attributed: verdict on the original or comparison missing")
    return found, notes


def _judged(
    row: Mapping[str, Any], verdict: Verdict, verdicts: Mapping[str, Verdict], originals: Mapping[str, str]
) -> JudgedAnswer:
    return JudgedAnswer(
        supplement=row["category"] != "VD",
        edited=_edited(row),
        counter=str(row["visual_input"]) == "2",
        verdict=verdict,
        original=verdicts.get(originals.get(_pair(row), "")),
    )


def _edited(row: Mapping[str, Any]) -> bool:
    return str(row["figure_id"]) != "0"


def _front(row: Mapping[str, Any]) -> str:
    return f"{row['category']}_{row['subcategory']}_{row['set_id']}"


def _pair(row: Mapping[str, Any]) -> str:
    return f"{_front(row)}_{row['question_id']}"


def _grade(answer: Answer, row: Mapping[str, Any], verdict: Verdict, fault: str, problem: str) -> Graded:
    # without a figure it is right not to know
    no_figure = row["category"] == "VS" and not _edited(row)
    right = verdict == "correct" or (verdict == "unclear" and no_figure)
    true_yes = int(row["gt_answer"])
    return Graded(
        id=answer.id,
        cluster=_front(row),
        counts={
            "right": float(right),
            "wrong": float(not right),
            # the script takes a wrong answer for the opposite of the truth, also where it says neither
            "said_yes": float(int(right) == true_yes),
            "true_yes": float(true_yes),
            "wrong_yes": float(0 if right else true_yes),
            **({fault: 1.0} if fault else {}),
        },
        details={
            "answer": answer.text,
            "question": row["question"],
            "truth": row["gt_answer_details"],
            "category": row["category"],
            "subcategory": row["subcategory"],
            "figure": f"{_front(row)}_{row['figure_id']}",
            "pair": _pair(row),
            "hard": _edited(row),
            "no_figure": no_figure,
            "verdict": verdict,
            **({"fault": fault} if fault else {}),
            **({"problem": problem} if problem else {}),
            "error": 1 - float(right),
        },
    )


def _result(graded: Sequence[Graded], protocol: str, notes: Sequence[str], failures: int) -> Result:
    metrics = figures(graded, protocol)
    by_category = {}
    for keys in (("category",), ("category", "subcategory")):
        names = ["/".join(row.details[key] for key in keys) for row in graded]
        for name in sorted(set(names)):
            rows = [row for row, own in zip(graded, names, strict=True) if own == name]
            by_category[name] = figures(rows, protocol)
    return Result(
        bench="hallusionbench",
        protocol=protocol,
        metrics=metrics,
        metrics_printed={name: printed(name, value, protocol) for name, value in metrics.items()},
        by_category=by_category,
        graded=count_wholes(graded),
        notes=notes,
        failures=failures,
        formulas={name: FORMULAS[name] for name in metrics},
        better={name: BETTER[name] for name in metrics if name in BETTER},
    )
