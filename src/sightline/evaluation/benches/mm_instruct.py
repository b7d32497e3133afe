"""MM-Instruct (Liu et al. 2024, arXiv:2406.19736): 99 instructions; a judge compares with a baseline's answers.

Each question is judged twice with the order swapped. The authors print wins, losses and ties and define no win rate;
``win_rate`` drops ties, which is what published percentages fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from sightline.errors import DataError
from sightline.evaluation.accuracy import Row
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
from sightline.evaluation.rubric import load_rubric
from sightline.evaluation.submissions import read_answers
from sightline.evaluation.tables import (
    PictureFiles,
    check_ids,
    find_file,
    number_of,
    optional_text,
    picture_prompt,
    read_table,
    text_field,
    write_lines,
)
from sightline.evaluation.verdicts import Said, ask, need_verdicts, verdict_notes

Verdict = Literal["win", "loss", "tie", "ignored"]
_QUESTIONS: Final = ("MM-Instruct-Eval-question.json", "*question*.json*")
_OPTIONS: Final = ("baseline", "template", "text_only")
_DEFAULT_BASELINE: Final = "llava-v1.5-13b"
_LETTERS: Final = ("A", "B", "C")
_COUNT_NAMES: Final[dict[Verdict, str]] = {"win": "wins", "loss": "losses", "tie": "ties", "ignored": "ignored"}


def verdict(first: str, second: str) -> Verdict:
    """What two replies say about the model, whose answer is A in the first order and B in the second.

    As the official script: equal letters are a tie (A/A is position bias), and one clear letter is enough, so A and
    then C is a win. Where neither is a letter nothing was said, though the script takes two equal texts for a tie.
    """
    first, second = first.strip(), second.strip()
    if first == second and first in _LETTERS:
        return "tie"
    if first == "A" or second == "B":
        return "win"
    if first == "B" or second == "A":
        return "loss"
    return "ignored"


@dataclass(frozen=True, kw_only=True)
class MMInstruct:
    """MM-Instruct, by the authors' rule."""

    name: str = "mm_instruct"
    protocols: tuple[str, ...] = ("official",)
    needs: str = (
        "the folder llava/eval/MM-Instruct-eval of jihaonew/MM-Instruct (MM-Instruct-Eval-question.json, "
        "baseline_answers) and its pictures (SA-1B, DataComp) in images/; a judge that sees pictures, or with the "
        "option text_only (unofficial) a text judge"
    )

    def questions(self, data: Path) -> list[Question]:
        """All rows, the instruction alone."""
        return [
            Question(
                id=row.id,
                prompt=picture_prompt(row.id, row.text, [row.image]),
                meta={"category": row.category, "max_new_tokens": 1024},
            )
            for row in self._rows(data)
        ]

    def grade(
        self, data: Path, answers: Sequence[Answer], protocol: str, options: Mapping[str, Any], judge: Judge | None
    ) -> Result:
        """Wins, ties and losses against a baseline, and win rates in percent.

        Options: ``baseline``, a name in ``baseline_answers`` or a file (default LLaVA-1.5-13B, by inference);
        ``template``, a rubric of one's own; ``text_only = true``, the caption instead of the picture.
        """
        check_protocol(self, protocol)
        check_options(self.name, options, _OPTIONS)
        judge = need_judge(self.name, judge)
        rows = self._rows(data)
        matched = match_ids([row.id for row in rows], answers)
        name = str(options.get("baseline", _DEFAULT_BASELINE))
        baseline = self._baseline(data, name, [row.id for row in rows])
        text_only = str(options.get("text_only", "false")).lower() in ("true", "1", "yes")
        rubric = load_rubric("mm_instruct", options.get("template"))
        requests = []
        for row, ours, theirs in zip(rows, matched, baseline, strict=True):
            context = f"Description of the picture: {(row.extra or {})['caption']}\n\n" if text_only else ""
            for order, (left, right) in (("first", (ours, theirs)), ("swapped", (theirs, ours))):
                values = {"context": context, "question": row.text, "answer_a": left.text, "answer_b": right.text}
                requests.append(
                    JudgeRequest(
                        id=f"{row.id}/{order}",
                        messages=rubric.messages(values),
                        images=() if text_only else (row.image,),
                        temperature=0.2,
                        max_tokens=None,
                    )
                )
        told = ask(judge, requests, _letter, wanted="letter")
        need_verdicts(self.name, told, each=2)
        graded = [
            _graded(row, answer.text, first, second)
            for row, answer, first, second in zip(rows, matched, told[0::2], told[1::2], strict=True)
        ]
        notes = [
            f"judge {judge.name}, wording {rubric.source}, baseline {name}",
            *verdict_notes(told, wanted="letter", unread="the other order decides, if it has one"),
            *(["unofficial: the judge reads the caption and sees no picture"] if text_only else []),
        ]
        return _result(graded, notes)

    def export(self, data: Path, answers: Sequence[Answer], path: Path) -> None:
        """The answer file of the official script, in the order of the questions: it pairs lines."""
        rows = self._rows(data)
        write_lines(
            path,
            (
                {"question_id": number_of(row.id), "prompt": row.text, "text": answer.text}
                for row, answer in zip(rows, match_ids([row.id for row in rows], answers), strict=True)
            ),
        )

    def read_export(self, path: Path) -> list[Answer]:
        """Reads that file, and the files of ``baseline_answers``."""
        return read_answers(path, "question_id", ("text",))

    def _baseline(self, data: Path, name: str, ids: Sequence[str]) -> list[Answer]:
        places = [data / "baseline_answers" / f"{name}.json", Path(name)]
        found = next((path for path in places if path.is_file()), None)
        if found is None:
            have = sorted(path.stem for path in places[0].parent.glob("*.json"))
            raise DataError(
                f"there is no baseline {name!r}",
                source=str(places[0]),
                remedy=f"Choose one of {', '.join(have)}, or a file",
            )
        return match_ids(ids, self.read_export(found), source=str(found))

    def _rows(self, data: Path) -> list[Row]:
        file = find_file(data, _QUESTIONS, self)
        images = PictureFiles(data)
        rows = []
        for number, row in enumerate(read_table(file), start=1):
            source = f"{file}:{number}"
            image = text_field(row, "image", source)
            rows.append(
                Row(
                    id=text_field(row, "question_id", source),
                    text=text_field(row, "text", source),
                    truth="",
                    category=optional_text(row, "category", source),
                    cluster=image,
                    image=images.named(image),
                    extra={"caption": optional_text(row, "caption", source)},
                )
            )
        check_ids([row.id for row in rows], str(file))
        return rows


def _letter(reply: str) -> str | None:
    return reply.strip() if reply.strip() in _LETTERS else None


def _graded(row: Row, answer: str, first: Said[str], second: Said[str]) -> Graded:
    details: dict[str, Any] = {
        "answer": answer,
        "question": row.text,
        "category": row.category,
        "replies": [first.reply.text, second.reply.text],
    }
    if first.problem or second.problem:
        details["problem"] = first.problem or second.problem
    if first.silent or second.silent:
        return Graded(id=row.id, cluster=row.cluster, details=details)
    found = verdict(first.verdict or "", second.verdict or "")
    if found == "ignored":
        details["problem"] = "neither reply is a letter that decides"
    return Graded(
        id=row.id,
        cluster=row.cluster,
        counts={_COUNT_NAMES[found]: 1.0, "judged": float(found != "ignored")},
        details={**details, "verdict": found, "error": {"loss": 2.0, "tie": 1.0}.get(found, 0.0)},
    )


def _result(graded: Sequence[Graded], notes: list[str]) -> Result:
    sums = {name: sum(row.counts.get(name, 0) for row in graded) for name in _COUNT_NAMES.values()}
    judged = sums["wins"] + sums["losses"] + sums["ties"]
    metrics = {name: float(sums[name]) for name in ("wins", "losses", "ties")}
    printed = {name: str(int(value)) for name, value in metrics.items()}
    rates = {}
    if sums["wins"] + sums["losses"]:
        rates["win_rate"] = 100 * sums["wins"] / (sums["wins"] + sums["losses"])
    if judged:
        rates["win_or_half_tie_rate"] = 100 * (sums["wins"] + sums["ties"] / 2) / judged
    failures = sum("problem" in row.details for row in graded)
    return Result(
        bench="mm_instruct",
        protocol="official",
        metrics=metrics | rates,
        metrics_printed=printed | {name: f"{value:.2f}" for name, value in rates.items()},
        graded=graded,
        notes=[*notes, *([f"{failures} questions lack a verdict in one order or both"] if failures else [])],
        failures=failures,
        formulas={
            **{name: name for name in ("wins", "losses", "ties")},
            "win_rate": "100 * wins / (wins + losses)",
            "win_or_half_tie_rate": "100 * (wins + ties / 2) / judged",
        },
        better={"losses": "lower", "win_or_half_tie_rate": "higher"},
    )


BENCH: Final = MMInstruct()
