"""Trained weights of a bfloat16 model: kept in float32 while they are trained, computed in bfloat16.

bfloat16 holds 8 bits: a weight of 0.02 has its neighbours 0.0001 away, and an optimizer step of 1e-6 rounds to none.
So what is trained in full is float32, as PEFT keeps its adapters, with its gradients and the optimizer's moments; what
is frozen stays bfloat16, and every forward runs under autocast.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

_log = logging.getLogger(__name__)
_SAMPLES = 256
"""Entries that are kept of every parameter."""
_TOLD_ABOVE = 0.1
"""Share of what moved that may be lost without a word."""


@dataclass(frozen=True, kw_only=True)
class Masters:
    """The trained weights that were taken to float32."""

    dtype: torch.dtype
    """Type they were loaded in, and are saved in where a whole model is."""
    start: Mapping[str, Tensor]
    """Some entries of each as it was loaded, float32 on the CPU."""

    def share_lost(self, now: Mapping[str, Tensor]) -> float:
        """Of the entries that training moved, the share that is the same again once it is rounded to ``dtype``.

        Args:
            now: the weights by the same names, whole.
        """
        moved = lost = 0
        for name, before in self.start.items():
            after = _some(now[name])
            changed = after != before
            moved += int(changed.sum())
            lost += int((changed & (after.to(self.dtype) == before.to(self.dtype))).sum())
        return lost / max(1, moved)

    def loss_of(self, now: Mapping[str, Tensor]) -> str | None:
        """A warning, where much of what was trained cannot be told in ``dtype``."""
        if (share := self.share_lost(now)) < _TOLD_ABOVE:
            return None
        kind = str(self.dtype).removeprefix("torch.")
        return (
            f"of the weights that training moved in float32, {share:.0%} are in {kind} what they were before: they "
            f"moved by less than {kind} can hold. To lose nothing, train with model.dtype: float32 and "
            "train.mixed_precision: bf16, which leaves float32 and needs the same memory for what is trained; or train "
            "longer"
        )

    def stored(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A whole model's state in the type it was loaded in, on the CPU; tied weights stay one."""
        made: dict[tuple[int, torch.Size], Tensor] = {}
        for value in state.values():
            if (value.data_ptr(), value.shape) not in made:
                kind = self.dtype if value.is_floating_point() else value.dtype
                made[value.data_ptr(), value.shape] = value.detach().to("cpu", kind)
        return {name: made[value.data_ptr(), value.shape] for name, value in state.items()}


def save_model(
    model: Any, directory: Path, state: Mapping[str, Tensor] | None, masters: Masters | None, *, adapter: str | None
) -> None:
    """Writes a transformers folder, or the folder of an adapter, whose weights stay as they are.

    Args:
        model: a transformers model, or a PEFT model around one.
        directory: made if need be.
        state: the tensors to write; None: the model's own.
        masters: what was taken to float32: a whole model is written in the type it was loaded in.
        adapter: the only one that is written.
    """
    if masters is not None:
        state = model.state_dict() if state is None else state
        if warning := masters.loss_of(state):
            _log.warning("%s: %s", directory.name.removesuffix(".tmp"), warning)
    if adapter is not None:
        model.save_pretrained(directory, state_dict=state, selected_adapters=[adapter])
        (directory / "README.md").unlink(missing_ok=True)  # PEFT's empty form; export and merge write a card
    elif masters is None or state is None:
        model.save_pretrained(directory, state_dict=state)
    else:
        model.save_pretrained(directory, state_dict=masters.stored(state))
        model.config.dtype = masters.dtype  # transformers notes that of the first parameter
        model.config.save_pretrained(directory)


def in_float32(model: nn.Module) -> Masters | None:
    """Takes the trained weights of lower precision to float32, in place; None where there are none."""
    low = {n: p for n, p in model.named_parameters() if p.requires_grad and p.dtype in (torch.bfloat16, torch.float16)}
    if not low:
        return None
    masters = Masters(dtype=next(iter(low.values())).dtype, start={name: _some(p) for name, p in low.items()})
    for parameter in low.values():
        parameter.data = parameter.data.float()
    for module in model.modules():
        if isinstance(module, nn.LayerNorm | nn.GroupNorm | nn.RMSNorm):
            module.float()  # frozen ones too, a few numbers: on a CPU they refuse float32 inputs otherwise
    return masters


def _some(parameter: Tensor) -> Tensor:
    flat = parameter.detach().reshape(-1)
    return flat[:: max(1, flat.shape[0] // _SAMPLES)][:_SAMPLES].to("cpu", torch.float32, copy=True)
