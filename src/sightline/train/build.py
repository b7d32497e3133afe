"""From the sections of a recipe to what a session is made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sightline.data.load import Account, load_dataset_spec, load_prompts
from sightline.data.render import Renderer
from sightline.data.sampler import Sampler, share
from sightline.data.validate import Checks
from sightline.models.layout import lay_out
from sightline.models.policy import Policy
from sightline.recipes.schema import Recipe
from sightline.rewards.base import load_reward
from sightline.rollouts.hf import HFEngine
from sightline.train.columns import (
    AdapterReference,
    CachedReference,
    Columns,
    CopyReference,
    fill_cache,
    fingerprint_weights,
    scored,
)
from sightline.train.online import OnlineSource
from sightline.train.run import RunDirectory
from sightline.train.runtime import Runtime
from sightline.train.source import OfflineSource, Render, Source
from sightline.types import Algorithm, Batch, Group, RenderedGroup

_CHUNK = 64
"""Groups that are rendered together when reference numbers are computed ahead."""


def load_groups(recipe: Recipe, runtime: Runtime, renderer: Renderer) -> tuple[list[Group], list[Group]]:
    """Groups (or prompts) to train on, and groups held out. The main process reads first: it writes pictures."""
    if not runtime.is_main:
        runtime.barrier()
    folder = Path(recipe.output_dir)
    held_out: list[Group] = []
    train: list[Group] = []
    if recipe.data is not None:
        train = load_dataset_spec(recipe.data, "train", folder, renderer.num_tokens, seed=recipe.seed)[0]
        held_out = load_dataset_spec(recipe.data, "eval", folder, renderer.num_tokens, seed=recipe.seed)[0]
    if recipe.online is not None:
        train = load_prompts(recipe.online.prompts, Account(checks=Checks(answers=False), cache_dir=folder / "images"))
    if runtime.is_main:
        runtime.barrier()
    return train, held_out


def build_source(
    recipe: Recipe, runtime: Runtime, policy: Policy, renderer: Renderer, groups: Sequence[Group]
) -> Source:
    """Rows on disk, or rounds of sampling."""
    spec, online = recipe.train, recipe.online
    per_take = spec.batch_size * (online.steps_per_round if online is not None else 1)
    sampler = Sampler(size=len(groups), batch_size=per_take, seed=recipe.seed, shuffle=spec.shuffle)
    if online is None:
        return OfflineSource(groups, renderer.render, sampler, world=runtime, workers=spec.workers)
    return OnlineSource(
        prompts=groups,
        engine=HFEngine(policy, renderer),
        reward=load_reward(online.reward),
        render=renderer.render,
        spec=online,
        sampler=sampler,
        ranks=runtime,
        samples=RunDirectory(path=Path(recipe.output_dir)).samples,
    )


def build_columns(
    recipe: Recipe, algorithm: Algorithm, runtime: Runtime, policy: Policy, renderer: Renderer, groups: Sequence[Group]
) -> Columns:
    """What fills the columns; reference numbers that are kept on disk are computed here, before training."""
    if recipe.reference == "none":
        return Columns(algorithm.needs)
    if recipe.reference == "adapter":
        return Columns(algorithm.needs, AdapterReference(policy))
    if recipe.reference == "copy":
        return Columns(algorithm.needs, CopyReference(policy.reference_copy()))
    return Columns(algorithm.needs, build_cache(recipe, runtime, policy, renderer.render, groups))


def build_cache(
    recipe: Recipe, runtime: Runtime, policy: Policy, render: Render, groups: Sequence[Group]
) -> CachedReference:
    """Reference numbers of all groups; each rank computes its share of what is not on disk yet."""
    model = f"{fingerprint_weights(policy)}|{recipe.train.mixed_precision}"
    cache = CachedReference(RunDirectory(path=Path(recipe.output_dir)).reference, model)
    cache.load()
    layout = recipe.model.layout

    def score(some: Sequence[RenderedGroup]) -> tuple[Batch, Tensor]:
        batch = lay_out(some, layout, policy.family, policy.config).to(runtime.device)
        with runtime.autocast():
            return batch, scored(policy, batch)

    mine = share(groups, runtime.rank, runtime.size)
    chunks = ([render(group) for group in mine[start : start + _CHUNK]] for start in range(0, len(mine), _CHUNK))
    fill_cache(cache, chunks, score, rank=runtime.rank, layout=layout, budget=recipe.train.micro_batch_tokens)
    runtime.barrier()
    cache.load()
    return cache


def facts_of(runtime: Runtime, policy: Policy) -> dict[str, Any]:
    """Where a run ran: pixels depend on the image processor, speed on the rest."""
    return {
        "device": torch.cuda.get_device_name(runtime.device) if runtime.device.type == "cuda" else "cpu",
        "processes": runtime.size,
        "distribution": runtime.kind,
        "image_processor": type(policy.processor.image_processor).__name__,
    }
