"""Proximal policy optimisation: every token has an advantage of its own, from a critic that is trained beside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_args

import torch
from torch import Tensor

from sightline.algorithms.advantages import moments
from sightline.algorithms.mismatch import Mismatch, extreme, gap_stats, mismatch_of
from sightline.algorithms.pairs import check_range, mean
from sightline.errors import RecipeError
from sightline.ops.gae import at_the_end, gae
from sightline.ops.kl import KLEstimator, kl_estimate
from sightline.ops.ratios import clipped_gain
from sightline.ops.reductions import segment_sum
from sightline.types import Algorithm, Batch, Scores, Stat, Term, World

_TINY = 1e-8
"""Added to a variance under a root, as TRL did."""


@dataclass(frozen=True, kw_only=True)
class PPO(Algorithm):
    """PPO (Schulman et al. 2017, arXiv 1707.06347) as it is used on language models (Ziegler et al. 2019, arXiv
    1909.08593; Ouyang et al. 2022, arXiv 2203.02155).

    The reward of a token is what the policy pays for leaving the reference, and at the last token of an answer its
    score as well: ``r_t = -kl_coefficient · kl_t + [t is last] R``. The critic (``critic`` in the recipe) gives values,
    generalised advantage estimation gives advantages and returns, once per round of samples. Then, at every step::

        policy:  -min(ρ_t A_t, clip(ρ_t, 1 - ε, 1 + ε) A_t),   ρ_t = π(y_t) / π_old(y_t)
        value:   max((V_t - G_t)², (V_old,t + clip(V_t - V_old,t, ±ε_v) - G_t)²) / 2

    Terms: ``policy`` [N] and ``value`` [N], per token. At the first step of a round the ratio is exactly 1.

    >>> PPO().heads == {"logprobs", "entropy", "values"}
    True
    """

    epsilon: float = 0.2
    """How far from 1 the ratio may go, >= 0."""
    value_epsilon: float | None = 0.2
    """How far a value may go from what it was before the round, > 0, in units of reward; None: any."""
    value_coefficient: float = 0.1
    """Weight of the critic's loss, >= 0."""
    gamma: float = 1.0
    """Discount, in [0, 1]."""
    lam: float = 0.95
    """λ of the advantages, in [0, 1]; 1: rewards to come less the value."""
    kl_coefficient: float = 0.05
    """Price of the KL divergence to the reference, in units of reward per nat, >= 0. 0: no reference is needed."""
    kl: KLEstimator = "k1"
    """How it is estimated at a token, from the log-ratio d of policy to reference: ``k1`` d, ``k2`` d²/2, ``k3``
    exp(-d) - 1 + d."""
    kl_clamp: bool = False
    """Whether an estimate below 0 counts as 0: biased, as LLaVA-RLHF has it."""
    kl_target: float | None = None
    """Nats per answer, > 0: ``kl_coefficient`` is moved after every round so that the divergence comes near it (Ziegler
    et al. 2019, section 2.2). None: it stays."""
    kl_horizon: float = 10_000.0
    """Answers over which a divergence twice as large as ``kl_target`` doubles the price, > 0; times about 5."""
    reward_scale: float = 1.0
    """Factor on every reward of a token, > 0, after the price of the KL divergence is in it."""
    whiten_rewards: bool = False
    """Whether rewards of tokens are divided by their deviation over the round; their mean stays."""
    whiten_advantages: bool = True
    """Whether advantages have mean 0 and deviation 1 over all tokens of the round."""
    critic_warmup: int = 0
    """First optimizer steps in which the critic alone is trained, >= 0."""
    mismatch: str | Mismatch | None = None
    """Weights for a sampler whose probabilities differ from the trainer's: a name of ``MISMATCHES``, or ``level``,
    ``action``, ``low`` and ``high``. None: none."""

    heads = frozenset({"logprobs", "entropy", "values"})
    rounds = True
    moving = ("kl_coefficient",)

    def __post_init__(self) -> None:
        for name in ("epsilon", "value_coefficient", "kl_coefficient", "critic_warmup"):
            check_range(name, vars(self)[name], least=0)
        for name in ("kl_horizon", "reward_scale", "value_epsilon", "kl_target"):
            if vars(self)[name] is not None:
                check_range(name, vars(self)[name], above=0)
        for name in ("gamma", "lam"):
            check_range(name, vars(self)[name], least=0)
            if vars(self)[name] > 1:
                raise RecipeError(f"algorithm.{name} is {vars(self)[name]:g}; choose a number from 0 to 1.")
        if self.kl not in get_args(KLEstimator):
            raise RecipeError(f"algorithm.kl is {self.kl!r}; choose one of {', '.join(get_args(KLEstimator))}.")
        if self.kl_target is not None and not self.kl_coefficient:
            raise RecipeError(
                "algorithm.kl_target moves kl_coefficient, which is 0. Set it above 0, or remove the target."
            )
        needs = {"rewards", "old_logprobs", "values"} | ({"ref_logprobs"} if self.kl_coefficient else set())
        if mismatch_of(self.mismatch) is not None:
            needs |= {"rollout_logprobs"}
        object.__setattr__(self, "needs", frozenset(needs))

    def prepare_step(self, batches: Sequence[Batch], counted: Sequence[bool], world: World) -> Sequence[Batch]:
        """Fills ``advantages`` and ``returns``.

        Raises:
            RecipeError: answers with weights of tokens, which nothing here reads.
        """
        if any(batch.weights is not None for batch in batches):
            raise RecipeError("Sampled answers bring weights of tokens, which ppo does not read.")
        rewards = [self._rewards(batch) for batch in batches]
        if self.whiten_rewards:
            rewards = _whitened(rewards, counted, world, shift=False)
        found = []
        for batch, reward_N in zip(batches, rewards, strict=True):
            assert batch.values is not None
            values = batch.values.double()
            size = batch.num_responses
            found.append(gae(reward_N, values, batch.response, size, gamma=self.gamma, lam=self.lam))
        advantages = [advantage for advantage, _ in found]
        if self.whiten_advantages:
            advantages = _whitened(advantages, counted, world, shift=True)
        return [
            batch.with_columns(advantages=advantage.float(), returns=returns.float())
            for batch, advantage, (_, returns) in zip(batches, advantages, found, strict=True)
        ]

    def _kl(self, batch: Batch) -> Tensor | None:
        """[N] estimate of the divergence before the round; None: none is paid for."""
        if batch.ref_logprobs is None:
            return None
        assert batch.old_logprobs is not None
        return kl_estimate(batch.old_logprobs.double() - batch.ref_logprobs.double(), self.kl)

    def _rewards(self, batch: Batch) -> Tensor:
        """[N] float64."""
        assert batch.rewards is not None
        reward_N, kl_N = at_the_end(batch.rewards.double(), batch.response), self._kl(batch)
        if kl_N is not None:
            reward_N = reward_N - self.kl_coefficient * (kl_N.clamp(min=0) if self.kl_clamp else kl_N)
        return self.reward_scale * reward_N

    def after_round(self, batches: Sequence[Batch], counted: Sequence[bool], world: World) -> PPO:
        """With the price of the KL divergence for the next round (Ziegler et al. 2019: proportional control, at most a
        fifth of the way)."""
        if self.kl_target is None:
            return self
        total = torch.zeros(2, dtype=torch.float64, device=batches[0].tokens.device)
        for batch, counts in zip(batches, counted, strict=True):
            kl_N = self._kl(batch)
            if counts and kl_N is not None:
                total += torch.stack([kl_N.sum(), kl_N.new_tensor(float(batch.num_responses))])
        divergence, answers = world.sum(total).tolist()
        error = min(max(divergence / max(answers, 1.0) / self.kl_target - 1, -0.2), 0.2)
        return replace(self, kl_coefficient=self.kl_coefficient * (1 + error * answers / self.kl_horizon))

    def loss(self, batch: Batch, scores: Scores, world: World) -> tuple[tuple[Term, ...], dict[str, Stat]]:
        """Unreduced terms, and statistics, under TRL's names where the meaning is the same."""
        assert scores.logprobs is not None and scores.values is not None
        assert batch.advantages is not None and batch.old_logprobs is not None
        # at the first step of a round nothing has moved: not even rounding may come between
        old_N = scores.logprobs.detach() if batch.on_policy else batch.old_logprobs
        logratio_N = scores.logprobs - old_N
        ratio_N = logratio_N.exp()
        gain_N = clipped_gain(ratio_N, batch.advantages, self.epsilon, self.epsilon)
        mismatch, stats = mismatch_of(self.mismatch), dict[str, Stat]()
        if mismatch is not None:
            gain_N = gain_N * mismatch.weight(batch)
            stats |= mismatch.stats(batch)
        value_N, bounded_N = self._value_loss(batch, scores.values)
        terms = (
            Term(name="policy", values=-gain_N, unit="token"),
            Term(name="value", values=value_N, unit="token", coefficient=self.value_coefficient),
        )
        return terms, stats | self._stats(batch, scores, ratio_N, logratio_N, bounded_N)

    def _value_loss(self, batch: Batch, value_N: Tensor) -> tuple[Tensor, Tensor]:
        """The loss [N], and where the bound on the value counts [N] bool."""
        assert batch.returns is not None and batch.values is not None
        free_N = (value_N - batch.returns).square()
        if self.value_epsilon is None:
            return free_N / 2, torch.zeros_like(free_N, dtype=torch.bool)
        moved_N = (value_N - batch.values).clamp(-self.value_epsilon, self.value_epsilon)
        held_N = (batch.values + moved_N - batch.returns).square()
        return torch.maximum(free_N, held_N) / 2, held_N.detach() > free_N.detach()

    def _stats(
        self, batch: Batch, scores: Scores, ratio_N: Tensor, logratio_N: Tensor, bounded_N: Tensor
    ) -> dict[str, Stat]:
        assert batch.advantages is not None and batch.returns is not None and scores.values is not None
        low_N = (ratio_N < 1 - self.epsilon) & (batch.advantages < 0)
        high_N = (ratio_N > 1 + self.epsilon) & (batch.advantages > 0)
        size, kl_N = batch.num_responses, self._kl(batch)
        stats = {
            "clip_ratio/region_mean": mean((low_N | high_N).to(ratio_N.dtype)),
            "policy/approxkl_avg": mean(logratio_N.square() / 2),
            "val/clipfrac_avg": mean(bounded_N.to(ratio_N.dtype)),
            "val/ratio": mean(ratio_N),
            **extreme("val/ratio_max", ratio_N.detach(), "max"),
            "val/mean": mean(scores.values),
            "val/error": mean((scores.values - batch.returns).square()),
            "returns/mean": mean(batch.returns),
        }
        if kl_N is not None:
            answers = segment_sum(kl_N, batch.response, size)
            coefficient = answers.new_tensor(self.kl_coefficient)
            stats |= {"objective/kl": mean(answers), "kl": mean(kl_N), "kl_coefficient": Stat(sum=coefficient, count=1)}
        if scores.entropy is not None:
            stats["entropy"] = mean(scores.entropy)
        if batch.rollout_logprobs is not None and batch.old_logprobs is not None:
            stats |= gap_stats(batch.old_logprobs, batch.rollout_logprobs)
        return stats


def _whitened(values: Sequence[Tensor], counted: Sequence[bool], world: World, *, shift: bool) -> list[Tensor]:
    """Divided by the deviation of all values of the round; with ``shift`` less their mean, else the mean stays."""
    middle, deviation = moments(values, counted, world, unbiased=True)
    scale = (deviation.square() + _TINY).rsqrt()
    return [(one - middle) * scale + (0.0 if shift else middle) for one in values]
