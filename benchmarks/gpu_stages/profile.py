"""Where the time of one step goes: kinds of kernels, gaps between them, and how long the program takes to launch it."""

from __future__ import annotations

import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_jobs import Job, Record
from benchmarks.gpu_models import CONFIGS, DTYPE, Draws, build
from benchmarks.gpu_stages.steps import Contender, Stepper
from benchmarks.gpu_time import Clock
from sightline.models.layout import lay_out

KINDS = {
    "communication": ("nccl",),
    "fused elementwise": ("triton_poi", "triton_per", "triton_red", "triton_rope", "rms_norm_", "swiglu", "silu_"),
    "attention": ("flash", "fmha", "sdpa", "attention", "attn"),
    "matrix products": ("gemm", "nvjet", "cutlass", "xmma", "cublas", "splitk", "matmul", "::mm", "::addmm", "::bmm"),
    "copies and casts": ("copy", "memcpy", "memset", "catarray", "::cat", "::_to_copy", "fill", "::zero_"),
    "gathers": ("index", "gather", "scatter", "embedding"),
    "optimizer": ("multi_tensor", "adam"),
    "elementwise": ("elementwise", "triton_", "reduce", "softmax", "norm", "unrolled", "vectorized", "distribution"),
}
"""Words in the name of a kernel (of an operation, on a CPU) that give its kind; the first that fits counts."""
REST = "other"


def kind_of(name: str) -> str:
    """Of a kernel by its name.

    >>> kind_of("nvjet_tst_128x256_64x4_1x2_h_bz_TNT"), kind_of("void at::native::vectorized_elementwise_kernel<...>")
    ('matrix products', 'elementwise')
    >>> kind_of("void at::native::unrolled_elementwise_kernel<at::native::direct_copy_kernel_cuda...>")
    'copies and casts'
    """
    low = name.lower()
    return next((kind for kind, words in KINDS.items() if any(word in low for word in words)), REST)


def measure(job: Job, record: Record) -> None:
    """One step in steady state, timed without the profiler, then seen by it."""
    contender, clock = Contender.of(job.contender), Clock(device=job.device)
    config = CONFIGS[job.model](job.tiny)
    draws = Draws.of(config, job)
    policy = contender.policy(build(config, job.device, DTYPE))
    step = Stepper(policy, job.task)
    for number in range(3):
        batch = lay_out(draws.step(number), contender.layout, policy.family, policy.config)  # type: ignore[arg-type]
        batch = batch.to(policy.device)
        step(batch)
    hosts: list[float] = []

    def hand_over() -> None:
        began = time.perf_counter()
        step(batch)
        hosts.append(time.perf_counter() - began)

    wall = clock.median(hand_over, 3)
    record.put(wall=wall, host=statistics.median(hosts[1:]), waits=waits(lambda: step(batch)))
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if job.device == "cuda" else [])]
    with profile(activities=activities) as seen:
        step(batch)
        clock.wait()
    on_device = DeviceType.CUDA if job.device == "cuda" else DeviceType.CPU
    events = [event for event in seen.events() or () if event.device_type == on_device]
    record.put(**shares(events, wall, on_device))


def waits(work: Callable[[], Any]) -> list[str]:
    """Where the program waits for the device in the middle of its work; always empty on a CPU."""
    if not torch.cuda.is_available():
        return []
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return [
        f"{one.filename.split('site-packages/')[-1]}:{one.lineno}" for one in seen if "synchroniz" in str(one.message)
    ]


def shares(events: Iterable[Any], wall: float, on_device: DeviceType) -> dict[str, Any]:
    """Seconds of each kind, of all kernels together, of the gaps, and the ten names that take most.

    On a CPU, of operations without those inside them; what is no torch operation is left out.
    """
    on_cpu = on_device == DeviceType.CPU
    names: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for event in events:
        if not on_cpu and event.is_user_annotation:
            continue
        names[event.name] += event.self_cpu_time_total if on_cpu else event.self_device_time_total
        calls[event.name] += 1
    kinds: Counter[str] = Counter()
    for name, microseconds in names.items():
        kinds[kind_of(name)] += microseconds
    busy = sum(names.values()) / 1e6
    top = [[name[:120], microseconds / 1e6, calls[name]] for name, microseconds in names.most_common(10)]
    return {
        "kernels": busy,
        "gaps": max(0.0, wall - busy),
        "count": sum(calls.values()),
        "kinds": {kind: microseconds / 1e6 for kind, microseconds in kinds.most_common()},
        "top": top,
    }
