"""One command that measures Sightline on a GPU: layouts in bf16 at 7B shapes, attention forms, QLoRA.

    python -m benchmarks.gpu --json OUT                        # everything; needs one GPU of 40 GB, 80 for `full`
    python -m benchmarks.gpu --json OUT --models llava --only attention steps
    python -m benchmarks.gpu --json OUT --device cpu --tiny    # tiny models, to see that it runs

Models have the shapes of LLaVA-1.5-7B and Qwen2.5-VL-7B and random weights made on the device: nothing is
downloaded. OUT gets gpu.json with every figure and gpu.md with tables. What does not fit the memory is reported
as that and left out. Ends with 2 where there is no GPU.

MFU: FLOPs that the layout needs (recomputed activations not counted, `benchmarks.arithmetic`) per second, over the
FLOP/s of a large matrix product measured on the same device.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.arithmetic import Architecture, Work, rows_flops, tree_flops
from benchmarks.gpu_attention import measure_attention
from benchmarks.gpu_models import CONFIGS, FULL, LORA, Sizes, architecture_of, build, policy_of, random_group
from benchmarks.gpu_qlora import quantise
from benchmarks.gpu_table import tables
from benchmarks.gpu_time import Clock, name_of
from sightline.algorithms.registry import build_algorithm
from sightline.models.layout import lay_out
from sightline.models.policy import Policy
from sightline.types import Batch, LayoutName, RenderedGroup

STAGES = ("agreement", "steps", "attention", "qlora")
LAYOUTS: tuple[LayoutName, ...] = ("rows", "packed", "tree")
IMAGE_TOKENS = {"llava": 576, "qwen": 1024}
DTYPE = torch.bfloat16


def attempt(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``work`` returns, or that the memory did not suffice; the device is empty afterwards."""
    try:
        return work()
    except torch.OutOfMemoryError:
        return {"out_of_memory": True}
    finally:
        if torch.cuda.is_available():
            gc.collect()
            torch.cuda.empty_cache()


def batch_of(policy: Policy, group: RenderedGroup, layout: LayoutName) -> Batch:
    return lay_out([group], layout, policy.family, policy.config).to(policy.device)


# --- agreement ---


def agreement(config: Any, sizes: Sizes, device: str) -> dict[str, Any]:
    """Log-probs and LoRA gradients of every layout, each against the same weights in float32 as ``rows``."""
    group = random_group(config, sizes)
    policy = policy_of(build(config, device, DTYPE), LORA, checkpointing=True)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:  # zero at the start: an adapter that changes nothing would have half of its gradients 0
            torch.nn.init.normal_(parameter, std=0.01)
    scored = {layout: scores(policy, group, layout) for layout in LAYOUTS}
    exact = scores(policy.float(), group, "rows")  # in place: the same weights, now exact
    report: dict[str, Any] = {"logprob_mean": float(exact[0].mean()), "tokens": exact[0].numel()}
    for layout, (logprobs, gradients) in scored.items():
        off, apart = (logprobs - exact[0]).abs(), (logprobs - scored["rows"][0]).abs()
        report[layout] = {
            "mean": float(off.mean()),
            "max": float(off.max()),
            "max_to_rows": float(apart.max()),
            "gradient": float((gradients - exact[1]).norm() / exact[1].norm()),
        }
    return report


def scores(policy: Policy, group: RenderedGroup, layout: LayoutName) -> tuple[Tensor, Tensor]:
    """Log-probs [N], and the gradients of a weighted sum of them, all in one row, in float32 on the CPU."""
    policy.zero_grad(set_to_none=True)
    logprobs = policy(batch_of(policy, group, layout)).logprobs
    (torch.linspace(-1, 2, logprobs.shape[0], device=logprobs.device) * logprobs).mean().backward()
    gradients = [p.grad.float().flatten().cpu() for p in policy.parameters() if p.grad is not None]
    policy.zero_grad(set_to_none=True)
    return logprobs.detach().cpu(), torch.cat(gradients)


# --- steps ---


def steps(config: Any, sizes: Sizes, clock: Clock, ceiling: float) -> dict[str, Any]:
    """Step time, memory and MFU of a pair and a group, LoRA and full, ``tree`` and ``rows``."""
    report: dict[str, Any] = {}
    for mode, parts in (("lora", LORA), ("full", FULL)):
        for task, answers in (("pair", 2), ("group", sizes.answers)):
            used = Sizes(**{**asdict(sizes), "answers": answers})
            for layout in ("tree", "rows"):

                def work(task: str = task, layout: LayoutName = layout, used: Sizes = used, parts: Any = parts) -> Any:
                    model = build(config, clock.device, DTYPE)
                    architecture = architecture_of(model)
                    found = one_step(policy_of(model, parts), random_group(config, used), task, layout, clock)
                    image = config.image_seq_length if config.model_type == "llava" else used.image
                    needed = needed_flops(architecture, used, image, layout, parts is FULL, task == "pair")
                    return {**found, "mfu": needed / found["seconds"] / ceiling, "needed_tflop": needed / 1e12}

                report[f"{task} {mode} {layout}"] = attempt(work)
    return report


def one_step(policy: Policy, group: RenderedGroup, task: str, layout: LayoutName, clock: Clock) -> dict[str, float]:
    """Times one optimisation step. The reference of a pair is the model without its adapter; under full
    fine-tuning its log-probs are computed once before, as ``reference: cache`` does."""
    optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=1e-6, fused=True)
    algorithm: Any = build_algorithm({"name": "dpo", "beta": 0.1})
    batch = batch_of(policy, group, layout)
    cached = None
    if task == "pair" and not policy.has_adapter:
        with torch.no_grad():
            cached = policy(batch).logprobs

    def loss() -> Tensor:
        if task == "group":
            logprobs = policy(policy.encode(batch)).logprobs
            advantage = torch.linspace(-1, 2, batch.num_responses, device=logprobs.device)[batch.response]
            return -(advantage * (logprobs - logprobs.detach()).exp()).mean()
        encoded = policy.encode(batch)
        reference = policy(encoded, reference=True).logprobs if cached is None else cached
        encoded = encoded.with_columns(ref_logprobs=reference)
        terms, _ = algorithm.loss(encoded, policy(encoded), None)
        return sum(term.coefficient * term.values.sum() / encoded.count(term.unit) for term in terms)

    def step() -> None:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return clock.time(step)


def needed_flops(
    model: Architecture, sizes: Sizes, image: int, layout: str, full: bool, adapter_reference: bool
) -> float:
    """Of a step with a frozen tower. The backward pass costs as much as the forward pass, and once more for the
    gradients of the weights where all are trained; a reference by adapter costs another forward pass."""
    work = Work(image=image, question=sizes.question, answers=sizes.answers, length=sizes.length)
    forward = tree_flops(model, work) if layout == "tree" else rows_flops(model, work)
    vision = 2 * model.vision * image * (1 if layout == "tree" else sizes.answers)
    passes = 3 if full else 2 + adapter_reference
    towers = 1 + (adapter_reference and not full and layout == "rows")
    return vision * towers + (forward - vision) * passes


# --- QLoRA ---


def qlora(config: Any, sizes: Sizes, clock: Clock) -> dict[str, Any]:
    """A pair step as ``tree`` on a decoder in 4 bits."""
    pair = Sizes(**{**asdict(sizes), "answers": 2})
    policy = policy_of(quantise(build(config, clock.device, DTYPE), DTYPE), LORA)
    return one_step(policy, random_group(config, pair), "pair", "tree", clock)


# --- the command ---


def stages(config: Any, sizes: Sizes, clock: Clock, ceiling: float) -> dict[str, Callable[[], dict[str, Any]]]:
    return {
        "agreement": lambda: agreement(config, sizes, clock.device),
        "steps": lambda: steps(config, sizes, clock, ceiling),
        "attention": lambda: measure_attention(config, sizes, clock, DTYPE),
        "qlora": lambda: qlora(config, sizes, clock),
    }


def run(options: argparse.Namespace) -> dict[str, Any]:
    clock = Clock(device=options.device, rounds=options.rounds)
    ceiling = clock.ceiling(DTYPE, 256 if options.tiny else 8192)
    report: dict[str, Any] = {"machine": name_of(options.device), "matmul_tflops": ceiling / 1e12, "models": {}}
    report["sizes"] = {"question": options.question, "answers": options.answers, "length": options.length}
    for name in options.models:
        config = CONFIGS[name](options.tiny)
        image = options.image_tokens or (16 if options.tiny else IMAGE_TOKENS[name])
        sizes = Sizes(image=image, question=options.question, answers=options.answers, length=options.length)
        found: dict[str, Any] = {}
        works = stages(config, sizes, clock, ceiling)
        for stage in options.only:
            if stage == "qlora" and find_spec("bitsandbytes") is None:
                found[stage] = {"left_out": "bitsandbytes is not installed (extra: quantize)"}
                continue
            print(f"{name}: {stage}", file=sys.stderr)
            found[stage] = attempt(works[stage])
        report["models"][name] = found
    return report


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, metavar="DIR", help="where gpu.json and gpu.md go")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny models instead of 7B")
    parser.add_argument("--models", nargs="+", choices=sorted(CONFIGS), default=sorted(CONFIGS))
    parser.add_argument("--only", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--rounds", type=int, default=5, help="timed steps (median is reported)")
    parser.add_argument("--answers", type=int, default=8, help="responses of the group")
    parser.add_argument("--length", type=int, default=120, help="tokens of the longest answer")
    parser.add_argument("--question", type=int, default=48, help="tokens of the question")
    parser.add_argument("--image-tokens", type=int, help="of Qwen's picture, about (default: 1,024)")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device was found. Run on a GPU, or try the command with --device cpu --tiny", file=sys.stderr)
        return 2
    if options.device == "cpu" and not options.tiny:
        print("7B models do not run on a CPU in reasonable time. Add --tiny", file=sys.stderr)
        return 2
    report = run(options)
    options.json.mkdir(parents=True, exist_ok=True)
    (options.json / "gpu.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    text = tables(report)
    (options.json / "gpu.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
