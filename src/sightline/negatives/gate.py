"""Whether a picture that was made shows what it was made for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from sightline.errors import ServiceError
from sightline.evaluation.bench import JudgeRequest
from sightline.evaluation.judge import JudgeClient, load_judge
from sightline.evaluation.rubric import Rubric, load_rubric
from sightline.evaluation.verdicts import ask
from sightline.negatives.pairs import Lost, Made, Pair
from sightline.recipes.negatives import GateSpec
from sightline.recipes.terms import ClipSpec
from sightline.rewards.judge import conversation, read_yes_no
from sightline.rewards.terms import Failure, Term
from sightline.types import Group, Response

Shown = tuple[Pair, Made]


class Gate(Protocol):
    """Lets pictures pass that show the rejected answer of their pair."""

    def __call__(self, shown: Sequence[Shown]) -> list[Made | Lost]: ...

    def give_up(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class ClipGate:
    """The picture must be nearer to the rejected answer than to the chosen one."""

    spec: GateSpec
    term: Term
    """Cosine of picture and answer."""

    def __call__(self, shown: Sequence[Shown]) -> list[Made | Lost]:
        groups = [
            Group(
                prompts=(replace(pair.prompt, images=(made.image,)),),
                responses=(Response(text=pair.rejected), Response(text=pair.chosen)),
            )
            for pair, made in shown
        ]
        values = self.term.values(groups)
        return [self._passed(made, *both) for (_, made), both in zip(shown, values, strict=True)]

    def _passed(self, made: Made, rejected: float | Failure, chosen: float | Failure) -> Made | Lost:
        for value in (rejected, chosen):
            if isinstance(value, Failure):
                return Lost(outcome="failed", reason=f"the gate could not judge it: {value.reason}", facts=made.facts)
        assert not isinstance(rejected, Failure) and not isinstance(chosen, Failure)
        facts = {**made.facts, "clip": {"rejected": rejected, "chosen": chosen}}
        if rejected < self.spec.least or rejected - chosen < self.spec.margin:
            reason = f"cosine {rejected:.3f} with the rejected answer, {chosen:.3f} with the chosen one"
            return Lost(outcome="refused", reason=reason, facts=facts)
        return replace(made, facts=facts)

    def give_up(self) -> None:
        self.term.give_up()


@dataclass(frozen=True, kw_only=True)
class QuestionGate:
    """A vision-language model must say that the picture bears the rejected answer out."""

    spec: GateSpec
    judge: JudgeClient
    rubric: Rubric

    def __call__(self, shown: Sequence[Shown]) -> list[Made | Lost]:
        """
        Raises:
            DataError: the judge refuses all requests.
        """
        requests = [self._request(pair, made) for pair, made in shown]
        try:
            told = ask(self.judge, requests, read_yes_no, wanted="yes or no", attempts=self.spec.attempts)
        except ServiceError as away:
            return [Lost(outcome="failed", reason=f"the gate is away: {away}", facts=made.facts) for _, made in shown]
        passed: list[Made | Lost] = []
        for (_, made), one in zip(shown, told, strict=True):
            if one.verdict is None:
                reason = f"the gate could not judge it: {one.problem}"
                passed.append(Lost(outcome="failed", reason=reason, facts=made.facts))
            elif one.verdict:
                passed.append(made)
            else:
                reason = f"{self.judge.name} does not see the rejected answer in it"
                passed.append(Lost(outcome="refused", reason=reason, facts=made.facts))
        return passed

    def _request(self, pair: Pair, made: Made) -> JudgeRequest:
        values = {"question": conversation(pair.prompt), "answer": pair.rejected}
        # by the name of the picture too: another attempt at the same pair is another question
        name = f"{pair.key}/{Path(made.image).stem}"
        return JudgeRequest(id=name, messages=self.rubric.messages(values), images=(made.image,), max_tokens=64)

    def give_up(self) -> None:
        self.judge.give_up()


def load_gate(spec: GateSpec, cache: Path) -> Gate:
    """
    Args:
        spec: of the recipe.
        cache: folder that keeps the replies of a model.

    Raises:
        CheckpointError: there is no CLIP model.
        DataError: the judge or the template cannot be used.
    """
    if spec.kind == "clip":
        from sightline.rewards.clip import clip

        assert spec.path is not None
        return ClipGate(spec=spec, term=clip(ClipSpec(path=spec.path)))
    assert spec.judge is not None
    judge = load_judge(spec.judge, spec.options, cache=cache)
    return QuestionGate(spec=spec, judge=judge, rubric=load_rubric("negative_gate", spec.template))
