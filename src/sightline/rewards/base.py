"""Rewards: what tells good answers from bad ones."""

from __future__ import annotations

import contextlib
import importlib
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from sightline.errors import DataError, RecipeError, ServiceError
from sightline.types import Group

BUILT_IN = {"scenes": "sightline.scenes.world:Scenes"}
"""Short names; anything else is ``package.module:Name``."""
REWARD_TRIES = 2
"""A reward of a run that fails is asked once more; then the group is dropped, counted and logged."""


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


@runtime_checkable
class BatchedReward(Reward, Protocol):
    """A reward that is faster on many groups at once."""

    def rewards(self, groups: Sequence[Group]) -> list[Group]:
        """``reward`` of each group, in order."""
        ...


def reward_groups(reward: Reward, groups: Sequence[Group]) -> list[Group]:
    """All groups with their rewards, together where the reward can.

    Raises:
        DataError: a group lacks what the reward needs; or the reward is wrong: it left out a group or an answer,
            changed what was said, or gave a number that is not finite.
    """
    made = reward.rewards(groups) if isinstance(reward, BatchedReward) else [reward.reward(group) for group in groups]
    name = type(reward).__name__
    if len(made) != len(groups):
        raise DataError(f"the reward {name} gave back {len(made)} of {len(groups)} groups", remedy=_WHOLE)
    kept: list[Group] = []
    for before, after in zip(groups, made, strict=True):
        if not isinstance(after, Group) or before.id != after.id or _said(before) != _said(after):
            raise DataError(
                f"the reward {name} gave back other answers than it got, or none",
                source=before.source or before.id,
                remedy=_WHOLE,
            )
        after = _plain(after, name)
        kept.append(after)
        numbers = [number for r in after.responses for number in (r.reward, *r.rewards.values()) if number is not None]
        if not all(map(math.isfinite, numbers)):
            raise DataError(
                f"the reward {name} gave {next(n for n in numbers if not math.isfinite(n))}",
                source=before.source or before.id,
                remedy="Leave the reward None where an answer cannot be judged",
            )
    return kept


def _plain(group: Group, name: str) -> Group:
    """With plain numbers in the place of numpy's and torch's, which no file takes.

    Raises:
        DataError: a reward is no number.
    """
    numbers = [number for one in group.responses for number in (one.reward, *one.rewards.values())]
    if all(number is None or type(number) in (int, float) for number in numbers):
        return group
    try:
        answers = (
            replace(
                one,
                reward=None if one.reward is None else float(one.reward),
                rewards={part: value if value is None else float(value) for part, value in one.rewards.items()},
            )
            for one in group.responses
        )
        return replace(group, responses=tuple(answers))
    except (TypeError, ValueError) as error:
        raise DataError(
            f"the reward {name} gave what is no number ({error})",
            source=group.source or group.id,
            remedy="Give a number, or None where an answer cannot be judged",
        ) from error


def scored_or_stopped(
    reward: Reward, groups: Sequence[Group], *, drop: str, failed: Literal["stop", "drop"]
) -> list[Group]:
    """As :func:`reward_groups`; where a reward fails for good, that answer has none, or all ends.

    Args:
        reward: to ask.
        groups: whose answers are judged.
        drop: how to ask for the other way, for the message.
        failed: ``stop``: the first answer without a reward is an error. Answers that were never given do not count.

    Raises:
        DataError: as :func:`reward_groups`.
        ServiceError: an answer got no reward, and ``failed`` is ``stop``.
    """
    scored = reward_groups(reward, groups)
    for group in scored if failed == "stop" else ():
        for index, response in enumerate(group.responses):
            if response.reward_error is not None and response.finish_reason != "error":
                raise ServiceError(
                    f"answer {index} of group {group.id} got no reward: {response.reward_error}",
                    source=group.source,
                    remedy=f"Mend it and run the same command, which goes on here; or {drop}",
                )
    return scored


def score_groups(reward: Reward, groups: Sequence[Group], *, tries: int) -> list[Group | str]:
    """Each group with its rewards, or why its reward failed: all together where the reward can, and where that fails
    each by itself, ``tries`` times at most.

    Raises:
        DataError: the prompts lack what the reward reads, so that no other try would help; see ``reward_groups``.
    """
    if isinstance(reward, BatchedReward) and len(groups) > 1:
        with contextlib.suppress(Exception):  # told by the group that it is of
            return [*reward_groups(reward, groups)]
    return [_tried(reward, group, tries) for group in groups]


def _tried(reward: Reward, group: Group, tries: int) -> Group | str:
    why = ""
    for _ in range(tries):
        try:
            return reward_groups(reward, [group])[0]
        except DataError as error:
            if not isinstance(error, ServiceError):
                raise
            why = str(error)
        except Exception as error:  # a reward is somebody else's program: its failure must not end the run
            why = f"{type(error).__name__}: {error}"
    return why


_WHOLE = "Return every group with all of its answers, in order; leave the reward None where one cannot be judged"


def _said(group: Group) -> list[tuple[int, str]]:
    return [(response.prompt, response.text) for response in group.responses]


def is_reward_model(name: str) -> bool:
    """Whether a reward is named that is loaded from a folder."""
    return name not in BUILT_IN and Path(name).is_dir()


def load_reward(name: str) -> Reward:
    """The reward that a recipe names.

    Args:
        name: ``scenes``; the run directory of a reward model, or its model folder; or ``package.module:Name`` of a
            reward, or of a class that makes one without arguments.

    Raises:
        RecipeError: nothing of that name, or something that is not a reward.
        CheckpointError: a folder without a reward model.
    """
    if is_reward_model(name):
        from sightline.rewards.model import load_reward_model

        return load_reward_model(name)
    module_name, _, attribute = BUILT_IN.get(name, name).partition(":")
    if not attribute:
        listed = ", ".join(BUILT_IN)
        raise RecipeError(
            f"reward is {name!r}, which is no folder. Write one of the built-in names ({listed}), the run directory of "
            "a reward model, or package.module:Name."
        )
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
