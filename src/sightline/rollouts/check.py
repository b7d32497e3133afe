"""Do engine and trainer agree? A few answers are sampled by the one and scored again by the other.

What they disagree about, training takes for something learnt: a picture cut in other tiles, a template of another
version, weights of another type. It is the commonest fault of reinforcement learning with pictures, and a silent one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sightline.data.render import Renderer
from sightline.errors import DataError, VerificationError
from sightline.ops.kl import kl_estimate
from sightline.recipes.schema import SamplingSpec
from sightline.rendered import RenderedGroup
from sightline.rollouts.engine import CheckedEngine
from sightline.types import Batch, Group

ANSWERS = 8
"""That are sampled and scored again."""
PROMPTS = 4
LONGEST = 32
"""Most tokens of such an answer."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One prompt as both sides read it."""

    id: str
    pictures: tuple[tuple[int, ...], tuple[int, ...]]
    """Positions of the tokens of pictures: the trainer's, the engine's."""
    equal: bool
    """Whether all tokens are equal."""


@dataclass(frozen=True, kw_only=True)
class EngineCheck:
    """What the comparison found."""

    engine: str
    family: str
    readings: tuple[Reading, ...]
    answers: int = 0
    tokens: int = 0
    k1: float = math.nan
    """Mean of log engine - log trainer over the tokens that the engine sampled: an unbiased estimate of KL(engine ||
    trainer) per token where it samples at temperature 1 from all tokens."""
    k3: float = math.nan
    """Mean of r - 1 - log r, r = trainer / engine: the same KL, never below 0 and steadier."""
    largest: float = math.nan
    """Of one token's log-probability, in nats."""

    def lines(self) -> list[str]:
        """For people."""
        differing = [one for one in self.readings if not one.equal]
        ours, theirs = (sum(len(one.pictures[side]) for one in self.readings) for side in (0, 1))
        same = sum(one.pictures[0] == one.pictures[1] for one in self.readings)
        told = [
            f"engine {self.engine}, family {self.family}",
            f"prompts: {len(self.readings)} read, {len(differing)} in other tokens than the trainer's"
            + (f" ({', '.join(one.id for one in differing)})" if differing else ""),
            f"picture spans: {same} of {len(self.readings)} prompts have them in the same places "
            f"(tokens of pictures: trainer {ours}, engine {theirs})",
        ]
        if self.answers:
            told.append(
                f"answers: {self.answers} with {self.tokens} tokens; KL per token {self.k3:.2e} (k3), {self.k1:+.2e} "
                f"(k1); largest difference of a token {self.largest:.2e} nats"
            )
        return told

    def refuse(self, max_kl: float) -> None:
        """
        Raises:
            VerificationError: they disagree.
        """
        found = "\n".join(self.lines())
        if any(not one.equal for one in self.readings):
            raise VerificationError(
                f"Engine and trainer read the same prompts in other tokens.\n{found}\nExpected the same. Give the "
                "server the same model, processor and picture settings. online.engine.check: false leaves the check out"
            )
        if not self.k3 <= max_kl:  # nor what is not a number
            raise VerificationError(
                f"Engine and trainer disagree about the answers.\n{found}\nExpected at most {max_kl:g} nats per token "
                "(online.engine.max_kl). Compare weights and their type on both sides; a server needs --logprobs-mode "
                "raw_logprobs. online.engine.check: false leaves the check out"
            )


def check_engine(
    engine: CheckedEngine,
    renderer: Renderer,
    groups: Sequence[Group],
    sampling: SamplingSpec,
    *,
    name: str,
    score: Callable[[Sequence[RenderedGroup]], Batch],
) -> EngineCheck:
    """Samples :data:`ANSWERS` answers to a few of the prompts, those with pictures first, and scores them again.

    Args:
        engine: holds the policy.
        renderer: the trainer's.
        groups: prompts; what cannot be rendered is passed over.
        sampling: as the run samples; ``n`` and ``max_new_tokens`` are cut short.
        name: of the engine, for people.
        score: lays groups out and gives the batch with ``old_logprobs`` under the trainer's policy.

    Raises:
        DataError: no prompt that can be rendered.
        EngineError: the engine does not answer.
    """
    asked = _prompts(renderer, groups)
    readings = tuple(_reading(engine, renderer, group) for group in asked)
    found = EngineCheck(engine=name, family=renderer.family.name, readings=readings)
    if not all(one.equal for one in readings):
        return found
    short = replace(sampling, n=-(-ANSWERS // len(asked)), max_new_tokens=min(sampling.max_new_tokens, LONGEST))
    answered = engine.generate(asked, short, seed=0)
    whole = [replace(g, responses=tuple(r for r in g.responses if r.finish_reason != "error")) for g in answered]
    whole = [group for group in whole if group.responses]
    if not whole:
        return found
    batch = score([renderer.render(group) for group in whole])
    assert batch.old_logprobs is not None and batch.rollout_logprobs is not None
    apart = batch.rollout_logprobs.double() - batch.old_logprobs.double()
    return replace(
        found,
        answers=sum(len(group.responses) for group in whole),
        tokens=len(apart),
        k1=float(kl_estimate(apart, "k1").mean()),
        k3=float(kl_estimate(apart, "k3").mean()),
        largest=float(apart.abs().max()),
    )


def _prompts(renderer: Renderer, groups: Sequence[Group]) -> list[Group]:
    asked: list[Group] = []
    for group in sorted(groups, key=lambda one: not one.prompts[0].images):
        bare = replace(group, responses=(), edges=())
        try:
            renderer.render(bare)
        except DataError as error:
            fault = error
            continue
        asked.append(bare)
        if len(asked) == PROMPTS:
            break
    if not asked:
        raise fault
    return asked


def _reading(engine: CheckedEngine, renderer: Renderer, group: Group) -> Reading:
    ours, theirs = renderer.render(group).prompts[0].tokens, engine.read(group)
    own, other = (
        tuple(place for place, token in enumerate(tokens) if token == renderer.placeholder) for tokens in (ours, theirs)
    )
    return Reading(id=group.id, pictures=(own, other), equal=ours == theirs)
