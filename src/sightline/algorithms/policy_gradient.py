"""Policy gradient on groups of sampled answers: advantage, ratio and normaliser, chosen one by one or by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from pydantic import Discriminator
from torch import Tensor

from sightline.algorithms.advantages import Advantage, Baseline, Scale
from sightline.algorithms.masked import Apart, taken_apart
from sightline.algorithms.mismatch import Mismatch, extreme, gap_stats, mismatch_of
from sightline.algorithms.pairs import mean
from sightline.algorithms.papo import Papo
from sightline.algorithms.policy_gradient_checks import check_choices
from sightline.algorithms.visual_entropy import PART, VisualEntropy
from sightline.algorithms.vppo import Vppo
from sightline.errors import RecipeError
from sightline.ops.kl import KLEstimator, kl_estimate
from sightline.ops.ratios import RatioLevel, clip_log_ratio, clipped_gain, log_ratio_at, soft_gain
from sightline.ops.reductions import segment_count, segment_mean, segment_sum
from sightline.types import Algorithm, Batch, Scores, Stat, Term, Unit, World

Ratio = RatioLevel | Literal["geometric"]
Objective = Literal["clip", "detached", "soft", "plain"]
Normaliser = Literal["token", "response", "group", "sum", "constant"]
_OF_PAIRS: Mapping[Unit, Unit] = {"token": "chosen_token", "response": "pair"}
"""Units of answers that stand under two pictures: the answer is the winner of its pair."""


@dataclass(frozen=True, kw_only=True)
class PolicyGradient(Algorithm):
    """GRPO and its relatives: log-probabilities of sampled answers move with their advantages.

    Three choices compose. The **advantage** says how much better an answer is than expected (``baseline``, ``scale``).
    The **ratio** of the policy to itself before the round's first step (``ratio``) bounds how far a step may go, by the
    ``objective``. The **normaliser** says what the sum over tokens is divided by. ``algorithm.name`` names a preset of
    them (``presets.PRESETS``): any field may be set on top.

    Needs groups of its own samples (``online`` with ``relation: none``). Where a round has one optimizer step, the
    ratio is 1 and costs nothing; where it has more (``online.steps_per_round``, ``online.inner_epochs``), the
    log-probabilities before the first of them are computed once. At the first step of a round the ratio is exactly 1.

    Terms: ``policy``, and ``kl`` where KL is in the loss; unit by ``normaliser``.

    >>> PolicyGradient(baseline="leave_one_out", scale="none").answers
    2
    """

    baseline: Baseline = "group"
    """What is taken off the reward. ``group``: mean of the group; ``leave_one_out``: mean of its other answers;
    ``length``: mean of the group by length; ``greedy``: reward of a greedy answer (``online.greedy``); ``none``."""
    scale: Scale = "group"
    """What the rest is divided by. ``group``: deviation of the group's rewards; ``mean``: their mean (rewards >= 0);
    ``batch``: deviation of all rewards of the round; ``whiten``: less the mean over the deviation of all answers'
    advantages; ``whiten_tokens``: the same over all tokens; ``none``."""
    std: Literal["sample", "population"] = "sample"
    """Deviations divide by n - 1 (TRL, verl) or by n. ``whiten_tokens`` always divides by n."""
    std_epsilon: float = 1e-4
    """Added to what is divided by, >= 0."""
    per_part: bool = False
    """GDPO: each part of the reward (``Response.rewards``) is standardised in its group by itself, then their weighted
    sum is taken in place of the reward."""
    part_weights: Mapping[str, float] = field(default_factory=dict)
    """Weights of parts in that sum, in the place of those that ``online.reward`` gives its terms; 1 for the parts of a
    reward that is one name."""
    ratio: Ratio = "token"
    """``token``; ``sequence``: geometric mean over the answer (GSPO); ``sequence_token``: its value with the gradient
    of each token; ``product``: probability of the whole answer; ``geometric``: mean of clipped log-ratios."""
    objective: Objective = "clip"
    """``clip``: PPO's minimum; ``detached``: the ratio, capped, as a weight without gradient (CISPO); ``soft``: a
    sigmoid gate (SAPO); ``plain``: the ratio itself."""
    epsilon: float = 0.2
    """Of ``clip``: how far below 1 the ratio may go, >= 0; of ``geometric``: its logarithm below 0."""
    epsilon_high: float | None = None
    """How far above; None: ``epsilon``."""
    delta: float | None = None
    """Of ``clip``: largest ratio that a negative advantage is multiplied by, above 1; None: any."""
    cap: float = 5.0
    """Of ``detached``: largest weight, > 0."""
    temperature_positive: float = 1.0
    """Of ``soft``: slope of the gate where the advantage is positive, > 0."""
    temperature_negative: float = 1.05
    """Of ``soft``: the same elsewhere."""
    normaliser: Normaliser = "response"
    """``token``: mean over all tokens of the step; ``response``: mean over tokens of an answer, then over answers;
    ``group``: the same, then over the answers of a group, then over groups; ``sum``: sum over an answer, mean over
    answers; ``constant``: that sum over ``length``."""
    length: int | None = None
    """Of ``constant``: tokens, >= 1; None: ``online.sampling.max_new_tokens``."""
    beta: float = 0.0
    """Weight of the KL divergence to the reference, >= 0. 0: no reference is needed."""
    kl: KLEstimator = "k3"
    """How it is estimated at a token, from the log-ratio d of policy to reference: ``k1`` d, ``k2`` d²/2, ``k3``
    exp(-d) - 1 + d."""
    kl_in: Literal["loss", "reward"] = "loss"
    """``reward``: taken off the reward, without gradient, by the policy before the round's first step."""
    kl_by_ratio: bool = False
    """In the loss: the estimate is multiplied by the ratio, with its gradient, which corrects it for answers that an
    older policy wrote."""
    mismatch: str | Mismatch | None = None
    """Weights for a sampler whose probabilities differ from the trainer's: a name of ``MISMATCHES``, or ``level``,
    ``action``, ``low`` and ``high``. None: none."""

    perception: Annotated[Papo | Vppo | VisualEntropy, Discriminator("kind")] | None = None
    """What asks whether the picture mattered, by ``kind``, with the same answers under ``online.masked``: ``papo``,
    ``vppo`` or ``visual_entropy`` (VES-RFT). None: nothing."""

    needs = frozenset({"rewards"})
    heads = frozenset({"logprobs", "entropy"})
    rounds = True

    def __post_init__(self) -> None:
        check_choices(self)
        needs = {"rewards"}
        if self.baseline == "greedy":
            needs |= {"values"}
        if self.per_part:
            needs |= {"reward_parts"}
        if self.beta:
            needs |= {"ref_logprobs"} | ({"old_logprobs"} if self.kl_in == "reward" else set())
        if mismatch_of(self.mismatch) is not None:
            needs |= {"old_logprobs", "rollout_logprobs"}
        measured = {Vppo: "old_logprobs", VisualEntropy: "old_entropy"}.get(type(self.perception))
        needs |= set() if measured is None else {measured}
        masked = "no" if self.perception is None else "step" if measured is None else "round"
        compares_answers = self.baseline in ("group", "leave_one_out", "length")
        made = {"needs": frozenset(needs), "answers": 2 if compares_answers else 1, "masked": masked}
        for name, value in made.items():
            object.__setattr__(self, name, value)  # attributes of the class that depend on fields

    def for_answers(self, longest: int, weights: Mapping[str, float]) -> PolicyGradient:
        """
        Raises:
            RecipeError: ``part_weights`` name a part that the reward lacks.
        """
        if weights and (unknown := sorted(set(self.part_weights) - set(weights))):
            raise RecipeError(
                f"algorithm.part_weights names {unknown[0]!r}, and online.reward has the parts {', '.join(weights)}. "
                "Correct the name."
            )
        length = longest if self.normaliser == "constant" and self.length is None else self.length
        return replace(self, length=length, part_weights={**weights, **self.part_weights} if self.per_part else {})

    def prepare_step(self, batches: Sequence[Batch], counted: Sequence[bool], world: World) -> Sequence[Batch]:
        """Fills ``advantages``.

        Raises:
            RecipeError: answers with weights of tokens, which nothing here reads.
            DataError: rewards that ``scale`` or ``per_part`` cannot take.
        """
        if any(batch.weights is not None for batch in batches):
            raise RecipeError("Sampled answers bring weights of tokens, which a policy gradient does not read.")
        if self.masked != "round" and not any(len(batch.pairs) for batch in batches):
            return self._with_advantages(batches, counted, world)
        apart = [taken_apart(batch) for batch in batches]
        own = [self._measured(batch, one) for batch, one in zip(batches, apart, strict=True)]
        own = self._with_advantages(own, counted, world)
        if isinstance(self.perception, Vppo):
            own = self.perception.shaped(own, counted, world)
        return [
            batch.with_columns(
                **{
                    name: one.spread(vars(made)[name], batch.target.shape[0])
                    for name in ("advantages", "dependence")
                    if vars(made)[name] is not None
                }
            )
            for batch, one, made in zip(batches, apart, own, strict=True)
        ]

    def _measured(self, batch: Batch, apart: Apart) -> Batch:
        """The answers with how much each of their tokens depends on the picture, and with the reward of that."""
        if isinstance(self.perception, Vppo):
            return apart.batch.with_columns(dependence=self.perception.dependences(batch, apart))
        if isinstance(self.perception, VisualEntropy):
            gains_N = self.perception.gains(batch, apart)
            return self.perception.rewarded(apart.batch.with_columns(dependence=gains_N))
        return apart.batch

    def _with_advantages(self, batches: Sequence[Batch], counted: Sequence[bool], world: World) -> list[Batch]:
        weights = self.part_weights
        if isinstance(self.perception, VisualEntropy):
            weights = {**weights, PART: self.perception.weight}
        advantage = Advantage(
            baseline=self.baseline,
            scale=self.scale,
            unbiased=self.std == "sample",
            epsilon=self.std_epsilon,
            per_part=self.per_part,
            part_weights=weights,
        )
        made = advantage(batches, counted, [self._penalty(batch) for batch in batches], world)
        return [batch.with_columns(advantages=values) for batch, values in zip(batches, made, strict=True)]

    def _penalty(self, batch: Batch) -> Tensor | None:
        if not self.beta or self.kl_in != "reward":
            return None
        assert batch.old_logprobs is not None and batch.ref_logprobs is not None
        return self.beta * kl_estimate(batch.old_logprobs - batch.ref_logprobs, self.kl)

    def loss(self, batch: Batch, scores: Scores, world: World) -> tuple[tuple[Term, ...], dict[str, Stat]]:
        """Unreduced terms, and statistics under TRL's names.

        Where answers stand under a masked picture too, each counts once: units are those of the pairs.
        """
        if not len(batch.pairs):
            return self._loss(batch, scores)
        assert scores.logprobs is not None
        apart = taken_apart(batch)
        entropy = None if scores.entropy is None else scores.entropy[apart.own]
        terms, stats = self._loss(apart.batch, replace(scores, logprobs=scores.logprobs[apart.own], entropy=entropy))
        if isinstance(self.perception, Papo):
            made = self.perception.terms(scores.logprobs[apart.own], scores.logprobs[apart.masked])
            for name, values_N, coefficient in made:
                terms = (*terms, self._term(name, values_N, apart.batch, coefficient))
                stats[name] = mean(values_N)
        return tuple(replace(term, unit=_OF_PAIRS.get(term.unit, term.unit)) for term in terms), stats

    def _loss(self, batch: Batch, scores: Scores) -> tuple[tuple[Term, ...], dict[str, Stat]]:
        """Of answers under their own picture."""
        assert scores.logprobs is not None and batch.advantages is not None
        assert batch.on_policy or batch.old_logprobs is not None
        # the policy before the round is the one of this pass: no second computation, not even its rounding, between
        old_N = scores.logprobs.detach() if batch.on_policy else batch.old_logprobs
        assert old_N is not None
        ratio_N, gain_N, stats = self._gain(batch, scores.logprobs, scores.logprobs - old_N)
        mismatch = mismatch_of(self.mismatch)
        if mismatch is not None:
            gain_N = gain_N * mismatch.weight(batch)
            stats |= mismatch.stats(batch)
        terms = [self._term("policy", -gain_N, batch)]
        if self.beta and self.kl_in == "loss":
            assert batch.ref_logprobs is not None
            kl_N = kl_estimate(scores.logprobs - batch.ref_logprobs, self.kl)
            kl_N = kl_N * ratio_N if self.kl_by_ratio else kl_N
            terms.append(self._term("kl", kl_N, batch, self.beta))
            stats["kl"] = mean(kl_N)
        elif self.beta:
            assert batch.ref_logprobs is not None
            stats["kl"] = mean(kl_estimate(old_N - batch.ref_logprobs, self.kl))
        if isinstance(self.perception, Vppo) and self.perception.entropy:
            terms.append(self._term("entropy_penalty", -scores.logprobs, batch, self.perception.entropy))
        if isinstance(self.perception, Vppo | VisualEntropy):
            stats |= self.perception.stats(batch)
        if scores.entropy is not None:
            stats["entropy"] = mean(scores.entropy)
        if batch.rollout_logprobs is not None:
            stats |= gap_stats(old_N if batch.old_logprobs is None else batch.old_logprobs, batch.rollout_logprobs)
        return tuple(terms), stats

    def _gain(self, batch: Batch, logprobs: Tensor, logratio: Tensor) -> tuple[Tensor, Tensor, dict[str, Stat]]:
        """Ratio and what is maximised, both [N], and how much of it is clipped."""
        assert batch.advantages is not None
        advantage_N, size = batch.advantages, batch.num_responses
        low, high = self.epsilon, self.epsilon if self.epsilon_high is None else self.epsilon_high
        if self.ratio == "geometric":
            bounded_N = clip_log_ratio(logratio, advantage_N, low, high) if self.objective == "clip" else logratio
            ratio_N = segment_mean(bounded_N, batch.response, size)[batch.response].exp()
            return ratio_N, ratio_N * advantage_N, self._clip_stats(batch, logratio < -low, logratio > high)
        ratio_N = log_ratio_at(logratio, batch.response, size, self.ratio).exp()
        if self.objective == "clip":
            gain_N = clipped_gain(ratio_N, advantage_N, low, high, self.delta)
            return ratio_N, gain_N, self._clip_stats(batch, ratio_N < 1 - low, ratio_N > 1 + high)
        if self.objective == "detached":
            capped_N = (ratio_N.detach() > self.cap) & (advantage_N > 0)
            gain_N = ratio_N.detach().clamp(max=self.cap) * advantage_N * logprobs
            return ratio_N, gain_N, {"cispo_clip_ratio": mean(capped_N.to(gain_N.dtype))}
        if self.objective == "soft":
            gain_N = soft_gain(ratio_N, advantage_N, self.temperature_positive, self.temperature_negative)
            return ratio_N, gain_N, {}
        return ratio_N, ratio_N * advantage_N, {}

    def _clip_stats(self, batch: Batch, below_N: Tensor, above_N: Tensor) -> dict[str, Stat]:
        """Shares of what is clipped: of tokens, or of answers where the ratio is one of theirs."""
        if self.objective != "clip":
            return {}
        assert batch.advantages is not None
        low_N = (below_N & (batch.advantages < 0)).to(batch.advantages.dtype)
        high_N = (above_N & (batch.advantages > 0)).to(batch.advantages.dtype)
        seen = batch.answered()
        low_R, high_R = (segment_mean(one, batch.response, batch.num_responses)[seen] for one in (low_N, high_N))
        whole = self.ratio in ("sequence", "product")
        low, high = (low_R, high_R) if whole else (low_N, high_N)
        return {
            "clip_ratio/low_mean": mean(low),
            "clip_ratio/high_mean": mean(high),
            "clip_ratio/region_mean": mean(low + high),
            **extreme("clip_ratio/low_min", low_R, "min"),
            **extreme("clip_ratio/high_max", high_R, "max"),
        }

    def _term(self, name: str, values_N: Tensor, batch: Batch, coefficient: float = 1.0) -> Term:
        """Values of tokens, brought to the unit that the loop divides by."""
        response, size = batch.response, batch.num_responses
        unit: Unit = "token"
        values = values_N
        if self.normaliser != "token":
            unit = "response"
            averages = self.normaliser in ("response", "group")
            values = (segment_mean if averages else segment_sum)(values_N, response, size)
        if self.normaliser == "group":
            unit, values = "group", values / segment_count(batch.group, batch.num_groups)[batch.group]
        if self.normaliser == "constant":
            if self.length is None:
                raise RecipeError("algorithm.normaliser is constant and algorithm.length is not set. Set it.")
            values = values / self.length
        return Term(name=name, values=values, unit=unit, coefficient=coefficient)
