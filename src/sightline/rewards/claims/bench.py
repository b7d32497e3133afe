"""The benchmark ``claims``: how many claims of a model's answers a fixed labeller rejects, on questions of one's own.

It is there to choose a round by, on questions that no round asks. Data is a file of rows with prompts; or a folder with
``claims.json`` (``{"prompts": FILE, "share": 0.1, "most": 200}``), whose ``share`` is the ``held_out`` of the loop.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked

from sightline.data.load import Account, load_prompts
from sightline.errors import DataError, RecipeError
from sightline.evaluation.bench import Answer, Graded, Judge, Question, Result, check_protocol, match_answers
from sightline.evaluation.json_files import read_json
from sightline.evaluation.submissions import read_answers
from sightline.evaluation.tables import object_of
from sightline.files import replace_file
from sightline.recipes.load import check_spec
from sightline.recipes.rlaif_v import LABELLER, SELF, ClaimsSpec, LabellerSpec, QuestionsSpec, WriterSpec
from sightline.recipes.schema import DataSpec
from sightline.rewards.claims.feedback import check_unjudged
from sightline.rewards.claims.held_out import held_out
from sightline.rewards.claims.label import WORDS, label
from sightline.rewards.claims.models import asked, check_asked
from sightline.rewards.claims.score import NO_CLAIM, How, score
from sightline.rewards.claims.split import ask, split
from sightline.rewards.claims.writer import check_rubric, writer
from sightline.types import Group, Response

SETTINGS: Final = "claims.json"
_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


@checked(frozen=True, kw_only=True, config=_STRICT)
class ClaimsOptions:
    """Options of the benchmark: as of ``RlaifVSpec``, by one labeller for all rounds."""

    labeller: LabellerSpec
    """Not ``self``: rounds that judge themselves cannot be compared."""
    claims: ClaimsSpec = ClaimsSpec()
    questions: QuestionsSpec = QuestionsSpec()
    score: How = "rejected"
    cache: str | None = None
    """Folder that keeps the replies of servers."""

    def __post_init__(self) -> None:
        """Refuses a judge that is another one in each round."""
        if SELF in (self.labeller.model, self.claims.writer.model, self.questions.writer.model):
            raise ValueError("found model: self, which is another judge in each round. Name a folder or a server")


@checked(frozen=True, kw_only=True, config=_STRICT)
class _Settings:
    prompts: str
    share: float | None = Field(default=None, gt=0, lt=1)
    most: int | None = Field(default=None, ge=1)


@dataclass(frozen=True, kw_only=True)
class ClaimsBench:
    """Rejected claims of answers, by RLAIF-V's account (arXiv 2405.17220)."""

    name: str = "claims"
    protocols: tuple[str, ...] = ("rlaif_v",)
    needs: str = "rows with prompts and pictures, and the option labeller: a vision-language model or a server"
    max_new_tokens: int = 512

    def questions(self, data: Path) -> list[Question]:
        """See ``Benchmark.questions``."""
        meta = {"max_new_tokens": self.max_new_tokens}
        return [Question(id=group.id, prompt=group.prompts[0], meta=meta) for group in _prompts(data)]

    def grade(
        self, data: Path, answers: Sequence[Answer], protocol: str, options: Mapping[str, Any], judge: Judge | None
    ) -> Result:
        """Means over answers that have a score."""
        check_protocol(self, protocol)
        chosen = check_spec(ClaimsOptions, f"options of {self.name}", **options)
        _check(chosen)
        groups = _prompts(data)
        questions = [Question(id=group.id, prompt=group.prompts[0]) for group in groups]
        texts = {answer.id: answer.text for answer in match_answers(questions, answers)}
        judged = _judged([_answered(group, texts[group.id]) for group in groups], chosen)
        graded = [_graded(group) for group in judged]
        metrics = {name: _mean(graded, *columns) for name, columns in _RATIOS.items()}
        known = {name: value for name, value in metrics.items() if value is not None}
        wrong = [row.details["problem"] for row in graded if "problem" in row.details]
        notes = [f"labeller: {chosen.labeller.model}"]
        notes += [f"{len(wrong)} answers could not be judged, first: {wrong[0]}"] if wrong else []
        return Result(
            bench=self.name,
            protocol=protocol,
            metrics=known,
            metrics_printed={name: f"{value:.3f}" for name, value in known.items()},
            graded=graded,
            notes=notes,
            failures=len(wrong),
            formulas={name: f"{top} / {bottom}" for name, (top, bottom) in _RATIOS.items()},
            better={"score": "higher", "rejected": "lower", "claims": "neither", "words": "neither"},
        )

    def export(self, data: Path, answers: Sequence[Answer], path: Path) -> None:
        """A JSON list of ``{"id", "response"}``."""
        matched = match_answers(self.questions(data), answers)
        replace_file(path, json.dumps([{"id": one.id, "response": one.text} for one in matched], indent=1))

    def read_export(self, path: Path) -> list[Answer]:
        """What ``export`` writes."""
        return read_answers(path, "id", ("response",))


BENCH = ClaimsBench()
_RATIOS: Final = {
    "score": ("worth", "scored"),
    "rejected": ("rejected", "claims"),
    "claims": ("claims", "scored"),
    "words": ("words", "scored"),
}


def _prompts(data: Path) -> list[Group]:
    """The questions, each a group without answers."""
    settings = _Settings(prompts=str(data))
    if data.is_dir():
        place = data / SETTINGS
        given = object_of(read_json(place), str(place))
        try:
            settings = check_spec(_Settings, str(place), **given)
        except RecipeError as error:
            raise DataError(str(error), source=str(place)) from error
    path = settings.prompts if not data.is_dir() else str(data / settings.prompts)
    groups = held_out(load_prompts(DataSpec(path=path), Account(cache_dir=data.parent / "images")), settings.share)
    for group in groups:
        check_unjudged(group)
    return groups[: settings.most]


def _answered(group: Group, text: str) -> Group:
    return Group(prompts=group.prompts, responses=(Response(text=text),), source=group.source)


def _judged(groups: Sequence[Group], spec: ClaimsOptions) -> list[Group]:
    """Scored groups; a model is loaded only if there is something to ask it."""
    written = _written(groups, spec.claims, spec, lambda some, made: split(some, spec.claims, made), "claims_split")
    turned = _written(written, spec.questions, spec, lambda some, made: ask(some, spec.questions, made), "claims_ask")
    with asked(spec.labeller.model, spec.labeller.options, cache=_cache(spec)) as labeller:
        labelled = [one for group in turned for one in label([group], spec.labeller, labeller)]
    return [score(group, spec.score, spec.labeller.threshold) for group in labelled]


def _written(
    groups: Sequence[Group], part: ClaimsSpec | QuestionsSpec, spec: ClaimsOptions, doing: Any, rubric: str
) -> list[Group]:
    if part.by != "model":
        return list(doing(groups, None))
    of: WriterSpec | LabellerSpec = spec.labeller if part.writer.model == LABELLER else part.writer
    with asked(of.model, of.options, cache=_cache(spec)) as judge:
        return list(doing(groups, writer(judge, part.writer, rubric)))


def _check(spec: ClaimsOptions) -> None:
    """What can be known of writers and labeller before they are asked; answers without a word are graded first."""
    check_asked(spec.labeller.model, spec.labeller.options, words=WORDS)
    for part, rubric in ((spec.claims, "claims_split"), (spec.questions, "claims_ask")):
        if part.by == "model":
            of: WriterSpec | LabellerSpec = spec.labeller if part.writer.model == LABELLER else part.writer
            check_asked(of.model, of.options)
            check_rubric(rubric, part.writer)


def _cache(spec: ClaimsOptions) -> Path | None:
    return None if spec.cache is None else Path(spec.cache)


def _graded(group: Group) -> Graded:
    (prompt,), (response,) = group.prompts, group.responses
    counts: dict[str, float] = {}
    details: dict[str, Any] = {"answer": response.text}
    if response.reward is not None:
        words = float(len(response.text.split()))
        counts |= {"scored": 1.0, "worth": response.reward, "words": words, **response.rewards}
        details["error"] = response.rewards["rejected"]
    elif response.reward_error != NO_CLAIM:
        details["problem"] = response.reward_error
    return Graded(id=group.id, cluster="|".join(prompt.images), counts=counts, details=details)


def _mean(graded: Sequence[Graded], top: str, bottom: str) -> float | None:
    below = sum(row.counts.get(bottom, 0.0) for row in graded)
    return sum(row.counts.get(top, 0.0) for row in graded) / below if below else None
