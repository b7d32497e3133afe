"""A pair step as ``tree`` on a decoder in 4 bits (NF4, bitsandbytes), as QLoRA trains on (arXiv 2305.14314)."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from benchmarks.gpu_jobs import Job, Record
from benchmarks.gpu_models import CONFIGS, DTYPE, LORA, Draws, build, policy_of
from benchmarks.gpu_stages.rounds import Rounds
from benchmarks.gpu_stages.steps import run_policy
from benchmarks.gpu_time import Clock
from sightline.models.family import family_of


def measure(job: Job, record: Record) -> None:
    if find_spec("bitsandbytes") is None:
        record.put(state="left out: bitsandbytes is not installed (extra: quantize)")
        return
    config = CONFIGS[job.model](job.tiny)
    policy = policy_of(quantise(build(config, job.device, DTYPE), DTYPE), LORA, checkpointing=True)
    rounds = Rounds(Clock(device=job.device), record, job.seconds, warm=1, most=1 if job.tiny else 12)
    run_policy(policy, Draws.of(config, job), "tree", job, record, rounds)


def quantise(model: Any, dtype: torch.dtype) -> Any:
    """Replaces the decoder's linear layers in place; products run in ``dtype``. The LM head stays as it is."""
    import bitsandbytes as bnb

    family = family_of(model.config)
    for name, layer in list(model.named_modules()):
        if not isinstance(layer, nn.Linear) or not name.startswith(f"{family.language}."):
            continue
        low = bnb.nn.Linear4bit(
            layer.in_features, layer.out_features, bias=layer.bias is not None, compute_dtype=dtype, quant_type="nf4"
        )
        weight = layer.weight.detach()
        low.weight = bnb.nn.Params4bit(weight.cpu(), requires_grad=False, quant_type="nf4").to(weight.device)
        low.bias = layer.bias
        # on a CPU the layout for inference has no backward pass
        low.support_avx512bf16_for_cpu = False
        parent, leaf = name.rsplit(".", 1)
        setattr(model.get_submodule(parent), leaf, low)
    model.is_loaded_in_4bit = True  # PEFT then makes adapters for such layers
    return model
