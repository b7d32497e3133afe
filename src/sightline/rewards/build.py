"""From the reward of a recipe to what scores answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from sightline.errors import RecipeError
from sightline.recipes.load import terms_of
from sightline.recipes.terms import AnyTerm, IrisSpec
from sightline.rewards.base import Reward, is_reward_model, load_reward
from sightline.rewards.terms import Term
from sightline.rewards.total import Part, WeightedSum
from sightline.types import Group


def build_reward(
    reward: str | Mapping[str, AnyTerm],
    *,
    max_new_tokens: int | None = None,
    of_policy: Callable[[IrisSpec], Term] | None = None,
) -> Reward:
    """The reward that a recipe asks for.

    Args:
        reward: As ``online.reward``: a name, or named terms.
        max_new_tokens: Limit of the answers, for terms without a limit of their own; None: answers come from a file.
        of_policy: Makes a term that asks the policy in training; None: there is none.

    Raises:
        RecipeError: A term cannot be made from what it says.
        CheckpointError: A folder without the model that a term reads.
        DataError: A file that a term reads is missing or wrong.
    """
    if isinstance(reward, str):
        return load_reward(reward)
    return WeightedSum(
        [
            Part(name=name, term=build_term(spec, max_new_tokens, of_policy), weight=spec.weight, where=spec.where)
            for name, spec in reward.items()
        ]
    )


def named_reward(name: str, loaded: Mapping[str, str | None], *, batch_tokens: int) -> Reward:
    """The reward that somebody scores with.

    Args:
        name: terms and their weights or a YAML file of them, the folder of a reward model, or as of ``load_reward``.
        loaded: ``missing_facts`` and ``quantization`` of a reward model, None where one was not given.
        batch_tokens: of a reward model: most tokens of one forward pass.

    Raises:
        RecipeError: there is no such reward, or an option that it does not read.
        CheckpointError: a folder without a reward model.
    """
    terms = terms_of(name)
    if terms is not None:
        check_unread(loaded, "terms")
        return build_reward(terms)
    if not is_reward_model(name):
        check_unread(loaded, name)
        return load_reward(name)
    from sightline.rewards.model import load_reward_model

    return load_reward_model(name, batch_tokens=batch_tokens, **loaded)


def check_unread(loaded: Mapping[str, str | None], reward: str | None) -> None:
    """Options of reward models, where the reward is none.

    Args:
        loaded: ``missing_facts`` and ``quantization``, None where one was not given.
        reward: its name; ``terms``; None: an object.

    Raises:
        RecipeError: one was given.
    """
    given = next((name.replace("_", "-") for name, value in loaded.items() if value is not None), None)
    if given is None:
        return
    if reward == "terms":
        raise RecipeError(
            f"--{given} is for one reward model, and --reward names terms. Leave it out; what to do about missing "
            "facts is written under the term of the model (missing_facts)."
        )
    what = "an object" if reward is None else reward
    raise RecipeError(f"--{given} is for reward models, and --reward is {what}. Leave it out.")


def check_prompts(reward: Reward, groups: Sequence[Group]) -> None:
    """Looks, before there is an answer, whether each prompt has the facts that a sum of terms reads.

    Raises:
        DataError: One lacks them, or no term judges it; names the row and the key.
    """
    if isinstance(reward, WeightedSum):
        reward.check(groups)


def build_term(
    spec: AnyTerm, max_new_tokens: int | None = None, of_policy: Callable[[IrisSpec], Term] | None = None
) -> Term:
    """One term; what it needs is loaded here, and nothing else is."""
    if isinstance(spec, IrisSpec) and spec.path is None and of_policy is not None:
        return of_policy(spec)
    made: Term = _BUILDERS[spec.kind](spec, max_new_tokens)
    return made


def _rule(name: str, *, limited: bool = False) -> Callable[[Any, int | None], Term]:
    def build(spec: Any, most: int | None) -> Term:
        from sightline.rewards import rules

        made: Term = vars(rules)[name](spec, most) if limited else vars(rules)[name](spec)
        return made

    return build


def _scenes(spec: Any, _: int | None) -> Term:
    from sightline.rewards.scored import Scored
    from sightline.scenes.reward import scene_facts
    from sightline.scenes.world import Scenes

    return Scored(reward=Scenes(), looks=lambda group: [scene_facts(prompt) for prompt in group.prompts])


def _model(spec: Any, _: int | None) -> Term:
    from sightline.rewards.model import load_reward_model
    from sightline.rewards.scored import Scored

    scorer = load_reward_model(spec.path, batch_tokens=spec.batch_tokens, missing_facts=spec.missing_facts)
    return Scored(reward=scorer, looks=scorer.look)


def _objects(spec: Any, _: int | None) -> Term:
    from sightline.rewards.objects import objects

    return objects(spec)


def _iris(spec: Any, _: int | None) -> Term:
    from sightline.rewards.iris import iris

    return iris(spec)


def _clip(spec: Any, _: int | None) -> Term:
    from sightline.rewards.clip import clip

    return clip(spec)


def _judge(spec: Any, _: int | None) -> Term:
    from sightline.rewards.judge import judge

    return judge(spec)


def _function(spec: Any, _: int | None) -> Term:
    from sightline.rewards.function import function

    return function(spec)


def _service(spec: Any, _: int | None) -> Term:
    from sightline.rewards.service import ServiceTerm

    return ServiceTerm(spec=spec)


_BUILDERS: Final[Mapping[str, Callable[[Any, int | None], Term]]] = {
    **{
        name: _rule(name)
        for name in ("multiple_choice", "yes_no", "exact", "numeric", "repetition", "no_end", "symbolic")
    },
    "format": _rule("form"),
    "length": _rule("length", limited=True),
    "overlong": _rule("overlong", limited=True),
    "objects": _objects,
    "scenes": _scenes,
    "model": _model,
    "iris": _iris,
    "clip": _clip,
    "judge": _judge,
    "function": _function,
    "service": _service,
}
