"""A run that is under way: what it holds, how it is opened, saved and taken up again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from sightline.algorithms.registry import build_algorithm, build_mixed
from sightline.data.render import Renderer
from sightline.errors import CheckpointError
from sightline.models.base_model import BaseModel
from sightline.models.layout import lay_out
from sightline.models.limits import Limits
from sightline.models.load import load_policy
from sightline.models.policy import Policy
from sightline.models.rope import check_length
from sightline.recipes.critic import CriticSpec
from sightline.recipes.load import with_reference
from sightline.recipes.mix import mixed_options, mixed_recipe
from sightline.recipes.rewards import weights_of
from sightline.recipes.schema import PartsSpec, Recipe
from sightline.rendered import RenderedGroup
from sightline.train.build import (
    build_rendering,
    build_source,
    complete_cache,
    facts_of,
    keep_settings,
    place_policy,
)
from sightline.train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from sightline.train.clock import Clock
from sightline.train.columns import Columns, Reference
from sightline.train.critic import add_critic
from sightline.train.first_row import tell_first_row
from sightline.train.lockstep import Lockstep
from sightline.train.metrics import Meter, MetricsFile, read_metrics
from sightline.train.optim import Schedule, build_optimizer
from sightline.train.periodic_eval import Benchmarks, build_benchmarks
from sightline.train.probe import Looking, blind_at_the_end
from sightline.train.process import check_alone, note_end, note_process
from sightline.train.rows import load_rows
from sightline.train.run_folder import RunDirectory, open_run, write_run
from sightline.train.runtime import Runtime
from sightline.train.source import Rendering, Source, tokens_fingerprint
from sightline.types import Algorithm, Batch, Group, LayoutName


@dataclass(kw_only=True)
class Session:
    """A run that is under way."""

    recipe: Recipe
    run: RunDirectory
    runtime: Runtime
    algorithm: Algorithm
    policy: Policy
    model: nn.Module
    """The policy as its gradients are reduced."""
    optimizer: Optimizer
    schedule: Schedule
    source: Source
    render: Rendering
    held_out: Sequence[Group]
    columns: Columns
    lockstep: Lockstep
    meter: Meter
    benchmarks: Benchmarks | None
    looking: Looking
    clock: Clock
    """Of the parts of an online step."""
    following: Algorithm
    """The algorithm of the next round of samples."""
    tokens_of_rows: str
    """Fingerprint of what template and tokenizer make of the first rows."""
    mixed: Session | None = None
    """What every step learns as well: the same policy with another algorithm on other rows. It has no part of its own
    in optimizer, schedule and checkpoints."""
    weight: float = 1.0
    """Times the loss."""
    prefix: str = ""
    """Before the names of terms and statistics."""
    step: int = 0
    """Optimizer steps done."""
    tokens: float = 0.0
    """Tokens trained on, over all ranks: prompts and responses of every group, each once."""
    seconds: float = 0.0
    """Time spent in steps, over all parts of a run that was resumed."""

    @property
    def total_steps(self) -> int:
        return self.schedule.total_steps

    @property
    def layout(self) -> LayoutName:
        return self.recipe.model.layout

    @property
    def metrics(self) -> MetricsFile:
        return MetricsFile(self.run.metrics)

    def lay_out(self, groups: Sequence[RenderedGroup]) -> Batch:
        return lay_out(groups, self.layout, self.policy.family, self.policy.config)

    def due(self, every: int | None) -> bool:
        """Whether what happens ``every`` so many steps, and at the end, happens now."""
        return self.step == self.total_steps or (every is not None and self.step % every == 0)

    def trained_parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def forget_all_but_critic(self) -> None:
        """Drops the gradients of the policy: the optimizer then leaves it as it is, moments and decay included."""
        for group in self.optimizer.param_groups:
            for parameter in group["params"] if not group["name"].startswith("critic/") else ():
                parameter.grad = None

    @property
    def _base(self) -> BaseModel:
        """The model as it was loaded."""
        return self.policy.base_model or BaseModel(path="", fingerprint="")

    def save(self) -> None:
        """Writes a checkpoint. Every rank must call."""
        ranks = self.runtime.gather_objects({"rng": self.runtime.rng_state(), "meter": self.meter.state()})
        weights = self.runtime.gather_state(self.policy.trainable_state())
        optimizer = self.runtime.gather_state(self.optimizer.state_dict())
        source, mixed = self.source.state(), None if self.mixed is None else self.mixed.source.state()
        if self.runtime.is_main:
            checkpoint = Checkpoint(
                step=self.step,
                weights=weights,
                optimizer=optimizer,
                ranks=ranks,
                progress={
                    "source": source,
                    "mixed": mixed,
                    **self._base.told(),
                    "adapter": self.policy.start_adapter,
                    "tokens_of_rows": self.tokens_of_rows,
                    "algorithm": _moved(self.algorithm),
                    "following": _moved(self.following),
                    "tokens": self.tokens,
                    "seconds": self.seconds,
                },
            )
            save_checkpoint(self.run.path, checkpoint, self.recipe.train.keep_checkpoints)
        self.runtime.barrier()

    def restore(self, folder: Path | None) -> None:
        """Goes on from a checkpoint, or from the very beginning; lines and samples written later are removed.

        With another number of processes the data go on as they would have, but dropout draws other numbers.
        """
        checkpoint = None if folder is None else load_checkpoint(folder)
        if checkpoint is not None and not self._base.is_of(checkpoint.progress):
            raise CheckpointError(
                f"{self.recipe.model.path} holds other weights or settings than when {folder} was made, and what is "
                "frozen and the reference are taken from it. Bring the old model back, or start again with another "
                "output_dir."
            )
        start = self.policy.start_adapter
        if checkpoint is not None and checkpoint.progress.get("adapter", start) != start:
            raise CheckpointError(
                f"{self.recipe.model.adapter} holds another adapter than when {folder} was made, and the reference is "
                "taken from it. Bring the old adapter back, or start again with another output_dir."
            )
        self.source.restore(None if checkpoint is None else checkpoint.progress["source"])
        if self.mixed is not None:
            self.mixed.source.restore(None if checkpoint is None else checkpoint.progress["mixed"])
        rows = self.tokens_of_rows
        if checkpoint is not None and checkpoint.progress.get("tokens_of_rows", rows) != rows:
            raise CheckpointError(
                f"The chat template or the tokenizer makes other tokens of the rows than when {folder} was made. Bring "
                "the old template or the old files of the model back, or start again with another output_dir."
            )
        if self.runtime.is_main:
            self.metrics.drop_after(0 if checkpoint is None else checkpoint.step)
        if checkpoint is None:
            return
        if self.runtime.is_main and self.run.metrics.exists():
            self.looking.blind = blind_at_the_end(read_metrics(self.run.metrics))
        self.runtime.load(self.policy, self.optimizer, checkpoint.weights, dict(checkpoint.optimizer))
        self.step = checkpoint.step
        self.algorithm = replace(self.algorithm, **checkpoint.progress.get("algorithm", {}))  # type: ignore[type-var]
        self.following = replace(self.following, **checkpoint.progress.get("following", {}))  # type: ignore[type-var]
        self.tokens, self.seconds = checkpoint.progress["tokens"], checkpoint.progress["seconds"]
        if len(checkpoint.ranks) == self.runtime.size:
            own = checkpoint.ranks[self.runtime.rank]
            self.runtime.set_rng_state(own["rng"])
            self.meter.load_state(own["meter"])


@contextmanager
def open_session(
    recipe: Recipe, *, resume: bool | None = None, overwrite: bool = False, quiet: bool = True
) -> Iterator[Session]:
    """Opens a run, and closes it when the block ends.

    Args:
        recipe: what to run.
        resume: None: go on where the run directory holds the same run; True: go on or fail; False: start or fail.
        overwrite: remove the run that is there.
        quiet: no progress while rows are checked and reference numbers are computed.

    Raises:
        RecipeError, DataError, CheckpointError, UnsupportedError: what would otherwise go wrong later.
    """
    algorithm, mixed, recipe = _algorithms(recipe)
    run, runtime = RunDirectory(path=Path(recipe.output_dir)), _runtime(recipe)
    checkpoint = _opened(recipe, run, runtime, resume=resume, overwrite=overwrite)
    runtime.seed(recipe.seed)  # adapters start from random numbers, the same on every rank
    policy = _policy(recipe, algorithm)
    reads, reference = keep_settings(policy, recipe), place_policy(recipe, runtime, policy)
    renderer = _renderer(recipe, policy)
    benchmarks = build_benchmarks(recipe, runtime, policy, renderer)
    rows = load_rows(recipe, runtime, renderer, reads, quiet=quiet)
    render, clock = build_rendering(recipe, renderer), Clock(runtime.device, on=recipe.online is not None)
    source = build_source(recipe, runtime, policy, render, rows, clock)
    try:
        complete_cache(reference, recipe, runtime, policy, render, rows, quiet=quiet)
        model, optimizer = runtime.prepare(policy, _optimizer(recipe, policy))
        session = Session(
            recipe=recipe,
            run=run,
            runtime=runtime,
            algorithm=algorithm,
            policy=policy,
            model=model,
            optimizer=optimizer,
            schedule=Schedule.of(recipe.train, recipe.train.max_steps or source.steps(recipe.train.epochs)),
            source=source,
            render=render,
            held_out=rows.held_out,
            columns=Columns(_needed(recipe, algorithm), reference, policy, clock, critic=policy.value_head is not None),
            lockstep=Lockstep.of(runtime, renderer),
            meter=Meter(runtime.device),
            benchmarks=benchmarks,
            looking=Looking.of(recipe, rows.compared, reads),
            clock=clock,
            following=algorithm,
            tokens_of_rows=tokens_fingerprint(rows.train, renderer.encoder),
        )
        with _mixed_in(session, mixed, reference, quiet=quiet) as account:
            if runtime.is_main:
                _record(session, rows.account | account, () if checkpoint else rows.train, renderer)
            runtime.seed(recipe.seed + runtime.rank)
            session.restore(checkpoint)
            runtime.start_trackers(recipe.name, {"algorithm": str(recipe.algorithm), "model": recipe.model.path})
            yield session
    finally:
        note_end(run)
        source.close()
        runtime.close()


@contextmanager
def _mixed_in(
    s: Session, algorithm: Algorithm | None, reference: Reference | None, *, quiet: bool
) -> Iterator[dict[str, str]]:
    """Gives a session what its recipe mixes in; nothing where that is nothing. Comes out: the account of its rows."""
    recipe = mixed_recipe(s.recipe)
    if algorithm is None or recipe is None or recipe.data is None or s.recipe.mix is None:
        yield {}
        return
    check_length(s.policy.config, recipe.data.max_length, "mix.data.max_length")
    renderer = _renderer(recipe, s.policy)
    rows = load_rows(recipe, s.runtime, renderer, quiet=quiet)
    render = build_rendering(recipe, renderer)
    source = build_source(recipe, s.runtime, s.policy, render, rows, s.clock)
    s.mixed = replace(
        s,
        recipe=recipe,
        algorithm=algorithm,
        source=source,
        render=render,
        held_out=(),
        columns=Columns(algorithm.needs, reference, s.policy, s.clock),
        benchmarks=None,
        weight=s.recipe.mix.weight,
        prefix="mix/",
    )
    try:
        yield {"mix": rows.account["train"]}
    finally:
        source.close()


def _opened(
    recipe: Recipe, run: RunDirectory, runtime: Runtime, *, resume: bool | None, overwrite: bool
) -> Path | None:
    """The checkpoint to go on from, the same for every process; None: from the beginning."""
    found = None
    if runtime.is_main:
        check_alone(run)
        found = open_run(recipe, resume=resume, overwrite=overwrite)
    return runtime.gather_objects(found)[0]


def _moved(algorithm: Algorithm) -> dict[str, Any]:
    return {name: vars(algorithm)[name] for name in algorithm.moving}


def _algorithms(recipe: Recipe) -> tuple[Algorithm, Algorithm | None, Recipe]:
    """The run's own, what is mixed in, and the recipe that they agree with."""
    algorithm, mixed, online = build_algorithm(recipe.algorithm), build_mixed(mixed_options(recipe)), recipe.online
    if online is not None:
        weights = weights_of(online.reward, overlong=online.overlong_buffer > 0)
        algorithm = algorithm.for_answers(online.sampling.max_new_tokens, weights)
    return algorithm, mixed, with_reference(recipe, algorithm, mixed)


def _needed(recipe: Recipe, algorithm: Algorithm) -> frozenset[str]:
    """Columns to fill: where a round has several steps, the policy before the first of them is kept."""
    online = recipe.online
    several = online is not None and online.steps_per_round * online.inner_epochs > 1
    return algorithm.needs | ({"old_logprobs"} if algorithm.rounds and several else set())


def _record(s: Session, account: dict[str, str], groups: Sequence[Group], renderer: Renderer) -> None:
    """What a run directory begins with; ``groups``: none where a run goes on."""
    write_run(s.run, s.recipe, facts_of(s.runtime, s.policy, account))
    note_process(s.run)
    tell_first_row(s.run, groups, renderer, scores="logprobs" not in s.algorithm.heads)


def _policy(recipe: Recipe, algorithm: Algorithm) -> Policy:
    policy = load_policy(recipe.model, heads=algorithm.heads)
    if "values" in algorithm.heads:
        add_critic(policy, recipe.critic or CriticSpec())
    if recipe.data is not None:
        check_length(policy.config, recipe.data.max_length, "data.max_length")
    return policy


def _optimizer(recipe: Recipe, policy: Policy) -> Optimizer:
    return build_optimizer(policy.parts(), recipe.train, None if recipe.critic is None else recipe.critic.learning_rate)


def _renderer(recipe: Recipe, policy: Policy) -> Renderer:
    segments, max_length = (None, None) if recipe.data is None else (recipe.data.segments, recipe.data.max_length)
    limits = Limits.of(policy.config)
    return Renderer(policy.processor, policy.family, limits=limits, max_length=max_length, segments=segments)


def _runtime(recipe: Recipe) -> Runtime:
    parts, spec = recipe.model.parts or PartsSpec(), recipe.train
    return Runtime(
        distribution=spec.distribution,
        mixed_precision=spec.mixed_precision,
        skips_parameters=parts.projector != "frozen" or parts.vision != "frozen",
        trackers=spec.trackers,
        log_dir=RunDirectory(path=Path(recipe.output_dir)).trackers,
    )
