"""Rewards: what tells good answers from bad ones."""

from __future__ import annotations

import importlib
from typing import Protocol, runtime_checkable

from sightline.errors import RecipeError
from sightline.types import Group

BUILT_IN = {"scenes": "sightline.scenes.world:Scenes"}
"""Short names; anything else is ``package.module:Name``."""


@runtime_checkable
class Reward(Protocol):
    """Judges the answers of a group."""

    def reward(self, group: Group) -> Group:
        """The same group with ``reward`` set on its responses, and the named parts of it in ``rewards``.

        Sees everything: prompts, pictures, facts and all responses, so that it may compare them. A response
        that cannot be judged keeps None, never zero: what failed must not look like a bad answer.

        Raises:
            DataError: the group lacks what the reward needs (facts, a reference answer, ...).
        """
        ...


def load_reward(name: str) -> Reward:
    """The reward that a recipe names.

    Args:
        name: ``scenes``, or ``package.module:Name`` of a reward, or of a class that makes one without arguments.

    Raises:
        RecipeError: nothing of that name, or something that is not a reward.
    """
    module_name, _, attribute = BUILT_IN.get(name, name).partition(":")
    if not attribute:
        listed = ", ".join(BUILT_IN)
        raise RecipeError(f"reward is {name!r}. Write one of the built-in names ({listed}) or package.module:Name.")
    try:
        found = vars(importlib.import_module(module_name))[attribute]
    except ModuleNotFoundError as error:
        raise RecipeError(
            f"reward is {name!r}, but {error.name!r} cannot be imported. Install it, or run where it is found."
        ) from error
    except KeyError as error:
        raise RecipeError(f"reward is {name!r}, but {module_name} defines no {attribute}.") from error
    reward = found() if isinstance(found, type) else found
    if not isinstance(reward, Reward):
        raise RecipeError(f"{name} is not a reward. Give it a method reward(group) that returns the group.")
    return reward
