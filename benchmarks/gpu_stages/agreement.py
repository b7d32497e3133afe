"""Log-probs and LoRA gradients of every layout in bf16, each against the same weights in float32 as ``rows``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_jobs import Job, Record
from benchmarks.gpu_models import CONFIGS, DTYPE, LORA, Draws, build, policy_of
from sightline.models.layout import lay_out
from sightline.models.policy import Policy
from sightline.rendered import RenderedGroup
from sightline.types import LayoutName

LAYOUTS: tuple[LayoutName, ...] = ("rows", "packed", "tree")


def measure(job: Job, record: Record) -> None:
    config = CONFIGS[job.model](job.tiny)
    groups = Draws.of(config, job).step(0)[:1]
    policy = policy_of(build(config, job.device, DTYPE), LORA, checkpointing=True)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:  # zero at the start: an adapter that changes nothing would have half of its gradients 0
            torch.nn.init.normal_(parameter, std=0.01)
    scored = {layout: scores(policy, groups, layout) for layout in LAYOUTS}
    exact = scores(policy.float(), groups, "rows")  # in place: the same weights, now exact
    record.put(logprob_mean=float(exact[0].mean()), tokens=exact[0].numel())
    found: dict[str, Any] = {}
    for layout, (logprobs, gradients) in scored.items():
        off, apart = (logprobs - exact[0]).abs(), (logprobs - scored["rows"][0]).abs()
        found[layout] = {
            "mean": float(off.mean()),
            "max": float(off.max()),
            "max_to_rows": float(apart.max()),
            "gradient": float((gradients - exact[1]).norm() / exact[1].norm()),
        }
        record.put(layouts=found)


def scores(policy: Policy, groups: list[RenderedGroup], layout: LayoutName) -> tuple[Tensor, Tensor]:
    """Log-probs [N], and the gradients of a weighted sum of them, all in one row, in float32 on the CPU."""
    policy.zero_grad(set_to_none=True)
    batch = lay_out(groups, layout, policy.family, policy.config).to(policy.device)
    logprobs = policy(batch).logprobs
    (torch.linspace(-1, 2, logprobs.shape[0], device=logprobs.device) * logprobs).mean().backward()
    gradients = [p.grad.float().flatten().cpu() for p in policy.parameters() if p.grad is not None]
    policy.zero_grad(set_to_none=True)
    return logprobs.detach().cpu(), torch.cat(gradients)
