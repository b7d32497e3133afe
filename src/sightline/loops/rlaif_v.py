"""The method ``rlaif_v`` of a loop (arXiv 2405.17220): sample, split into claims, ask, label, score, pair."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from sightline.data.schema import read_groups, write_groups
from sightline.data.staged import Work
from sightline.errors import DataError, NothingToLearn
from sightline.files import replace_file
from sightline.loops.common import asked_settings, comparing, sample_stage, staged
from sightline.loops.common import files_of as files_of_own
from sightline.loops.stages import Round, Stage
from sightline.recipes.rlaif_v import LABELLER, SELF, ClaimsSpec, LabellerSpec, QuestionsSpec, RlaifVSpec, WriterSpec
from sightline.recipes.schema import Recipe
from sightline.relations.balance import balanced, drawn_pairs
from sightline.relations.scores import by_prompt, only_compared
from sightline.relations.selection import relation_of, why_none
from sightline.rewards.claims.feedback import check_unjudged, without_feedback
from sightline.rewards.claims.held_out import in_training
from sightline.rewards.claims.label import WORDS, label
from sightline.rewards.claims.models import asked, check_asked, files_of, is_remote
from sightline.rewards.claims.score import Figures, figures, score
from sightline.rewards.claims.split import ask, split
from sightline.rewards.claims.writer import Writer, check_rubric, writer
from sightline.rewards.settings import FREE_OPTIONS
from sightline.types import Group

_log = logging.getLogger(__name__)
_WRITTEN: Final = 4
"""Groups that a local writer writes about together. A kill costs the work on so many at most."""
_LABELLED: Final = 8
"""Of a local labeller: pictures with all questions about them, as many in a pass as it takes."""
_SENT: Final = 16
"""Of a server, whose replies are kept one by one."""
_SCORED: Final = 256

Doing = Callable[[Writer | None], Work]


@dataclass(frozen=True, kw_only=True)
class RlaifV:
    """See ``RlaifVSpec``. Is a ``loops.stages.Method``."""

    spec: RlaifVSpec

    def check(self, prompts: Sequence[Group]) -> None:
        """See ``Method.check``."""
        for group in prompts:
            check_unjudged(group)
        in_training(prompts, self.spec.held_out)
        labeller = self.spec.labeller
        check_asked(labeller.model, labeller.options, words=WORDS)
        for part, rubric in ((self.spec.claims, "claims_split"), (self.spec.questions, "claims_ask")):
            if part.by == "model":
                check_rubric(rubric, part.writer)
                of = _asked_as(part.writer, labeller)
                check_asked(of.model, of.options)

    def training(self, round: Round, plain: Recipe) -> Recipe:
        """See ``Method.training``: on the pairs, as it is."""
        return comparing(plain, "method rlaif_v makes pairs")

    def stages(self, round: Round) -> list[Stage]:
        """See ``Method.stages``. Each writes a Group file, in which what is known of an answer grows."""
        names = ("samples", "claims", "questions", "verdicts", "scored")
        samples, claims, questions, verdicts, scored = (round.folder / f"{name}.jsonl" for name in names)
        spec = self.spec

        def splitting(made: Writer | None) -> Work:
            return lambda some: split(some, spec.claims, made)

        def turning(made: Writer | None) -> Work:
            return lambda some: ask(some, spec.questions, made)

        return [
            *self._sampled(round, samples),
            self._written("claims", round, (samples, claims), splitting),
            self._written("questions", round, (claims, questions), turning),
            self._labelled(round, questions, verdicts),
            Stage(
                name="score",
                out=scored,
                reads=(verdicts,),
                settings={"score": spec.score, "threshold": spec.labeller.threshold, "most_failed": spec.most_failed},
                run=lambda: self._score(verdicts, scored),
            ),
            Stage(
                name="pairs",
                out=round.pairs,
                reads=(scored,),
                settings={"pairs": asdict(spec.pairs), "seed": round.seed},
                run=lambda: self._pair(round, scored),
            ),
        ]

    # --- the stages ---

    def _sampled(self, round: Round, out: Path) -> list[Stage]:
        share = self.spec.held_out
        if share is None:
            return [sample_stage(round, self.spec.sampling, out=out.name)]
        asked_file = round.folder / "asked.jsonl"

        def run() -> None:
            write_groups(asked_file, in_training(list(read_groups(round.prompts)), share), below=round.root)

        chosen = Stage(name="hold_out", out=asked_file, reads=[round.prompts], settings={"held_out": share}, run=run)
        sample = sample_stage(replace(round, prompts=asked_file), self.spec.sampling, out=out.name)
        # the file of all prompts counts for its pictures too
        return [chosen, replace(sample, reads=[round.prompts, *sample.reads])]

    def _written(self, name: str, round: Round, files: tuple[Path, Path], doing: Doing) -> Stage:
        """Splitting answers, or turning claims into questions: by a model, or by rule."""
        source, out = files
        part: ClaimsSpec | QuestionsSpec = self.spec.claims if name == "claims" else self.spec.questions
        rubric = "claims_split" if name == "claims" else "claims_ask"
        settings: dict[str, Any] = {"by": part.by}
        if part.by != "model":
            settings |= {"text": part.text} if isinstance(part, QuestionsSpec) else {}
            run = lambda: self._grow(out, list(read_groups(source)), doing(None), chunk=_SCORED)  # noqa: E731
            return Stage(name=name, out=out, reads=(source,), settings=settings, run=run)
        of = _asked_as(part.writer, self.spec.labeller)
        template = () if part.writer.template is None else (Path(part.writer.template),)

        def run_asked() -> None:
            chunk = _SENT if is_remote(of.model) else _WRITTEN
            with asked(of.model, of.options, own=round.spec, cache=round.folder / "replies") as judge:
                self._grow(out, list(read_groups(source)), doing(writer(judge, part.writer, rubric)), chunk=chunk)

        drawn = {key: vars(part.writer)[key] for key in ("temperature", "top_p", "max_tokens", "attempts")}
        settings |= {**drawn, **_told(of, round)}
        reads = (source, *template, *_files(of.model, round))
        return Stage(name=name, out=out, reads=reads, settings=settings, run=run_asked)

    def _labelled(self, round: Round, source: Path, out: Path) -> Stage:
        spec = self.spec.labeller

        def run() -> None:
            chunk = _SENT if is_remote(spec.model) else _LABELLED
            with asked(spec.model, spec.options, own=round.spec, cache=round.folder / "replies") as judge:
                self._grow(out, list(read_groups(source)), lambda some: label(some, spec, judge), chunk=chunk)

        settings = {"ask": spec.ask, "least": spec.least, **_told(spec, round)}
        return Stage(name="label", out=out, reads=(source, *_files(spec.model, round)), settings=settings, run=run)

    def _score(self, source: Path, out: Path) -> None:
        how, threshold = self.spec.score, self.spec.labeller.threshold
        self._grow(
            out,
            list(read_groups(source)),
            lambda some: [score(group, how, threshold) for group in some],
            chunk=_SCORED,
        )
        found = figures(read_groups(out))
        replace_file(out.with_name("feedback.json"), json.dumps(asdict(found), indent=2) + "\n")
        self._check_failed(found, out)
        _log.info(_in_words(found))

    def _check_failed(self, found: Figures, out: Path) -> None:
        if found.failed > self.spec.most_failed * found.answers or not found.scored:
            raise DataError(
                f"for {found.failed} of {found.answers} answers something failed (first: "
                f"{found.first_failure or 'none'}), {found.without_claims} claim nothing and {found.scored} have a "
                f"score; expected {self.spec.most_failed:.0%} failures at most, and some score",
                source=str(out),
                remedy="Look at feedback in that file, and change writer or labeller, or raise most_failed. To ask the "
                f"same ones again remove {out.with_name('claims.jsonl')} and the folder replies beside it",
            )

    def _pair(self, round: Round, source: Path) -> None:
        spec = self.spec.pairs
        rule = relation_of(spec.relation, spec.min_gap)
        groups = [_to_compare(group, spec.cut_answers) for group in read_groups(source)]
        compared = [drawn_pairs(rule(group), spec.most, round.seed) for group in groups]
        kept, balance = balanced(compared, None if spec.balance is None else spec.balance.step)
        pairs = [only_compared(without_feedback(group)) for group in kept if group.edges]
        if not pairs:
            found, remedy = f"no pair among {len(groups)} groups", "sample more answers, or raise the temperature"
            if not any(len(rewards) > 1 for group in groups for rewards in by_prompt(group).values()):
                cut, keep = (" and are whole", "pairs.cut_answers: keep, ") if spec.cut_answers != "keep" else ("", "")
                why = f"to none are there two answers that have a score{cut}"
                raise DataError(f"{found} ({why})", source=str(source), remedy=f"Look at that file; {keep}{remedy}")
            why = f"{balance.pairs} before lengths were balanced" if balance.pairs else why_none(spec.relation)
            raise NothingToLearn(found, why=why, source=str(source), remedy=f"Lower pairs.min_gap, {remedy}")
        replace_file(round.folder / "lengths.json", json.dumps(asdict(balance), indent=2) + "\n")
        write_groups(round.pairs, pairs, below=round.root)
        _log.info(
            f"{balance.kept} pairs of {balance.pairs} in {len(pairs)} groups of {len(groups)}; words of chosen "
            f"{balance.chosen_words:.1f}, of rejected {balance.rejected_words:.1f}"
        )

    def _grow(self, out: Path, groups: Sequence[Group], work: Work, *, chunk: int) -> None:
        staged(out.parent.parent, out, _log.info).run(groups, work, chunk=chunk, title=out.stem)


def _files(model: str, round: Round) -> list[Path]:
    """What is read of this machine where a model is asked."""
    return files_of_own(round.spec) if model == SELF else files_of(model)


def _asked_as(spec: WriterSpec, labeller: LabellerSpec) -> WriterSpec | LabellerSpec:
    """Whose model and options a writer has."""
    return labeller if spec.model == LABELLER else spec


def _told(of: WriterSpec | LabellerSpec, round: Round) -> dict[str, Any]:
    """What of a model that is asked changes its replies, beside its files."""
    options = {name: value for name, value in of.options.items() if name not in FREE_OPTIONS}
    return {"model": of.model, "options": options, **({"own": asked_settings(round.spec)} if of.model == SELF else {})}


def _to_compare(group: Group, cut: str) -> Group:
    """Without the scores of answers that are in no comparison."""
    if cut == "keep":
        return group
    answers = tuple(replace(r, reward=None) if r.finish_reason == "length" else r for r in group.responses)
    return replace(group, responses=answers)


def _in_words(found: Figures) -> str:
    text = f"{found.scored} of {found.answers} answers have a score, mean {found.score:.3f}; {found.claims:.1f} claims "
    text += f"an answer, {found.rejected:.1%} of them rejected"
    left = found.answers - found.scored
    if not left:
        return text
    first = f", first: {found.first_failure}" if found.first_failure else ""
    return f"{text}; {found.without_claims} claim nothing, {found.failed} failed{first}"
