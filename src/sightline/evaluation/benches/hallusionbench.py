"""HallusionBench (Guan et al., CVPR 2024): yes/no questions about figures, edited figures, and none.

Questions come in pairs on similar figures (or with and without one) and in sets on one figure; a pair or figure is
right where all its questions are. ``official`` follows ``evaluation.py`` of tianyi-lab/HallusionBench: a judge
compares the answer with the true statement. ``lmms-eval`` does so for the questions with a figure; ``vlmevalkit``
takes these too, and reads yes or no without a judge. The five figures of the leaderboard, overall and by kind; the
script's diagnosis (bias to yes, consistency, language or vision at fault) is not computed.

Option: ``template`` (a rubric file; it may name ``question``, ``reference`` and ``answer``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

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
from sightline.evaluation.json_files import write_json
from sightline.evaluation.rubric import load_rubric
from sightline.evaluation.tables import PictureFiles, field, find_file, picture_prompt, read_table
from sightline.evaluation.yes_no import vlmeval_yes_no

Verdict = Literal["correct", "incorrect", "unclear"]

_KEYS: Final = ("category", "subcategory", "set_id", "figure_id", "question_id")
_METRICS: Final = {
    "pair_acc": "pairs",
    "figure_acc": "figures",
    "easy_acc": "easy_pairs",
    "hard_acc": "hard_pairs",
}
"""Figure to what it is the share of right ones of."""
_MAX_NEW_TOKENS: Final = 128
_JUDGE_TOKENS: Final = 16
_TRUTH: Final = {"0": "no", "1": "yes"}


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
                meta={"category": row["category"], "max_new_tokens": _MAX_NEW_TOKENS},
            )
            for id, row in self._rows(data).items()
        ]

    def grade(
        self, data: Path, answers: Sequence[Answer], protocol: str, options: Mapping[str, Any], judge: Judge | None
    ) -> Result:
        check_protocol(self, protocol)
        check_options(self.name, options, () if protocol == "vlmevalkit" else ("template",))
        rows = self._rows(data)
        if protocol != "official":  # answers to the others may be there and are not looked at
            text_only = {id for id, row in rows.items() if not _has_figure(row)}
            rows = {id: row for id, row in rows.items() if id not in text_only}
            answers = [answer for answer in answers if answer.id not in text_only]
        matched = match_ids(list(rows), answers)
        notes, failed = [f"{len(rows)} questions"], dict[str, str]()
        if protocol == "vlmevalkit":
            verdicts = {answer.id: _by_word(answer.text, str(rows[answer.id]["gt_answer"])) for answer in matched}
        else:
            judge = need_judge(self.name, judge)
            verdicts, failed = _ask(judge, matched, rows, options)
            notes.append(f"judge {judge.name}, rubric {load_rubric(self.name, options.get('template')).source}")
        graded = [_grade(one, rows[one.id], verdicts[one.id]) for one in matched if one.id in verdicts]
        if failed:
            id = next(iter(failed))
            notes.append(
                f"the judge did not reply to {len(failed)} answers, which are left out (first: {id}: {failed[id]})"
            )
        return _result(graded, protocol, notes, len(failed))

    def export(self, data: Path, answers: Sequence[Answer], path: Path) -> None:
        """``HallusionBench_result.json``: the rows with ``model_prediction`` added."""
        rows = self._rows(data)
        matched = match_ids(list(rows), answers)
        write_json(path, [{**rows[answer.id], "model_prediction": answer.text} for answer in matched])

    def read_export(self, path: Path) -> list[Answer]:
        return [
            Answer(id=_id(row, f"{path}:{number}"), text=str(field(row, "model_prediction", f"{path}:{number}")))
            for number, row in enumerate(read_table(path), start=1)
        ]

    def _rows(self, data: Path) -> dict[str, dict[str, Any]]:
        path = find_file(data, ("HallusionBench.json", "*/HallusionBench.json"), self)
        rows = {}
        for number, row in enumerate(read_table(path), start=1):
            for name in ("visual_input", "question", "gt_answer", "gt_answer_details"):
                field(row, name, f"{path}:{number}")
            rows[_id(row, f"{path}:{number}")] = row
        return rows


BENCH: Final = HallusionBench()


def _id(row: Mapping[str, Any], source: str) -> str:
    return "_".join(str(field(row, key, source)) for key in _KEYS)


def _has_figure(row: Mapping[str, Any]) -> bool:
    return str(row["visual_input"]) != "0"


def _figure(row: Mapping[str, Any], pictures: PictureFiles) -> list[str]:
    if not _has_figure(row):
        return []
    name = row.get("filename") or (
        f"hallusion_bench/{row['category']}/{row['subcategory']}/{row['set_id']}_{row['figure_id']}.png"
    )
    return [pictures.named(str(name).removeprefix("./"))]


def read_verdict(reply: str) -> Verdict:
    """What the judge says: ``incorrect`` before ``correct`` wherever they stand, anything else is unclear."""
    text = reply.lower()
    if "incorrect" in text:
        return "incorrect"
    return "correct" if "correct" in text else "unclear"


def _by_word(answer: str, label: str) -> Verdict:
    return "correct" if vlmeval_yes_no(answer) == _TRUTH.get(label) else "incorrect"


def _ask(
    judge: Judge, answers: Sequence[Answer], rows: Mapping[str, Mapping[str, Any]], options: Mapping[str, Any]
) -> tuple[dict[str, Verdict], dict[str, str]]:
    """Verdicts by id, and for each answer without a reply why."""
    rubric = load_rubric("hallusionbench", options.get("template"))
    requests = []
    for answer in answers:
        row = rows[answer.id]
        values = {"question": row["question"], "reference": row["gt_answer_details"], "answer": answer.text}
        requests.append(JudgeRequest(id=answer.id, messages=rubric.messages(values), max_tokens=_JUDGE_TOKENS))
    verdicts: dict[str, Verdict] = {}
    failed = {}
    for answer, reply in zip(answers, judge.ask(requests), strict=True):
        if reply.text is None:
            failed[answer.id] = reply.error or "no reply"
        else:
            verdicts[answer.id] = read_verdict(reply.text)
    return verdicts, failed


def _grade(answer: Answer, row: Mapping[str, Any], verdict: Verdict) -> Graded:
    # without a figure it is right not to know
    forgiven = verdict == "unclear" and row["category"] == "VS" and str(row["figure_id"]) == "0"
    right = float(verdict == "correct" or forgiven)
    front = f"{row['category']}_{row['subcategory']}_{row['set_id']}"
    return Graded(
        id=answer.id,
        cluster=front,
        counts={"right": right},
        details={
            "answer": answer.text,
            "question": row["question"],
            "truth": row["gt_answer_details"],
            "category": row["category"],
            "subcategory": row["subcategory"],
            "figure": f"{front}_{row['figure_id']}",
            "pair": f"{front}_{row['question_id']}",
            "hard": str(row["figure_id"]) != "0",
            "no_figure": row["category"] == "VS" and str(row["figure_id"]) == "0",
            "verdict": verdict,
            "error": 1 - right,
        },
    )


# --- figures ----------------------------------------------------------------------------------


def _result(graded: Sequence[Graded], protocol: str, notes: Sequence[str], failures: int) -> Result:
    metrics = _figures(graded, protocol)
    kinds = sorted({row.details["category"] for row in graded})
    by_category = {
        kind: _figures([row for row in graded if row.details["category"] == kind], protocol) for kind in kinds
    }
    for name in sorted({f"{row.details['category']}/{row.details['subcategory']}" for row in graded}):
        rows = [row for row in graded if f"{row.details['category']}/{row.details['subcategory']}" == name]
        by_category[name] = _figures(rows, protocol)
    digits = None if protocol == "vlmevalkit" else 4
    return Result(
        bench="hallusionbench",
        protocol=protocol,
        metrics=metrics,
        metrics_printed={
            name: str(value if digits is None else round(value, digits)) for name, value in metrics.items()
        },
        by_category=by_category,
        graded=_with_wholes(graded),
        notes=notes,
        failures=failures,
        formulas={"question_acc": "100 * right / answers"}
        | {name: f"100 * {kind}_right / {kind}" for name, kind in _METRICS.items() if name in metrics},
    )


def _figures(graded: Sequence[Graded], protocol: str) -> dict[str, float]:
    """Percent right of questions, pairs, figures; officially also of pairs on original and on edited figures."""
    metrics = {"question_acc": _percent(bool(row.counts["right"]) for row in graded)}
    kinds = _kinds(graded)
    for metric, name in _METRICS.items():
        if protocol == "official" or name in ("pairs", "figures"):
            key, rows = kinds[name]
            metrics[metric] = _percent(_wholes(rows, key).values())
    return metrics


def _kinds(graded: Sequence[Graded]) -> dict[str, tuple[str, Sequence[Graded]]]:
    """What is right as a whole: kind to the key of its wholes and the answers that it takes in."""
    return {
        "pairs": ("pair", graded),
        "figures": ("figure", [row for row in graded if not row.details["no_figure"]]),
        "easy_pairs": ("pair", [row for row in graded if not row.details["hard"]]),
        "hard_pairs": ("pair", [row for row in graded if row.details["hard"]]),
    }


def _percent(right: Iterable[bool]) -> float:
    values = list(right)
    return 100 * sum(values) / len(values) if values else 0.0


def _wholes(graded: Sequence[Graded], key: str) -> dict[str, bool]:
    """Pair or figure to whether all its questions are right."""
    found: dict[str, bool] = {}
    for row in graded:
        name = row.details[key]
        found[name] = found.get(name, True) and bool(row.counts["right"])
    return found


def _with_wholes(graded: Sequence[Graded]) -> list[Graded]:
    """Pairs and figures counted once, at their first question: all questions of a set are one cluster."""
    done: set[tuple[str, str]] = set()
    counts = {row.id: dict(row.counts) for row in graded}
    for name, (key, rows) in _kinds(graded).items():
        right = _wholes(rows, key)
        for row in rows:
            whole = (name, row.details[key])
            if whole not in done:
                counts[row.id] |= {name: 1.0, f"{name}_right": float(right[whole[1]])}
                done.add(whole)
    return [replace(row, counts=counts[row.id]) for row in graded]
