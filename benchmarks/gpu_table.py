"""Markdown tables of what ``benchmarks.gpu`` measured."""

from __future__ import annotations

from typing import Any


def tables(report: dict[str, Any]) -> str:
    machine, sizes = report["machine"], report["sizes"]
    lines = [
        f"{machine['gpu']}, torch {machine['torch']}, CUDA {machine['cuda']}, bf16; matrix product "
        f"{report['matmul_tflops']:.3g} TFLOP/s; questions of {sizes['question']} tokens, {sizes['answers']} answers "
        f"of up to {sizes['length']} tokens.",
    ]
    parts = {"agreement": agreement, "steps": steps, "attention": attention, "qlora": qlora}
    for model, stages in report["models"].items():
        for stage, found in stages.items():
            lines += ["", f"**{model}, {stage}**", ""]
            lines += [left_out(found)] if "left_out" in found or "out_of_memory" in found else parts[stage](found)
    return "\n".join(lines) + "\n"


def left_out(found: dict[str, Any]) -> str:
    return str(found.get("left_out", "out of memory"))


def agreement(found: dict[str, Any]) -> list[str]:
    lines = [
        f"Against float32 (mean log-prob {found['logprob_mean']:.2f}, {found['tokens']} tokens):",
        "",
        "| layout | mean | max | max to `rows` | gradient, relative |",
        "|---|---|---|---|---|",
    ]
    for layout in ("rows", "packed", "tree"):
        row = found[layout]
        lines.append(
            f"| {layout} | {row['mean']:.4f} | {row['max']:.4f} | {row['max_to_rows']:.4f} | {row['gradient']:.4f} |"
        )
    return lines


def steps(found: dict[str, Any]) -> list[str]:
    lines = ["| step | seconds | peak MB | MFU | rows / tree: time, memory |", "|---|---|---|---|---|"]
    for name, row in found.items():
        if "out_of_memory" in row:
            lines.append(f"| {name} | out of memory | | | |")
            continue
        other = found.get(name.replace("tree", "rows"), {})
        ratio = ""
        if name.endswith("tree") and "seconds" in other:
            ratio = f"{other['seconds'] / row['seconds']:.2f}x"
            ratio += f" {other['peak_mb'] / row['peak_mb']:.2f}x" if row["peak_mb"] else ""
        lines.append(f"| {name} | {row['seconds']:.3f} | {row['peak_mb']:.0f} | {row['mfu']:.0%} | {ratio} |")
    return lines


def attention(found: dict[str, Any]) -> list[str]:
    query, key, size = found["heads"]
    lines = [
        f"One layer, {found['tokens']} tokens, {query} heads ({key} of keys) of {size}; errors against float64:",
        "",
        "| form | forward ms | both ms | peak MB | error of output | of gradients |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in found.items():
        if name in ("tokens", "heads"):
            continue
        both = f"{row['both_ms']:.2f} | {row['peak_mb']:.0f}" if "both_ms" in row else "no backward pass |"
        gradient = f"{row['gradient_error']:.1e}" if "gradient_error" in row else ""
        lines.append(f"| {name} | {row['forward_ms']:.2f} | {both} | {row['output_error']:.1e} | {gradient} |")
    return lines


def qlora(found: dict[str, Any]) -> list[str]:
    return [f"Pair step as `tree`, 4 bits: {found['seconds']:.3f} s, {found['peak_mb']:.0f} MB"]
