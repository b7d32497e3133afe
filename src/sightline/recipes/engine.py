"""The ``online.engine`` section of a recipe. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class EngineSpec:
    """What samples the answers of an online run."""

    name: Literal["hf", "vllm"] = "hf"
    """``hf``: the policy itself, through transformers, where it is trained. ``vllm``: servers that run already
    (``vllm serve``), which get the policy's weights before every round."""
    urls: tuple[str, ...] = ()
    """vllm: addresses of the servers, such as ``http://127.0.0.1:8000``. Each serves the model of ``model.path``."""
    sync: Literal["adapter", "weights"] = "adapter"
    """vllm: how the servers get the policy. ``adapter``: the LoRA adapter, as a folder that they read, under a new name
    each time. ``weights``: all weights, over a connection of their own, while the servers pause."""
    timeout: float = Field(default=600, gt=0, le=86400)
    """vllm: seconds that one request may take: the answers to a prompt, an adapter, or all weights."""
    patience: float = Field(default=600, ge=0, le=86400)
    """vllm: seconds that the run waits for a server to come back where none answers. Then it stops, and the same
    command goes on from its checkpoint. As long as one server answers it does the work of the others."""
    check: bool = True
    """Before the first step 8 answers are sampled and scored again by the trainer. A run whose engine and trainer
    disagree, in the tokens of a picture or by more than ``max_kl``, is refused."""
    max_kl: float = Field(default=0.015, gt=0, le=1e3)
    """Most nats per token between engine and trainer (the k3 estimate of their KL divergence)."""
