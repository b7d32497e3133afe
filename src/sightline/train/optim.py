"""AdamW over the parts of a policy, its moments in 32 or in 8 bits, and the schedule of its learning rates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

from torch import nn
from torch.optim import AdamW, Optimizer

from sightline.errors import MissingExtra, RecipeError
from sightline.recipes.schema import TrainSpec

NamedParameters = Sequence[tuple[str, nn.Parameter]]


def parameter_groups(
    parts: Mapping[str, NamedParameters], spec: TrainSpec, critic_rate: float | None = None
) -> list[dict[str, Any]]:
    """Optimizer groups: each part with its own learning rate, matrices with decay, biases and norms without.

    Args:
        parts: trainable parameters of ``language``, ``projector`` and ``vision``, and of ``critic``, by name.
        spec: learning rates and weight decay.
        critic_rate: the critic's; None: that of the rest.

    Returns:
        Groups with ``params``, ``name`` (part, and whether it decays), ``lr``, ``base_lr`` and ``weight_decay``.
        A parameter with fewer than two axes never decays.

    Raises:
        RecipeError: a learning rate of a part that is not trained.
    """
    rates = {
        "projector": spec.projector_learning_rate or spec.learning_rate,
        "vision": spec.vision_learning_rate or spec.learning_rate,
        "critic": critic_rate or spec.learning_rate,
    }
    for part, given in (("projector", spec.projector_learning_rate), ("vision", spec.vision_learning_rate)):
        if given is not None and not parts[part]:
            raise RecipeError(
                f"train.{part}_learning_rate is {given:g}, and nothing of the {part} is trained. Remove the rate, or "
                "train the part: an adapter that is there trains what it holds"
            )
    groups = []
    for part, named in parts.items():
        rate = rates.get(part, spec.learning_rate)
        for decays in (True, False):
            members = [parameter for _, parameter in named if (parameter.dim() >= 2) == decays]
            if members:
                groups.append(
                    {
                        "params": members,
                        "name": f"{part}/{'decay' if decays else 'no_decay'}",
                        "lr": rate,
                        "base_lr": rate,
                        "weight_decay": spec.weight_decay if decays else 0.0,
                    }
                )
    return groups


def build_optimizer(
    parts: Mapping[str, NamedParameters], spec: TrainSpec, critic_rate: float | None = None
) -> Optimizer:
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101), fused, or as bitsandbytes has it: moments in 8 bits
    (Dettmers et al. 2022, arXiv 2110.02861), or in memory that the GPU shares with the host.

    Raises:
        MissingExtra: bitsandbytes is not there.
    """
    groups = parameter_groups(parts, spec, critic_rate)
    if spec.optimizer == "adamw":
        return AdamW(groups, betas=spec.betas, eps=spec.epsilon, fused=True)
    if find_spec("bitsandbytes") is None:
        raise MissingExtra("bitsandbytes", "quantize")
    import bitsandbytes as bnb

    made: Optimizer = bnb.optim.AdamW(
        groups,
        betas=spec.betas,
        eps=spec.epsilon,
        optim_bits=8 if spec.optimizer.endswith("8bit") else 32,
        # on a CPU all is in main memory anyway
        is_paged=spec.optimizer.startswith("paged") and groups[0]["params"][0].is_cuda,
    )
    return made


def page_again(optimizer: Any) -> None:
    """Moves moments that were loaded back into paged memory, where the optimizer keeps its own: bitsandbytes leaves
    them on the GPU. Does nothing to other optimizers."""
    if not type(optimizer).__module__.startswith("bitsandbytes.") or not optimizer.is_paged:
        return
    for parameter, moments in optimizer.state.items():
        for name in ("state1", "state2"):
            paged = optimizer.get_state_buffer(parameter, dtype=moments[name].dtype)  # small ones are never paged
            moments[name] = paged.copy_(moments[name])


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Factor on every learning rate, as a pure function of the step: resuming needs the step only.

    Warm-up is linear and its first step is not wasted: step s of w takes (s + 1) / w. Then ``linear`` and
    ``cosine`` fall from 1 towards 0, which the step after the last would reach.

    >>> [Schedule(kind="linear", total_steps=6, warmup_steps=2).factor(step) for step in range(6)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """

    kind: Literal["constant", "linear", "cosine"]
    total_steps: int
    warmup_steps: int = 0

    @classmethod
    def of(cls, spec: TrainSpec, total_steps: int) -> Schedule:
        """The schedule of a recipe; a warm-up below 1 is a share of all steps."""
        warmup = math.ceil(round(spec.warmup * total_steps, 6)) if spec.warmup < 1 else round(spec.warmup)
        return cls(kind=spec.schedule, total_steps=total_steps, warmup_steps=warmup)

    def factor(self, step: int) -> float:
        """Factor for the optimizer step ``step``, counted from 0."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.kind == "constant":
            return 1.0
        done = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        return max(0.0, 1.0 - done) if self.kind == "linear" else 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    def apply(self, optimizer: Optimizer, step: int) -> None:
        """Sets the learning rate of every group for ``step``."""
        factor = self.factor(step)
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
