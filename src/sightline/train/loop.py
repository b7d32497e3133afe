"""The training loop: read it top to bottom.

A step: take groups, plan micro-batches of equal number on every rank, lay out, count units over all ranks,
survey them where the loss depends on the whole step (and the same for what is mixed in, which has units of its own),
then for each micro-batch: fill columns, prepare, score, loss, divide by the global count, backward; clip, step, reduce,
log, save. No term is averaged elsewhere, so one micro-batch, k micro-batches and n processes give the same gradient.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sightline.errors import EngineError
from sightline.files import replace_folder
from sightline.progress import Progress
from sightline.recipes.schema import Recipe
from sightline.train.callback import Callback, OnLog, TrainResult, asked_to_stop, forget_stops
from sightline.train.checkpoint import checkpoint_folder
from sightline.train.engine import check_at_start
from sightline.train.looking import begin as begin_looking
from sightline.train.metrics import figures_of
from sightline.train.online import OnlineSource
from sightline.train.passes import (
    Pass,
    check_compared,
    count_units,
    fill,
    plan_passes,
    prepare_round,
    survey,
    weighted_sum,
)
from sightline.train.report import check_finite, check_weights, note, report
from sightline.train.run_folder import mark_model, model_step
from sightline.train.session import Session, open_session
from sightline.train.source import Taken
from sightline.types import Unit

_log = logging.getLogger(__name__)

_Planned = tuple[Session, list[Pass], dict[Unit, int]]


def train(
    recipe: Recipe,
    *,
    resume: bool | None = None,
    overwrite: bool = False,
    quiet: bool = False,
    on_log: Callable[[Mapping[str, Any]], None] | None = None,
    callbacks: Sequence[Callback] = (),
) -> TrainResult:
    """Runs a recipe to its end, and leaves the model in ``<output_dir>/model``.

    Args:
        recipe: what to run.
        resume: None: go on where the run directory holds the same run; True: go on or fail; False: start or fail.
        overwrite: remove the run that is in the run directory.
        quiet: no progress bar.
        on_log: called on the main process with every record that goes to ``metrics.jsonl``.
        callbacks: told how the run goes, and may end it; on every process, or on none.

    Raises:
        RecipeError, DataError, CheckpointError, UnsupportedError: before the first step.
        DivergenceError: the loss or a gradient is not finite; weights are those before the step.
    """
    with open_session(recipe, resume=resume, overwrite=overwrite, quiet=quiet) as session:
        first = () if on_log is None else (OnLog(tell=on_log),)
        return fit(session, quiet=quiet, callbacks=(*first, *callbacks))


def fit(s: Session, *, quiet: bool = False, callbacks: Sequence[Callback] = ()) -> TrainResult:
    """Takes the steps that are left, with logging, evaluation and checkpoints, and saves the model."""
    if s.step < s.total_steps:
        check_sampler(s)
    start, last = s.step, dict[str, Any]()
    stopped: str | None = None
    told = callbacks if s.runtime.is_main else ()
    forget_stops(told)
    for one in told if s.step < s.total_steps else ():
        one.on_start(s.run.path, s.step, s.total_steps)
    s.policy.train()
    shown = s.runtime.is_main and not quiet
    with Progress(f"{s.recipe.name}: step", s.total_steps, done=start, shown=shown) as bar:
        while s.step < s.total_steps and stopped is None:
            begin_looking(s)
            _step_or_save(s, start)
            if s.due(s.recipe.train.save_every):
                check_weights(s)
            record = report(s)
            if record:
                publish(s, record, told)
            last = record or last
            bar.update(s.step, figures=figures_of(record or {}) or None)
            stopped = _stopped(s, told) if callbacks else None
            if s.due(s.recipe.train.save_every) or stopped is not None:
                _save(s, told)
    found = s.runtime.gather_objects(model_step(s.run.model))[0]
    if s.step > start or found != s.step:
        if s.step == start and s.runtime.is_main:
            state = "missing or damaged" if found is None else f"that of step {found}"
            _log.warning("%s is %s: it is written again from the checkpoint of step %d", s.run.model, state, s.step)
        save_model(s)
    s.runtime.barrier()
    result = TrainResult(
        run_dir=s.run.path, model_dir=s.run.model, steps=s.step, resumed_from=start, last=last, stopped=stopped
    )
    for one in told:
        one.on_end(result)
    return result


def _stopped(s: Session, told: Sequence[Callback]) -> str | None:
    """Tells of the step; why the run ends here though steps are left, the same on every rank."""
    for one in told:
        one.on_step(s.step, s.total_steps)
    why: str | None = s.runtime.gather_objects(asked_to_stop(told))[0]
    if s.step == s.total_steps:
        return None
    if why is not None and not s.due(s.recipe.train.save_every):
        check_weights(s)
    return why


def _save(s: Session, told: Sequence[Callback]) -> None:
    s.save()
    for one in told:
        one.on_checkpoint(checkpoint_folder(s.run.path, s.step), s.step)


def check_sampler(s: Session) -> None:
    """Refuses an online run whose engine and trainer disagree; every time it starts or goes on.

    Raises:
        VerificationError: they disagree by more than ``online.engine.max_kl``, or in the tokens of a prompt.
    """
    if not isinstance(s.source, OnlineSource) or s.source.replay is not None or not s.source.spec.engine.check:
        return
    with s.runtime.whole(s.policy):
        s.source.update(s.step)
    found = check_at_start(s.source.engine, s.recipe, s.runtime, s.policy, s.render.renderer, s.source.prompts)
    if s.runtime.is_main:
        _log.info("%s", "; ".join(found.lines()))
    found.refuse(s.source.spec.engine.max_kl)


def _step_or_save(s: Session, start: int) -> None:
    """A step. Where the engine is gone nothing of it has begun: what was learnt so far is kept (by one process: others
    may be anywhere in theirs)."""
    try:
        train_step(s)
    except EngineError:
        if s.runtime.size == 1 and s.step > start:
            s.save()
        raise


def save_model(s: Session) -> None:
    """Writes the model, or its adapter, into the run directory. Every rank calls."""
    state = s.runtime.model_state(s.policy)

    def write(folder: Path) -> None:
        s.policy.save(folder, state)
        mark_model(folder, s.step)

    if s.runtime.is_main:
        replace_folder(s.run.model, write)


def publish(s: Session, record: Mapping[str, Any], told: Sequence[Callback]) -> None:
    """Writes a record everywhere it goes, and keeps the model if the record says that it is the best so far."""
    if s.benchmarks is not None:
        s.benchmarks.keep_best(record)
    if not s.runtime.is_main:
        return
    s.metrics.write(record)
    s.runtime.log({name: value for name, value in record.items() if name != "step"}, s.step)
    for one in told:
        one.on_log(dict(record))  # its own: what it does to it is not logged


def train_step(s: Session) -> None:
    """One optimizer step."""
    began = time.monotonic()
    s.clock.restart()
    begins = s.source.begin(s.step)
    if begins and s.algorithm.rounds:
        s.source.keep(prepare_round(s))
    taken = s.source.take(s.step)
    planned = [_planned(s, taken)]
    late = s.step - s.algorithm.critic_warmup  # what is mixed in trains the policy, which waits for its critic
    if s.mixed is not None and late >= 0:
        planned.insert(0, _planned(s.mixed, s.mixed.source.take(late)))
    with s.clock("update"):
        every, norm = _update(s, planned, warming=late < 0)
    s.step += 1
    note(s, taken, every, norm, time.monotonic() - began)


def _update(s: Session, planned: Sequence[_Planned], *, warming: bool) -> tuple[list[Pass], Tensor]:
    """Gradients of all that was planned, and the optimizer's step. ``warming``: the critic's alone.

    Returns:
        all passes, the run's own first; and the norm of the gradient before it was clipped.
    """
    s.schedule.apply(s.optimizer, s.step)
    # the run's own passes come last: the last one reduces, and only they reach every parameter, the critic's too
    for view, passes, counts in planned:
        for number, one in enumerate(passes):
            run_pass(view, one, counts, sync=view is s and number == len(passes) - 1)
    if warming:
        s.forget_all_but_critic()
    norm = s.runtime.clip(s.trained_parameters(), s.recipe.train.max_grad_norm)
    every = [one for _, passes, _ in reversed(planned) for one in passes]
    check_finite(s, every, norm)
    if any(counts["group"] for *_, counts in planned):  # else all rows were left out: momentum alone must not move
        s.optimizer.step()
    s.optimizer.zero_grad(set_to_none=True)
    return every, norm


def _planned(s: Session, taken: Taken) -> _Planned:
    """What a step learns with one algorithm: its passes, surveyed, and how many of each unit they have on all ranks."""
    passes = plan_passes(s, taken)
    counts = count_units(s, passes)
    survey(s, passes)
    return s, passes, counts


def run_pass(s: Session, one: Pass, counts: Mapping[Unit, int], *, sync: bool) -> None:
    """Forward and backward of one micro-batch. Nothing of its graph outlives the call."""
    batch = fill(s, one)
    with s.runtime.accumulate(s.model, sync=sync):
        with s.runtime.autocast():
            scores = s.model(batch, s.algorithm.heads)
        terms, stats = s.algorithm.loss(batch, scores, s.runtime)
        check_compared(one, terms, s.recipe.algorithm["name"])
        weight = s.weight * one.weight
        parts = {s.prefix + term.name: weight * weighted_sum(term) / max(1, counts[term.unit]) for term in terms}
        assert len(parts) == len(terms), "terms of one loss have names of their own"
        loss = torch.stack(list(parts.values())).sum()
        s.runtime.backward(loss * s.runtime.size)  # reduction over ranks takes the mean
    one.parts = {name: part.detach() for name, part in parts.items()}
    one.stats = {s.prefix + name: replace(stat, sum=stat.sum.detach()) for name, stat in stats.items()}
