"""The ``online.engine`` section of a recipe. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class EngineSpec:
    """What samples the answers of an online run."""

    name: Literal["hf", "vllm", "ray"] = "hf"
    """``hf``: the policy itself, through transformers, where it is trained. ``vllm``: servers that run already
    (``vllm serve``), which get the policy's weights before every round. ``ray``: copies of the policy in workers on the
    machines of a Ray cluster (extra ``ray``), which get what was trained before every round and sample as ``hf``
    does."""
    urls: tuple[str, ...] = ()
    """vllm: addresses of the servers, such as ``http://127.0.0.1:8000``. Each serves the model of ``model.path``."""
    sync: Literal["adapter", "weights"] = "adapter"
    """vllm: how the servers get the policy. ``adapter``: the LoRA adapter of the language part, as a folder that they
    read, under a new name each time. ``weights``: all weights, an adapter merged into them, over a connection of their
    own, while the servers pause."""
    workers: int = Field(default=1, ge=1, le=10_000)
    """ray: copies of the policy that sample side by side, for each training process. A worker has one CPU core."""
    gpus: float = Field(default=0, ge=0, le=64)
    """ray: GPUs of each worker, as Ray counts them; 0.5: two workers share one. 0: workers compute on the CPU."""
    address: str | None = Field(default=None, min_length=1)
    """ray: the cluster, ``auto`` for the one that this machine belongs to, or ``HOST:PORT`` of its head. None: Ray is
    started on this machine, for this process."""
    rewards: Literal["trainer", "workers"] = "trainer"
    """ray: who computes ``online.reward``: the training process, or the workers, each of which then loads the models
    that it names."""
    timeout: float = Field(default=600, gt=0, le=86400)
    """vllm: seconds that one request may take: the answers to a prompt, an adapter, or all weights. ray: seconds that a
    batch may take; after that its worker is replaced."""
    patience: float = Field(default=600, ge=0, le=86400)
    """vllm, ray: seconds that the run waits where no server answers and no worker has started. Then it stops, and the
    same command goes on from its checkpoint. As long as one is there it does the work of the others."""
    check: bool = True
    """Before the first step 8 answers are sampled and scored again by the trainer. A run whose engine and trainer
    disagree, in the tokens of a picture or by more than ``max_kl``, is refused."""
    max_kl: float = Field(default=0.015, gt=0, le=1e3)
    """Most nats per token between engine and trainer (the k3 estimate of their KL divergence)."""
