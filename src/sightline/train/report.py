"""What a step says of itself: whether it is finite, what it adds to the metrics, how held-out groups fare."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sightline.data.sampler import share
from sightline.errors import DivergenceError
from sightline.models.compiled import graphs
from sightline.train.looking import look
from sightline.train.metrics import Meter
from sightline.train.passes import Pass, fill, plan_passes, survey, weighted_sum
from sightline.train.session import Session
from sightline.train.source import Taken
from sightline.types import Stat


def check_finite(s: Session, passes: Sequence[Pass], norm: Tensor) -> None:
    """Stops all ranks before a step that would spoil the weights.

    Raises:
        DivergenceError: names the groups whose loss is not finite, or all of the step where only a gradient is.
    """
    losses = [torch.stack(list(one.parts.values())).sum() for one in passes]
    summed = s.runtime.sum(torch.stack(losses).sum())
    # the one time that the host waits for the device in a step: what comes next would change the weights
    total, length = torch.stack([summed.double(), norm.double()]).tolist()
    only_gradient = math.isfinite(total)
    if only_gradient and math.isfinite(length):
        return
    bad = [one for one, loss in zip(passes, losses, strict=True) if only_gradient or not math.isfinite(loss)]
    named = [group.group.source or group.group.id for one in bad for group in one.groups]
    names = sorted({name for part in s.runtime.gather_objects(named) for name in part})
    raise DivergenceError(
        f"Step {s.step + 1}: the loss is {total} and the gradient norm {length}; expected finite numbers. "
        f"Groups: {', '.join(names)}. Lower train.learning_rate, set train.max_grad_norm, or look at these rows."
    )


def check_weights(s: Session) -> None:
    """Stops all ranks before weights are saved that are no numbers: a step of finite loss and gradient can make them.

    Raises:
        DivergenceError: an infinite weight, or one that is no number.
    """
    if not s.runtime.are_finite(s.trained_parameters()):
        raise DivergenceError(
            f"Step {s.step}: weights are infinite or no numbers after it; expected finite ones. Nothing was saved of "
            "this step. Lower train.learning_rate, or raise train.epsilon."
        )


def note(s: Session, taken: Taken, passes: Sequence[Pass], norm: Tensor, seconds: float) -> None:
    """Adds the step to the meter. What is one figure per step, not per rank, is counted by the main process."""
    once = float(s.runtime.is_main)
    counted = [one for one in passes if one.weight]
    for one in counted:
        s.meter.add(one.stats)
        s.meter.add({f"loss/{name}": Stat(sum=part, count=0.0) for name, part in one.parts.items()})
    tokens = float(sum(g.num_tokens for one in counted for g in one.groups))
    s.tokens += s.runtime.sum_numbers([tokens])[0]
    s.seconds += seconds
    s.meter.add(taken.stats)
    s.meter.add(s.clock.stats(seconds))
    s.meter.add({"tokens_per_second": Stat(sum=torch.tensor(tokens, dtype=torch.float64), count=once * seconds)})
    s.meter.add({"grad_norm": Stat(sum=once * norm, count=once)})
    names = dict.fromkeys(name for one in passes for name in one.parts)
    s.meter.add({f"loss/{name}": Stat(sum=torch.tensor(0.0), count=once) for name in names})


def report(s: Session) -> dict[str, Any] | None:
    """The record of this step, or None where nothing is due. Losses are means over the steps since the last one."""
    figures: dict[str, float] = {}
    if s.step % s.recipe.train.log_every == 0 or s.step == s.total_steps:
        figures = with_loss(s.meter.reduce(s.runtime))
        figures["learning_rate"] = s.recipe.train.learning_rate * s.schedule.factor(s.step - 1)
        figures |= {"num_tokens": s.tokens, "seconds": s.seconds}
        figures |= {f"groups/{name}": count for name, count in s.source.drawn(s.step).items()}
        if s.mixed is not None:
            drawn = s.mixed.source.drawn(max(0, s.step - s.algorithm.critic_warmup))
            figures |= {f"groups/mix/{name}": count for name, count in drawn.items()}
        if s.recipe.train.compile:
            figures["compiled_graphs"] = graphs()
    if s.held_out and s.due(s.recipe.train.eval_every):
        figures |= {f"eval/{name}": value for name, value in evaluate(s).items()}
    if s.looking.on and s.due(s.looking.spec.every):
        figures |= look(s)
    if s.benchmarks is not None and s.due(s.benchmarks.spec.every):
        with s.runtime.autocast():
            figures |= s.benchmarks.measure(s.step)
    return {"step": s.step, "epoch": s.source.epochs(s.step), **figures} if figures else None


@torch.no_grad()
def evaluate(s: Session) -> dict[str, float]:
    """Loss and statistics of the algorithm on the held-out groups, over all ranks."""
    meter, size = Meter(s.runtime.device), s.recipe.train.batch_size
    s.policy.eval()
    for start in range(0, len(s.held_out), size):
        chunk = s.held_out[start : start + size]
        mine = share(chunk, s.runtime.rank, s.runtime.size)
        made = [s.render(group) for group in mine or chunk[:1]]
        taken = s.render.taken(made, s.held_out, counted=bool(mine))
        passes = plan_passes(s, taken)
        survey(s, passes)
        for one in passes:
            batch = fill(s, one)
            with s.runtime.autocast():
                scores = s.policy(batch, s.algorithm.heads)
            terms, stats = s.algorithm.loss(batch, scores, s.runtime)
            if one.weight:
                meter.add(stats)
                meter.add({f"loss/{t.name}": Stat(sum=weighted_sum(t), count=batch.count(t.unit)) for t in terms})
    s.policy.train()
    return with_loss(meter.reduce(s.runtime))


def with_loss(figures: dict[str, float]) -> dict[str, float]:
    """Puts ``loss``, the sum of all terms, before the rest."""
    return {"loss": sum(value for name, value in figures.items() if name.startswith("loss/")), **figures}
