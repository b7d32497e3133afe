"""What a recipe and an algorithm that learns from rounds of its own samples must agree on."""

from __future__ import annotations

from collections.abc import Iterator

from sightline.errors import RecipeError
from sightline.recipes.schema import OnlineSpec, Recipe, SamplingSpec
from sightline.types import Algorithm


def check_rounds(recipe: Recipe, algorithm: Algorithm) -> None:
    """
    Raises:
        RecipeError: rows on disk, comparisons, too few answers, answers from another distribution than the policy's, or
            a greedy answer that nothing reads.
    """
    name, online = recipe.algorithm["name"], recipe.online
    critic = "values" in algorithm.heads
    if recipe.critic is not None and not critic:
        raise RecipeError(f"{recipe.name}: found critic, and {name} has none. Remove critic, or choose ppo.")
    if online is not None and online.greedy != ("values" in algorithm.needs and not critic):
        found = "online.greedy" if online.greedy else "no online.greedy"
        raise RecipeError(
            f"{recipe.name}: found {found}, and {name} {'reads no' if online.greedy else 'measures by a'} greedy "
            f"answer. Set online.greedy: {str(not online.greedy).lower()}."
        )
    if online is not None and (online.masked is not None) != (algorithm.masked != "no"):
        found, remedy = ("online.masked", "Remove it") if online.masked is not None else ("no online.masked", _MASK)
        raise RecipeError(
            f"{recipe.name}: found {found}, and {name} reads {'no' if online.masked is not None else 'every'} answer "
            f"under a masked picture too. {remedy}."
        )
    if not algorithm.rounds:
        if online is not None and online.distorted is not None:
            raise RecipeError(
                f"{recipe.name}: found online.distorted, which distorts the pictures of a policy gradient's samples, "
                f"and {name} is none. Remove it."
            )
        return
    if online is None or (recipe.data is not None and (recipe.data.train or recipe.data.eval)):
        raise RecipeError(
            f"{recipe.name}: {name} learns from answers that the policy itself samples, found rows under data. Give "
            "prompts and a reward under online instead; answers on disk are taken with online.replay."
        )
    problems = (*_of_groups(online, name, algorithm), *_of_sampling(online, name), *_of_distorted(online, algorithm))
    for problem in problems:
        raise RecipeError(f"{recipe.name}: {problem}")
    if online.max_staleness and "rollout_logprobs" not in algorithm.needs:
        raise RecipeError(
            f"{recipe.name}: found online.max_staleness: {online.max_staleness}, so that an older policy writes the "
            f"answers, and nothing in {name} corrects for it. Set algorithm.mismatch (tis), or max_staleness: 0."
        )


def _of_groups(online: OnlineSpec, name: str, algorithm: Algorithm) -> Iterator[str]:
    if online.relation != "none":
        yield (
            f"found online.relation: {online.relation}, which keeps compared answers alone, and {name} learns from the "
            "rewards of all. Set relation: none."
        )
    if online.sampling.n < algorithm.answers:
        yield (
            f"found online.sampling.n: {online.sampling.n}, and {name} measures answers by the others to their prompt: "
            f"every advantage would be 0. Sample {algorithm.answers} or more."
        )


def _of_sampling(online: OnlineSpec, name: str) -> Iterator[str]:
    for key in ("temperature", "top_p", "top_k"):
        plain = vars(SamplingSpec())[key]
        if vars(online.sampling)[key] != plain and online.replay is None:
            yield (
                f"found online.sampling.{key}: {vars(online.sampling)[key]:g}, so that the answers are not samples of "
                f"the policy whose gradient {name} takes. Set it to {plain:g}."
            )


_MASK = "Set online.masked: {kind: patches}, or algorithm.perception: null"


def _of_distorted(online: OnlineSpec, algorithm: Algorithm) -> Iterator[str]:
    if online.distorted is None:
        return
    if online.distorted.answers >= online.sampling.n:
        yield (
            f"found online.distorted.answers: {online.distorted.answers} of online.sampling.n: {online.sampling.n}, "
            "expected some answers under the picture as it is. Lower it."
        )
    if online.replay is not None:
        yield "found online.distorted and online.replay, whose answers are not sampled anew. Remove distorted."
    if "rollout_logprobs" in algorithm.needs:
        yield (
            "found online.distorted and algorithm.mismatch: the sampler's probabilities are under the distorted "
            "picture, and mismatch corrects for another program, not for another picture. Set mismatch: null and "
            "max_staleness: 0."
        )
