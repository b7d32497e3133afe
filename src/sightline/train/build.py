"""From the sections of a recipe to what a session is made of."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sightline.data.augment import resolved
from sightline.data.render import Renderer
from sightline.data.sampler import Sampler, share
from sightline.data.schema import read_groups
from sightline.data.stored import JoinedGroups
from sightline.data.validate import (
    append_bad_row,
    as_bad_row,
)
from sightline.errors import DataError
from sightline.models.layout import lay_out
from sightline.models.policy import Policy
from sightline.models.score_head import LOADED_WITH, ScoreSettings
from sightline.negatives.build import build_generated
from sightline.negatives.generated import Generated
from sightline.negatives.relate import generated_relation, visual_relation
from sightline.progress import Progress
from sightline.recipes.schema import OnlineSpec, ReadsSpec, Recipe
from sightline.relations.selection import OVIP, check_references
from sightline.rendered import RenderedGroup
from sightline.rewards.base import REWARD_TRIES, score_groups
from sightline.rewards.build import build_reward, check_prompts
from sightline.rewards.iris import iris_in_training
from sightline.rewards.total import WeightedSum
from sightline.rollouts.engine import CheckedEngine
from sightline.rollouts.ray import RayEngine
from sightline.rollouts.replay import Replay
from sightline.train.clock import Clock
from sightline.train.columns import (
    AdapterReference,
    CachedReference,
    CopyReference,
    Reference,
    fill_cache,
    fingerprint_weights,
    scored,
)
from sightline.train.engine import build_engine
from sightline.train.lockstep import Lockstep
from sightline.train.online import OnlineSource
from sightline.train.pictures import pictures_of_rounds
from sightline.train.rollout import nothing
from sightline.train.rows import Rows
from sightline.train.run_folder import RunDirectory, loop_around
from sightline.train.runtime import Runtime
from sightline.train.source import OfflineSource, Rendering, Source
from sightline.types import Batch, Group

_log = logging.getLogger(__name__)

_CHUNK = 64
"""Groups that are rendered together when reference numbers are computed ahead."""


def keep_settings(policy: Policy, recipe: Recipe) -> ReadsSpec | None:
    """How a reward model reads its rows, noted in its score head and saved with it; None for other policies."""
    if policy.score_head is None:
        return None
    given = None if recipe.data is None else recipe.data.reads
    reads, model = resolved(given or ReadsSpec()), recipe.model
    policy.score_head.settings = ScoreSettings(reads=reads, **{name: vars(model)[name] for name in LOADED_WITH})
    return reads


def build_rendering(recipe: Recipe, renderer: Renderer) -> Rendering:
    """What renders the groups of a run. With ``on_bad_row: skip`` a picture that is seen to be damaged only when it is
    decoded costs its row, which is listed with the others."""
    if recipe.data is None or recipe.data.on_bad_row == "error":
        return Rendering(renderer=renderer)
    folder, number, writing = Path(recipe.output_dir), itertools.count(1), threading.Lock()

    def leave_out(group: Group, error: DataError) -> None:
        file, _, row = group.source.rpartition(":")
        bad = as_bad_row(file, int(row), error)
        with writing:  # threads render
            append_bad_row(folder, bad)
        _log.warning("%s left out while training, %d so far: %s", group.source, next(number), bad.error)

    return Rendering(renderer=renderer, leave_out=leave_out)


def build_source(
    recipe: Recipe, runtime: Runtime, policy: Policy, render: Rendering, rows: Rows, clock: Clock
) -> Source:
    """Rows on disk, or rounds of sampling, whose parts ``clock`` measures."""
    spec, online = recipe.train, recipe.online
    per_take = spec.batch_size * (online.steps_per_round if online is not None else 1)
    sampler = Sampler(
        size=len(rows.train), batch_size=per_take, seed=recipe.seed, shuffle=spec.shuffle, mixture=rows.mixture
    )
    groups = rows.train
    if online is None:
        return OfflineSource(groups, render, sampler, world=runtime, workers=spec.workers)
    run = RunDirectory(path=Path(recipe.output_dir))
    negatives, visual = _pictures(recipe, online, groups, run.negatives)
    masked, distortion = pictures_of_rounds(recipe, online, groups, sampler)
    if online.relation == "ovip":
        check_references(groups, online.selection or OVIP)
    engine = build_engine(online.engine, recipe, policy, render.renderer, folder=run.rollout_adapters, ranks=runtime)
    score, give_up = _scoring(online, runtime, policy, engine, groups)
    return OnlineSource(
        prompts=groups,
        engine=engine,
        update=engine.update,
        score=score,
        give_up=give_up,
        render=render,
        spec=online,
        sampler=sampler,
        ranks=runtime,
        samples=run.samples,
        below=loop_around(run.path),
        negatives=negatives,
        visual=visual,
        masked=masked,
        distortion=distortion,
        clock=clock,
        sampling=partial(_sampling, runtime, policy),
        replay=None if online.replay is None else Replay(read_groups(online.replay), source=online.replay),
    )


def _pictures(
    recipe: Recipe, online: OnlineSpec, groups: Sequence[Group], folder: Path
) -> tuple[Generated | None, Callable[[Group], Group] | None]:
    """What makes the negative pictures of pairs, and what compares pairs under them."""
    if online.visual is None:
        return None, None
    if online.negatives is None:
        visual = visual_relation(online.visual, groups, folder=folder, seed=recipe.seed)
        visual.check(groups)
        return None, visual
    negatives = build_generated(online.negatives, folder=folder, seed=recipe.seed)
    negatives.check(groups)
    return negatives, generated_relation(
        online.visual, folder=folder, seed=recipe.seed, bare=online.negatives.failed == "text"
    )


def _scoring(
    online: OnlineSpec, runtime: Runtime, policy: Policy, engine: CheckedEngine, groups: Sequence[Group]
) -> tuple[Callable[[Sequence[Group]], list[Group | str]], Callable[[], None]]:
    """What computes rewards, this process or the workers of its engine, and what ends its waiting. Looks first whether
    the prompts allow it."""
    if isinstance(engine, RayEngine) and online.engine.rewards == "workers":
        engine.update(0)
        engine.check(groups)
        return engine.score, nothing
    own = partial(iris_in_training, policy=policy, precision=runtime.autocast)
    reward = build_reward(online.reward, max_new_tokens=online.sampling.max_new_tokens, of_policy=own)
    check_prompts(reward, groups)
    give_up = reward.give_up if isinstance(reward, WeightedSum) else nothing
    return partial(score_groups, reward, tries=REWARD_TRIES), give_up


@contextmanager
def _sampling(runtime: Runtime, policy: Policy) -> Iterator[None]:
    """Around what the policy itself samples: it alone is computed in the run's precision, and no reward is."""
    with runtime.whole(policy), runtime.autocast():
        yield


def place_policy(recipe: Recipe, runtime: Runtime, policy: Policy) -> Reference | None:
    """Places the policy, and the frozen copy of it where that is the reference. The reference is taken of the policy
    as it is before: whole, and as training finds it."""
    if recipe.train.mixed_precision == "bf16":
        policy.leave_casts_to_autocast()
    reference: Reference | None = None
    if recipe.reference == "adapter":
        policy.keep_reference()
        reference = AdapterReference(policy)
    elif recipe.reference == "copy":
        copy = policy.reference_copy()
        runtime.place(copy)
        if recipe.train.compile:
            copy.compile_layers()
        reference = CopyReference(copy)
    elif recipe.reference == "cache":
        start = "" if policy.start_adapter is None else f"|{policy.start_adapter}"
        model = f"{fingerprint_weights(policy)}|{recipe.train.mixed_precision}{start}"
        reference = CachedReference(RunDirectory(path=Path(recipe.output_dir)).reference, model)
    runtime.place(policy)
    if recipe.train.compile:
        policy.compile_layers()
    return reference


def complete_cache(
    cache: Reference | None,
    recipe: Recipe,
    runtime: Runtime,
    policy: Policy,
    render: Rendering,
    rows: Rows,
    *,
    quiet: bool,
) -> None:
    """Where the reference is a cache: numbers of all groups, before training. Each rank computes its share of what is
    not on disk yet."""
    if not isinstance(cache, CachedReference):
        return
    cache.load()
    layout, groups = recipe.model.layout, JoinedGroups(rows.train, rows.held_out)
    lockstep = Lockstep.of(runtime, render.renderer)

    def laid_out(some: Sequence[RenderedGroup]) -> Batch:
        return lay_out(some, layout, policy.family, policy.config)

    def score(micros: Sequence[Sequence[RenderedGroup]]) -> Iterator[tuple[Batch, Tensor]]:
        batches = [laid_out(some) for some in micros]
        if runtime.sharded:  # as many passes on every rank
            most = runtime.most(len(batches))
            batches += [laid_out(render.taken((), groups).groups)] * (most - len(batches))
        found = []
        for batch in lockstep.align(batches):
            on_device = batch.to(runtime.device)
            with runtime.autocast():
                found.append((on_device, scored(policy, on_device)))
        return iter(found[: len(micros)])

    mine = [share(range(len(groups)), rank, runtime.size) for rank in (runtime.rank, 0)]
    chunks = _chunks(groups, mine[0], len(mine[1]), render, shown=runtime.is_main and not quiet)
    fill_cache(cache, chunks, score, rank=runtime.rank, layout=layout, budget=recipe.train.micro_batch_tokens)
    runtime.barrier()
    cache.load()


def _chunks(
    groups: Sequence[Group], places: Sequence[int], most: int, render: Rendering, *, shown: bool
) -> Iterator[list[RenderedGroup]]:
    """Rendered groups, some at a time, with a progress bar: as many times as a rank with the ``most`` groups needs."""
    with Progress("reference", len(places), shown=shown) as bar:
        for start in range(0, most, _CHUNK):
            made = [render(groups[place]) for place in places[start : start + _CHUNK]]
            yield [one for one in made if one is not None]
            bar.update(min(start + _CHUNK, len(places)))


def facts_of(runtime: Runtime, policy: Policy, account: dict[str, str]) -> dict[str, Any]:
    """Where a run ran and on what: pixels depend on the image processor, speed on the rest."""
    return {
        "device": torch.cuda.get_device_name(runtime.device) if runtime.device.type == "cuda" else "cpu",
        "processes": runtime.size,
        "distribution": runtime.kind,
        "rows": account,
        "image_processor": type(policy.processor.image_processor).__name__,
    }
