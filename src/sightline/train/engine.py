"""The engine of an online run: made as the recipe says, and checked against the trainer before the first step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sightline.data.render import Renderer
from sightline.models.layout import lay_out
from sightline.models.policy import Policy
from sightline.recipes.engine import EngineSpec
from sightline.recipes.schema import Recipe
from sightline.rendered import RenderedGroup
from sightline.rollouts.check import EngineCheck, check_engine
from sightline.rollouts.engine import CheckedEngine
from sightline.rollouts.hf import HFEngine
from sightline.rollouts.vllm import VLLMEngine
from sightline.rollouts.vllm_sync import AdapterSync, Ranks, WeightSync
from sightline.train.columns import scored
from sightline.train.runtime import Runtime
from sightline.types import Batch, Group, LayoutName


def build_engine(spec: EngineSpec, policy: Policy, renderer: Renderer, *, folder: Path, ranks: Ranks) -> CheckedEngine:
    """
    Args:
        spec: of the recipe.
        policy: samples, or is sent to the servers.
        renderer: shared with training.
        folder: for the adapters that servers read.
        ranks: this rank, and the way to the others.

    Raises:
        RecipeError: a policy that servers cannot be given in the way asked for.
    """
    if spec.name == "hf":
        return HFEngine(policy, renderer)
    if spec.sync == "adapter":
        return VLLMEngine(policy, renderer, spec, AdapterSync(policy, folder, ranks))
    return VLLMEngine(policy, renderer, spec, WeightSync(policy, ranks, seconds=spec.timeout))


def check_at_start(
    engine: CheckedEngine, recipe: Recipe, runtime: Runtime, policy: Policy, renderer: Renderer, groups: Sequence[Group]
) -> EngineCheck:
    """Compares engine and trainer on a few answers. Every rank must call, with the same groups and an engine that has
    the policy.

    Raises:
        EngineError: the engine does not answer.
    """
    assert recipe.online is not None
    spec = recipe.online

    def score(rendered: Sequence[RenderedGroup]) -> Batch:
        return score_batch(policy, rendered, recipe.model.layout)

    with runtime.whole(policy), runtime.autocast():
        return check_engine(engine, renderer, groups, spec.sampling, name=spec.engine.name, score=score)


def score_batch(policy: Policy, groups: Sequence[RenderedGroup], layout: LayoutName) -> Batch:
    """The groups laid out, with ``old_logprobs`` under the policy as it is."""
    batch = lay_out(groups, layout, policy.family, policy.config).to(policy.device)
    return batch.with_columns(old_logprobs=scored(policy, batch))
