"""A pair step as ``tree`` on a decoder in 4 bits (NF4, bitsandbytes), as QLoRA trains on (arXiv 2305.14314)."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Literal

from benchmarks.gpu_jobs import Job, Record
from benchmarks.gpu_models import CONFIGS, DTYPE, LORA, Draws, build, policy_of
from benchmarks.gpu_stages.rounds import Rounds
from benchmarks.gpu_stages.steps import run_policy
from benchmarks.gpu_time import Clock
from sightline.models.family import family_of
from sightline.models.quantized import keep_gradients, quantise
from sightline.recipes.schema import ModelSpec


def measure(job: Job, record: Record) -> None:
    if find_spec("bitsandbytes") is None:
        record.put(state="left out: bitsandbytes is not installed (extra: quantize)")
        return
    config = CONFIGS[job.model](job.tiny)
    policy = policy_of(quantised(build(config, job.device, DTYPE), "bfloat16"), LORA, checkpointing=True)
    rounds = Rounds(Clock(device=job.device), record, job.seconds, warm=1, most=1 if job.tiny else 12)
    run_policy(policy, Draws.of(config, job), "tree", job, record, rounds)


def quantised(model: Any, dtype: Literal["float32", "bfloat16"]) -> Any:
    """The model as a recipe with ``quantization: nf4`` loads it."""
    quantise(model, family_of(model.config), ModelSpec(path="", dtype=dtype, quantization="nf4"))
    keep_gradients(model)
    return model
