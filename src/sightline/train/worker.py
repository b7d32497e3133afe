"""A copy of the policy in another process, perhaps on another machine, that samples and scores as the trainer would."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from sightline.errors import RecipeError
from sightline.models.load import hide_loading_bars, load_policy
from sightline.models.policy import Policy
from sightline.recipes.schema import OnlineSpec, Recipe, SamplingSpec
from sightline.rewards.base import REWARD_TRIES, Reward, score_groups
from sightline.rewards.build import build_reward, check_prompts
from sightline.rollouts.hf import HFEngine
from sightline.types import Group


class PolicyWorker:
    """A ``rollouts.ray.Worker``: the policy of a recipe, in the same types and with the same frozen weights as the
    trainer has it, so that what is trained is all that must be sent."""

    def __init__(self, recipe: Recipe, *, base: str, device: str) -> None:
        """
        Args:
            recipe: of the run. Paths in it are looked up on this machine.
            base: ``fingerprint_of`` the trainer's policy.
            device: ``cpu`` or ``cuda``.

        Raises:
            RecipeError: no model at its path, or another one than the trainer has there.
        """
        hide_loading_bars()
        assert recipe.online is not None
        policy = load_policy(recipe.model)
        if fingerprint_of(policy) != base:
            raise RecipeError(
                f"a worker of Ray finds other weights in model.path {recipe.model.path} (or model.adapter) than the "
                "trainer. Give all machines the same files under the same paths"
            )
        self._recipe, self._policy = recipe, placed(policy, recipe, device)
        self._engine = HFEngine(policy)
        self._reward = _reward(recipe.online)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """See ``rollouts.ray.Worker``."""
        self._policy.load_trainable_state(state)

    def read(self, group: Group) -> tuple[int, ...]:
        """See ``rollouts.ray.Worker``."""
        return self._engine.read(group)

    def generate(self, groups: Sequence[Group], sampling: SamplingSpec, seed: int) -> list[Group]:
        """See ``rollouts.ray.Worker``."""
        with in_precision(self._recipe, self._policy):
            return self._engine.generate(groups, sampling, seed=seed)

    def check(self, groups: Sequence[Group]) -> None:
        """See ``rollouts.ray.Worker``."""
        assert self._reward is not None
        check_prompts(self._reward, groups)

    def score(self, groups: Sequence[Group]) -> list[Group | str]:
        """See ``rollouts.ray.Worker``."""
        assert self._reward is not None
        return score_groups(self._reward, groups, tries=REWARD_TRIES)


def fingerprint_of(policy: Policy) -> str:
    """Of what the policy was loaded from: its model, and the adapter that it goes on from."""
    assert policy.base_model is not None
    return f"{policy.base_model.fingerprint}|{policy.start_adapter or ''}"


def placed(policy: Policy, recipe: Recipe, device: str) -> Policy:
    """The policy on a device as a run has it there."""
    if recipe.train.mixed_precision == "bf16":
        policy.leave_casts_to_autocast()
    return policy.to(device)


def in_precision(recipe: Recipe, policy: Policy) -> AbstractContextManager[object]:
    """Around what the policy computes, as in a run."""
    if recipe.train.mixed_precision == "bf16":
        return torch.autocast(policy.device.type, dtype=torch.bfloat16)
    return nullcontext()


def sampled_state(policy: Policy) -> dict[str, Tensor]:
    """All that is trained and that answers come from, by name, on the CPU: without a critic."""
    parts = policy.parts()
    return {name: one.detach().to("cpu") for part in parts if part != "critic" for name, one in parts[part]}


def _reward(online: OnlineSpec) -> Reward | None:
    if online.engine.rewards == "trainer":
        return None
    return build_reward(online.reward, max_new_tokens=online.sampling.max_new_tokens)
