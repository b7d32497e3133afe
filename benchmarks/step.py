"""One optimisation step, side by side: Sightline ``tree``, Sightline ``rows`` and TRL's DPOTrainer.

    python -m benchmarks.step                      # pair step, full and LoRA, and a group of 8
    python -m benchmarks.step --shape deep         # a model whose decoder outweighs its head
    python -m benchmarks.step --shape quick        # to see that it runs
    python -m benchmarks.step --json out.json      # also write every figure

Every contender lives in its own process and the parent lets them step in turn, so that a busy machine
slows all of them. Data preparation is left out for all. Memory is the high-water mark of the process
less what it held before the model was loaded: weights, reference, gradients, optimizer, activations.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.shapes import SHAPES, Cost, Shape, build, records

MODES = {"full": ("full", "full", "full"), "lora": ("lora", "frozen", "frozen")}
"""How language, projector and vision are trained."""
BETA, RATE, RANK = 0.1, 1e-6, 16


def high_water_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


# --- contenders: each returns a function that makes one full step ---


def sightline_pair(folder: Path, rows: list[dict[str, Any]], mode: str, layout: str) -> Callable[[], float]:
    """DPO on one pair with the layout asked for; reference = adapter off, or a frozen copy."""
    import torch

    from sightline.algorithms.registry import build_algorithm
    from sightline.types import Edge

    policy, groups = sightline_policy(folder, rows, mode, edges=(Edge(winner=0, loser=1),))
    algorithm = build_algorithm({"name": "dpo", "beta": BETA})
    reference = None if mode == "lora" else policy.reference_copy()
    optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=RATE, fused=True)

    def step() -> float:
        batch = policy.encode(lay_out_one(policy, groups, layout))
        with torch.no_grad():
            scores = reference(batch) if reference is not None else policy(batch, reference=True)
        batch = batch.with_columns(ref_logprobs=scores.logprobs)
        return finish(algorithm, policy, optimizer, batch)

    return step


def sightline_group(folder: Path, rows: list[dict[str, Any]], mode: str, layout: str) -> Callable[[], float]:
    """Policy gradient on one prompt with eight responses and an advantage each; no reference."""
    import torch

    policy, groups = sightline_policy(folder, rows, mode, edges=())
    optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=RATE, fused=True)

    def step() -> float:
        batch = lay_out_one(policy, groups, layout)
        advantage = torch.linspace(-1, 1, batch.num_responses)[batch.response]
        loss = -(advantage * policy(batch).logprobs).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def sightline_policy(folder: Path, rows: list[dict[str, Any]], mode: str, edges: tuple[Any, ...]) -> tuple[Any, Any]:
    from sightline.data.render import Renderer
    from sightline.models.load import load_policy
    from sightline.recipes.schema import LoraSpec, ModelSpec, PartsSpec
    from sightline.types import Group, Prompt, Response

    language, projector, vision = MODES[mode]
    parts = PartsSpec(language=language, projector=projector, vision=vision)  # type: ignore[arg-type]
    policy = load_policy(ModelSpec(path=str(folder), parts=parts, lora=LoraSpec(rank=RANK))).train()
    renderer = Renderer(policy.processor, policy.family)
    row = rows[0]
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": row["question"]}]}
    prompt = Prompt(id="0", messages=(message,), images=(row["image"],))
    responses = tuple(Response(text=text) for text in row["answers"])
    return policy, [renderer.render(Group(prompts=(prompt,), responses=responses, edges=edges))]


def lay_out_one(policy: Any, groups: Any, layout: str) -> Any:
    from sightline.models.layout import lay_out

    return lay_out(groups, layout, policy.family, policy.config)  # type: ignore[arg-type]


def finish(algorithm: Any, policy: Any, optimizer: Any, batch: Any) -> float:
    terms, _ = algorithm.loss(batch, policy(batch), None)
    loss = sum(term.coefficient * term.values.sum() / batch.count(term.unit) for term in terms)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())


def trl_pair(folder: Path, rows: list[dict[str, Any]], mode: str, layout: str) -> Callable[[], float]:
    """The same pair through TRL's DPOTrainer: its collator, its training_step, its reference."""
    import torch
    from datasets import Dataset, Image, Sequence
    from peft import LoraConfig
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from trl import DPOConfig, DPOTrainer

    row = rows[0]
    data = Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": row["question"]}],
                "chosen": [{"role": "assistant", "content": row["answers"][0]}],
                "rejected": [{"role": "assistant", "content": row["answers"][1]}],
                "images": [row["image"]],
            }
        ]
    ).cast_column("images", Sequence(Image()))
    config = DPOConfig(
        output_dir=str(folder / "trl"), per_device_train_batch_size=1, max_length=None, beta=BETA, learning_rate=RATE,
        use_cpu=True, bf16=False, gradient_checkpointing=False, report_to=[], max_steps=10**6,
    )  # fmt: skip
    targets = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    lora = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=targets) if mode == "lora" else None
    trainer = DPOTrainer(
        model=AutoModelForImageTextToText.from_pretrained(folder), args=config, train_dataset=data, peft_config=lora,
        processing_class=AutoProcessor.from_pretrained(folder),
    )  # fmt: skip
    optimizer = torch.optim.AdamW([p for p in trainer.model.parameters() if p.requires_grad], lr=RATE, fused=True)
    inputs = next(iter(trainer.get_train_dataloader()))
    trainer.current_gradient_accumulation_steps = 1

    def step() -> float:
        trainer.model.train()
        loss = trainer.training_step(trainer.model, dict(inputs))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss)

    return step


BUILDERS = {"pair": sightline_pair, "group": sightline_group, "trl": trl_pair}


# --- measuring ---


def serve(connection: Any, kind: str, folder: str, rows: list[dict[str, Any]], mode: str, layout: str) -> None:
    """A contender's process: builds, then answers ``step`` and ``flops`` until told to stop."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    import sightline.models  # noqa: F401

    torch.set_num_threads(int(os.environ.get("BENCH_THREADS", "1")))
    before = resident_mb()
    step = BUILDERS[kind](Path(folder), rows, mode, layout)
    loss = step()
    connection.send({"loss": loss})
    while (order := connection.recv()) != "stop":
        if order == "flops":
            with FlopCounterMode(display=False) as counter:
                step()
            connection.send({"gflops": counter.get_total_flops() / 1e9})
            continue
        wall, cpu = time.perf_counter(), time.process_time()
        step()
        connection.send(
            {
                "wall": time.perf_counter() - wall,
                "cpu": time.process_time() - cpu,
                "memory": high_water_mb() - before,
            }
        )


def compare(folder: Path, shape: Shape, mode: str, contenders: dict[str, tuple[str, str]], rounds: int, answers: int):
    """Figures of each contender, stepping in turn."""
    context = get_context("spawn")
    rows = records(folder, shape, answers=answers, count=1)
    ends, processes = {}, []
    for name, (kind, layout) in contenders.items():
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs, kind, str(folder), rows, mode, layout))
        process.start()
        theirs.close()  # so that a contender that dies ends the wait for it
        processes.append(process)
        ends[name] = ours
    results: dict[str, dict[str, float]] = {name: dict(end.recv()) for name, end in ends.items()}
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in ends}
    for _ in range(rounds):
        for name, end in ends.items():
            end.send("step")
            samples[name].append(end.recv())
    for name, end in ends.items():
        for figure in ("wall", "cpu"):
            results[name][figure] = statistics.median(sample[figure] for sample in samples[name])
        results[name]["memory"] = max(sample["memory"] for sample in samples[name])
        end.send("flops")
        results[name].update(end.recv())
        end.send("stop")
    for process in processes:
        process.join()
    return results


def show(title: str, results: dict[str, dict[str, float]], best: str) -> dict[str, Any]:
    """Prints a table with the ratios of every contender to ``best``."""
    print(f"\n{title}")
    print(f"{'':12}{'wall s':>9}{'cpu s':>9}{'GFLOP':>9}{'MB':>8}   ratio to {best}: wall, cpu, FLOP, memory of {best}")
    ratios: dict[str, Any] = {}
    for name, row in results.items():
        own = results[best]
        ratios[name] = {key: row[key] / own[key] for key in ("wall", "cpu", "gflops")}
        ratios[name]["memory"] = own["memory"] / row["memory"]
        r = ratios[name]
        print(
            f"{name:12}{row['wall']:9.3f}{row['cpu']:9.3f}{row['gflops']:9.1f}{row['memory']:8.0f}"
            f"   {r['wall']:.2f}x {r['cpu']:.2f}x {r['gflops']:.2f}x {r['memory']:.2f}   loss {row['loss']:.6f}"
        )
    return {"figures": results, "ratios": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="timed steps of each contender (median is reported)")
    parser.add_argument("--shape", choices=SHAPES, default="small", help="sizes of the model")
    parser.add_argument("--without-trl", action="store_true", help="leave the rival out (needs no bench extra)")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    arguments = parser.parse_args()
    shape = SHAPES[arguments.shape]
    report: dict[str, Any] = {"shape": asdict(shape), "machine": machine(), "rounds": arguments.rounds}
    print(f"{arguments.shape}: {shape}")
    with tempfile.TemporaryDirectory() as name:
        folder = build(Path(name), shape)
        pair = {"tree": ("pair", "tree"), "rows": ("pair", "rows")}
        if not arguments.without_trl:
            pair["TRL"] = ("trl", "")
        for mode in MODES:
            results = compare(folder, shape, mode, pair, arguments.rounds, answers=2)
            report[f"pair_{mode}"] = show(f"DPO step on one pair, {mode}", results, "tree")
        group = {"tree": ("group", "tree"), "rows": ("group", "rows")}
        results = compare(folder, shape, "full", group, max(3, arguments.rounds // 2), answers=8)
        report["group_of_8"] = show("Policy-gradient step on a group of 8, full", results, "tree")
    print("\nOn paper for LLaVA-1.5-7B, full fine-tuning: rows (head everywhere), rows, over tree")
    for cost in (Cost(), Cost(answers=8), Cost(image=2880), Cost(image=2880, answers=8), Cost(answer=400)):
        everywhere, scored = cost.rows(head_everywhere=True) / cost.tree(), cost.rows() / cost.tree()
        print(f"  {cost.image} image tokens, {cost.answers} answers of {cost.answer}: {everywhere:.2f}x {scored:.2f}x")
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


def machine() -> dict[str, str]:
    import torch
    import transformers

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cores": str(os.cpu_count()),
        "threads": os.environ.get("BENCH_THREADS", "1"),
    }


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
