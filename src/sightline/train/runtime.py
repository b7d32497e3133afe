"""Processes, devices and trackers: the only file that knows accelerate.

Ranks may hold unequal numbers of units, but make equal numbers of passes (``data.sampler.extend_plan``).
Gradients are averaged over ranks by DDP and by FSDP; the loop multiplies its loss by the number of ranks and divides
by global counts, so that the average is the gradient of the global loss. DDP comes through accelerate, FSDP through
torch (``train.sharding``): accelerate answers a request for FSDP on a CPU with DDP.
"""

from __future__ import annotations

import atexit
import gc
import importlib.util
import os
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
import torch.distributed
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, ProjectConfiguration, gather_object
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from sightline.errors import MissingExtra, RecipeError
from sightline.models.policy import Policy
from sightline.train import sharding
from sightline.train.optim import page_again

Distribution = Literal["auto", "single", "ddp", "fsdp"]
_T = TypeVar("_T")

_DDP = (DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
_REPLACED = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed"}
_REMEDIES = {"ddp": "Start it with torchrun", "fsdp": "Start it with torchrun on two processes or more"}
"""Launcher settings that accelerate answers with DDP, or with independent processes, without a word."""


class Runtime:
    """The processes of a run. Is a ``types.World``."""

    def __init__(
        self,
        *,
        distribution: Distribution = "auto",
        mixed_precision: Literal["no", "bf16"] = "no",
        skips_parameters: bool = False,
        trackers: Sequence[str] = (),
        log_dir: Path = Path("trackers"),
    ) -> None:
        """
        Args:
            distribution: kind that must run; ``auto``: what the launcher set up, with DDP where it is several
                processes.
            mixed_precision: ``bf16`` runs forwards under autocast.
            skips_parameters: a pass may leave trained parameters out (a micro-batch without pictures when
                the projector or the vision tower is trained). DDP then looks for them in every pass that
                reduces, so that it does not wait for them; a parameter that only another rank or an earlier
                micro-batch used still gets its gradient, one that nobody used gets none. (torch says once that
                this costs a walk over the graph, where the first pass leaves nothing out.)
            trackers: names of accelerate's trackers.
            log_dir: folder of the trackers' files.

        Raises:
            RecipeError: what runs is not what was asked for.
            MissingExtra: a tracker that is not installed.
        """
        _refuse_replaced()
        for name in trackers:  # accelerate would go on without it
            if importlib.util.find_spec(name) is None:
                raise MissingExtra(name, name)
        # mixed precision is done by ``autocast`` below: accelerate would replace the policy's forward, and keeps
        # the setting for the life of the process
        self._accelerator = Accelerator(
            cpu=not torch.cuda.is_available(),
            mixed_precision="no",
            gradient_accumulation_steps=1,
            log_with=list(trackers) or None,
            project_config=ProjectConfiguration(project_dir=str(log_dir), logging_dir=str(log_dir)),
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=skips_parameters)],
        )
        self._bf16 = mixed_precision == "bf16"
        self._spread = distribution == "fsdp"
        self._trackers = tuple(trackers)
        self.rank = self._accelerator.process_index
        self.size = self._accelerator.num_processes
        self.device: torch.device = self._accelerator.device
        self._check(distribution)
        if self.size > 1:
            atexit.register(_leave)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def kind(self) -> str:
        """What runs: ``single``, ``ddp`` or ``fsdp``."""
        if self._accelerator.distributed_type not in _DDP:
            return "single"
        return "fsdp" if self._spread else "ddp"

    @property
    def sharded(self) -> bool:
        """Whether parameters are spread over the ranks, so that computing them is collective."""
        return self.kind == "fsdp"

    # --- model and optimizer ---

    def place(self, policy: Policy) -> None:
        """Moves a policy to this rank's device, spread over the ranks where parameters are. Every rank must call.

        Raises:
            RecipeError, UnsupportedError: parameters that cannot be spread.
        """
        if self.sharded:
            sharding.shard(policy, sharding.all_ranks(self.device.type, self.size))
        else:
            policy.to(self.device)

    def prepare(self, policy: Policy, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
        """The policy, which was placed, as its gradients are reduced, and its optimizer.

        Raises:
            RecipeError: the module that comes out is not distributed as was asked for.
        """
        module: nn.Module = policy
        if not self.sharded:
            module, optimizer = self._accelerator.prepare(policy, optimizer)
        if isinstance(module, DistributedDataParallel):
            # they are the same on all ranks, as no module learns them, and sending them again makes every forward wait.
            # Set here: torch 2.13 warns of the argument, and accelerate does not know the new one
            module.broadcast_buffers = False
        if (found := _kind_of(module)) != self.kind:
            raise RecipeError(
                f"The distribution is {self.kind}, but the parameters are held as with {found}. The recipe is not at "
                "fault: report it with the versions of torch and accelerate, or set train.distribution to another kind."
            )
        return module, optimizer

    def autocast(self) -> AbstractContextManager[Any]:
        """Around every forward: bf16 where the recipe asks for it.

        Where parameters are spread, their copies in bf16 are not kept: together they are the whole model.
        """
        if not self._bf16:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16, cache_enabled=not self.sharded)

    @contextmanager
    def accumulate(self, model: nn.Module, *, sync: bool) -> Iterator[None]:
        """Around forward and backward of one micro-batch; gradients are reduced where ``sync``.

        The forward belongs inside: that is where DDP decides whether the backward reduces. Gradients of spread
        parameters are reduced in every pass: kept till the last they would take the memory of the whole model.
        """
        with nullcontext() if sync or self.sharded else self._accelerator.no_sync(model):
            yield

    def backward(self, loss: Tensor) -> None:
        self._accelerator.backward(loss)

    def clip(self, parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
        """Clips the reduced gradients to a global 2-norm (0: not at all) and returns the norm before it."""
        clipped = list(parameters)
        norm = torch.nn.utils.get_total_norm([one.grad for one in clipped if one.grad is not None])
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()
        torch.nn.utils.clip_grads_with_norm_(clipped, max_norm or float("inf"), norm)
        return norm

    def are_finite(self, parameters: Iterable[nn.Parameter]) -> bool:
        """Whether all numbers of some parameters are finite, over all ranks. Every rank must call."""
        own = [one.to_local() if isinstance(one, DTensor) else one for one in (p.detach() for p in parameters)]
        broken = torch.stack([~one.isfinite().all() for one in own]).sum()
        return not self.sum(broken.double())

    # --- whole weights ---

    def whole(self, policy: Policy) -> AbstractContextManager[None]:
        """All parameters whole on this rank, so that it may sample and score without gradients at its own pace. Every
        rank must enter and leave."""
        return sharding.whole(policy) if self.sharded else nullcontext()

    def gather_state(self, state: _T) -> _T:
        """Nested mappings and lists with whole tensors, on the main process; elsewhere spread tensors come out
        empty. As they are where nothing is spread. Every rank must call."""
        gathered: _T = sharding.gathered(state, keep=self.is_main) if self.sharded else state
        return gathered

    def model_state(self, policy: Policy) -> dict[str, Tensor] | None:
        """The whole state dict, for ``Policy.save`` on the main process; None where the policy's own is whole. Every
        rank must call."""
        return self.gather_state(policy.state_dict(keep_vars=True)) if self.sharded else None

    def load(self, policy: Policy, optimizer: Optimizer, weights: Mapping[str, Tensor], state: dict[str, Any]) -> None:
        """Puts back trainable weights and optimizer state, both whole.

        Raises:
            CheckpointError: they are of other parameters.
        """
        if self.sharded:
            own = policy.trainable_state()
            weights = {n: sharding.scattered(value, own[n]) if n in own else value for n, value in weights.items()}
            state = sharding.scattered_optimizer(state, optimizer)
        policy.load_trainable_state(weights)
        optimizer.load_state_dict(state)
        page_again(optimizer.optimizer if isinstance(optimizer, AcceleratedOptimizer) else optimizer)

    # --- between processes ---

    def sum(self, value: Tensor) -> Tensor:
        """Sum over ranks; the same tensor where there is one."""
        if self.size == 1:
            return value
        total: Tensor = self._accelerator.reduce(value, reduction="sum")
        return total

    def sum_numbers(self, values: Sequence[float]) -> list[float]:
        """Sums over ranks of numbers on the host, exact to 2**53; with one process no device is asked."""
        if self.size == 1:
            return list(values)
        found: list[float] = self.sum(torch.tensor(values, dtype=torch.float64, device=self.device)).tolist()
        return found

    def most(self, count: int) -> int:
        """The largest of one number of every rank."""
        if self.size == 1:
            return count
        return int(self._accelerator.gather(torch.tensor([count], device=self.device)).max())

    def gather_objects(self, value: _T) -> list[_T]:
        """One value of every rank, in order of ranks."""
        return [value] if self.size == 1 else list(gather_object([value]))

    def barrier(self) -> None:
        self._accelerator.wait_for_everyone()

    # --- random numbers ---

    def seed(self, seed: int) -> None:
        """Seeds Python, NumPy and torch on this rank."""
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)

    def rng_state(self) -> dict[str, Any]:
        """State of all generators of this rank, as plain values and tensors."""
        name, keys, *rest = np.random.get_state(legacy=True)
        state = {"python": random.getstate(), "numpy": (name, keys.tolist(), *rest), "torch": torch.get_rng_state()}  # type: ignore[union-attr]
        if self.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def set_rng_state(self, state: Mapping[str, Any]) -> None:
        random.setstate(state["python"])
        name, keys, *rest = state["numpy"]
        np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
        torch.set_rng_state(state["torch"])
        if self.device.type == "cuda" and "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"], self.device)

    # --- trackers ---

    def start_trackers(self, name: str, settings: Mapping[str, str]) -> None:
        """Opens the trackers on the main process; ``settings`` are shown beside the run."""
        if self._accelerator.log_with:
            folder = Path(self._accelerator.logging_dir)
            folder.mkdir(parents=True, exist_ok=True)
            # wandb alone does not look at the folder given to accelerate, and would write where the run was started
            options = {"wandb": {"dir": str(folder)}}
            try:
                self._accelerator.init_trackers(name, config=dict(settings), init_kwargs=options)
            except Exception as error:  # trackers are services of others, with errors of their own
                self._accelerator.trackers = []
                raise RecipeError(
                    f"train.trackers: {' and '.join(map(str, self._trackers))} cannot start ({error}). "
                    "Log in, work offline (WANDB_MODE=offline), or remove it from the list."
                ) from error

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Figures of a step, for the trackers."""
        self._accelerator.log(dict(values), step=step)

    def close(self) -> None:
        """Finishes the trackers. Processes stay connected, so that another run can follow."""
        for tracker in self._accelerator.trackers:
            tracker.finish()

    def _check(self, wanted: Distribution) -> None:
        launched = int(os.environ.get("WORLD_SIZE", "1"))
        found = f"{self.kind} with {self.size} process(es) ({self._accelerator.distributed_type})"
        if self.size != launched:
            raise RecipeError(f"The launcher set up {launched} processes, but what runs is {found}.")
        if self._accelerator.distributed_type not in (DistributedType.NO, *_DDP):
            raise RecipeError(f"What runs is {found}; only single processes, DDP and FSDP are supported.")
        if wanted != "auto" and wanted != self.kind:
            remedy = _REMEDIES.get(wanted, "Start it without a launcher")
            raise RecipeError(f"train.distribution is {wanted}, but what runs is {found}. {remedy}, or set it to auto.")


def _refuse_replaced() -> None:
    for variable, kind in _REPLACED.items():
        if os.environ.get(variable, "false").lower() == "true":
            raise RecipeError(
                f"The launcher asks for {kind} ({variable}=true), which would silently run as something else. "
                "Unset it or start with torchrun, and set train.distribution=fsdp to spread parameters, gradients and "
                "optimizer state over the processes, or train.distribution=ddp to keep them whole on each."
            )


def _kind_of(module: nn.Module) -> str:
    """How a module is distributed, from what it is."""
    if isinstance(module, DistributedDataParallel):
        return "ddp"
    return "fsdp" if sharding.is_sharded(module) else "single"


def _leave() -> None:
    """Ends gloo's threads before the interpreter ends.

    A thread that still holds a tensor of the last collective asks for the interpreter's lock to let it go; asking
    while the interpreter is ending aborts the process. The threads end with the last reference to their group, and
    models wrapped for DDP or FSDP sit in reference cycles that hold one.
    """
    if torch.distributed.is_initialized():
        gc.collect()
        sharding.forget_groups()
        torch.distributed.destroy_process_group()
