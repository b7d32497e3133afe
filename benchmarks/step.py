"""One optimisation step, side by side: Sightline's layouts, TRL's trainers, and a plain loop on transformers.

    python -m benchmarks.step                      # pair step, full and LoRA, and a group of 8
    python -m benchmarks.step --shape deep         # a model whose decoder outweighs its head (20 GB of memory)
    python -m benchmarks.step --shape deep --only group --against TRL      # fewer at a time, in less memory
    python -m benchmarks.step --shape quick        # to see that it runs
    python -m benchmarks.step --json out.json      # also write every figure

Every contender lives in its own process and the parent lets them step in turn, so that a busy machine
slows all of them. Data preparation is left out for all. Memory is the high-water mark of the process
less what it held before the model was loaded: weights, reference, gradients, optimizer, activations.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
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

from benchmarks.contenders import BUILDERS, MODES, import_libraries
from benchmarks.shapes import SHAPES, Shape, build, records


def high_water_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def flops(step: Callable[[], Any]) -> int:
    """By torch's counter, with the operations it does not know: attention on a CPU (counted as if no entry was
    masked, as it counts attention elsewhere) and sums of products in place."""
    import torch
    from torch.utils import flop_counter

    def product(_total: Any, left: Any, right: Any, *_: Any, **__: Any) -> int:
        return flop_counter.mm_flop(left, right)

    def forward(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return flop_counter.sdpa_flop_count(query, key, value)

    def backward(grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return flop_counter.sdpa_backward_flop_count(grad, query, key, value)

    aten = torch.ops.aten
    unknown = {
        aten.addmm_: product,
        aten._scaled_dot_product_flash_attention_for_cpu: forward,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }
    with flop_counter.FlopCounterMode(display=False, custom_mapping=unknown) as counter:
        step()
    return counter.get_total_flops()


def serve(connection: Any, kind: str, folder: str, row: dict[str, Any], mode: str, layout: str) -> None:
    """A contender's process: builds, then answers ``step`` and ``flops`` until told to stop."""
    import torch

    torch.set_num_threads(int(os.environ.get("BENCH_THREADS", "1")))
    torch.manual_seed(0)
    import_libraries(kind)
    before = resident_mb()
    contender = BUILDERS[kind](Path(folder), row, mode, layout)
    loss = contender.gradients()
    connection.send({"loss": loss, "gradient": contender.gradient_norm()})
    contender.update()
    while (order := connection.recv()) != "stop":
        if order == "flops":
            connection.send({"gflops": flops(contender.step) / 1e9})
            continue
        wall, cpu = time.perf_counter(), time.process_time()
        contender.step()
        connection.send(
            {
                "wall": time.perf_counter() - wall,
                "cpu": time.process_time() - cpu,
                "memory": high_water_mb() - before,
            }
        )


Contenders = dict[str, tuple[str, str]]
"""Builder and layout of each, by name."""


def compare(folder: Path, shape: Shape, mode: str, contenders: Contenders, rounds: int, answers: int) -> dict[str, Any]:
    """Figures of each contender, stepping in turn: medians over the rounds."""
    context = get_context("spawn")
    (row,) = records(folder, shape, answers=answers, count=1)
    ends, processes = {}, []
    for name, (kind, layout) in contenders.items():
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs, kind, str(folder), row, mode, layout))
        process.start()
        theirs.close()  # so that a contender that dies ends the wait for it
        processes.append(process)
        ends[name] = ours
    results: dict[str, dict[str, Any]] = {name: dict(end.recv()) for name, end in ends.items()}
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in ends}
    for _ in range(rounds):
        for name, end in ends.items():
            end.send("step")
            samples[name].append(end.recv())
    for name, end in ends.items():
        for figure in ("wall", "cpu"):
            results[name][figure] = statistics.median(sample[figure] for sample in samples[name])
        results[name]["cpu_samples"] = [sample["cpu"] for sample in samples[name]]
        results[name]["memory"] = max(sample["memory"] for sample in samples[name])
        end.send("flops")
        results[name].update(end.recv())
        end.send("stop")
    for process in processes:
        process.join()
    return results


def show(title: str, results: dict[str, dict[str, Any]], best: str) -> dict[str, Any]:
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
            f"   {r['wall']:.2f}x {r['cpu']:.2f}x {r['gflops']:.2f}x {r['memory']:.2f}"
            f"   loss {row['loss']:.6f} gradient {row['gradient']:.5f}"
        )
    return {"figures": results, "ratios": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each contender (median is reported)")
    parser.add_argument("--shape", choices=SHAPES, default="small", help="sizes of the model")
    parser.add_argument("--only", choices=("pair", "group"), help="leave the other out")
    parser.add_argument("--answers", type=int, default=8, help="responses of the group")
    rivals = ("rows", "plain", "TRL")
    parser.add_argument(
        "--against", nargs="+", choices=rivals, default=rivals, help="who steps beside tree (TRL: the bench extra)"
    )
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    arguments = parser.parse_args()
    shape, n = SHAPES[arguments.shape], arguments.answers
    report: dict[str, Any] = {"shape": asdict(shape), "machine": machine(), "rounds": arguments.rounds}
    print(f"{arguments.shape}: {shape}")
    pair: Contenders = {"tree": ("pair", "tree"), "rows": ("pair", "rows"), "TRL": ("trl pair", "")}
    group: Contenders = {
        "tree": ("group", "tree"), "rows": ("group", "rows"), "plain": ("plain group", ""), "TRL": ("trl group", ""),
    }  # fmt: skip
    pair, group = (
        {name: one for name, one in some.items() if name in ("tree", *arguments.against)} for some in (pair, group)
    )
    with tempfile.TemporaryDirectory() as name:
        folder = build(Path(name), shape)
        for mode in MODES if arguments.only != "group" else ():
            results = compare(folder, shape, mode, pair, arguments.rounds, answers=2)
            report[f"pair_{mode}"] = show(f"DPO step on one pair, {mode}", results, "tree")
        if arguments.only != "pair":
            results = compare(folder, shape, "full", group, arguments.rounds, answers=n)
            report[f"group_of_{n}"] = show(f"Policy-gradient step on a group of {n}, full", results, "tree")
    report["machine"]["load_after"] = [round(load, 2) for load in os.getloadavg()]
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


def machine() -> dict[str, Any]:
    import torch
    import transformers

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "trl": importlib.metadata.version("trl") if importlib.util.find_spec("trl") else None,
        "cores": str(os.cpu_count()),
        "threads": os.environ.get("BENCH_THREADS", "1"),
        "load_before": [round(load, 2) for load in os.getloadavg()],
    }


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
