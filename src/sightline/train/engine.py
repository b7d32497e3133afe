"""The engine of an online run: made as the recipe says, and checked against the trainer before the first step."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from sightline.data.render import Renderer
from sightline.errors import RecipeError
from sightline.models.layout import lay_out
from sightline.models.policy import Policy
from sightline.recipes.engine import EngineSpec
from sightline.recipes.schema import Recipe
from sightline.rendered import RenderedGroup
from sightline.rollouts.check import EngineCheck, check_engine
from sightline.rollouts.engine import CheckedEngine
from sightline.rollouts.hf import HFEngine, not_applied
from sightline.rollouts.ray import RayEngine
from sightline.rollouts.vllm import VLLMEngine
from sightline.rollouts.vllm_sync import AdapterSync, Ranks, WeightSync
from sightline.train.columns import scored
from sightline.train.runtime import Runtime
from sightline.train.worker import PolicyWorker, fingerprint_of, sampled_state
from sightline.types import Batch, Group, LayoutName

_log = logging.getLogger(__name__)


def build_engine(
    spec: EngineSpec, recipe: Recipe, policy: Policy, renderer: Renderer, *, folder: Path, ranks: Ranks
) -> CheckedEngine:
    """
    Args:
        spec: which engine.
        recipe: of the run, for workers that load its policy themselves.
        policy: samples, or is sent to the servers and workers.
        renderer: shared with training.
        folder: for the adapters that servers read.
        ranks: this rank, and the way to the others.

    Raises:
        RecipeError: a policy that servers cannot be given in the way asked for, or several processes without the
            address of the cluster that they share.
        MissingExtra, EngineError: Ray is not installed, or its cluster is not there.
    """
    if ranks.rank == 0 and (told := not_applied(policy)):
        _log.warning("%s", told)
    if spec.name == "hf":
        return HFEngine(policy, renderer)
    if spec.name == "ray":
        return _on_ray(spec, recipe, policy, ranks)
    if spec.sync == "adapter":
        return VLLMEngine(policy, renderer, spec, AdapterSync(policy, folder, ranks))
    return VLLMEngine(policy, renderer, spec, WeightSync(policy, ranks, seconds=spec.timeout))


def _on_ray(spec: EngineSpec, recipe: Recipe, policy: Policy, ranks: Ranks) -> RayEngine:
    if spec.address is None and len(ranks.gather_objects(None)) > 1:
        raise RecipeError(
            "online.engine: found name: ray without an address and several training processes, each of which would "
            "start a cluster of its own on the same machine. Start one with ray start --head, and set address: auto"
        )
    device = "cuda" if spec.gpus else "cpu"
    make = partial(PolicyWorker, recipe, base=fingerprint_of(policy), device=device)
    return RayEngine(make, partial(sampled_state, policy), spec)


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
