"""What ``benchmarks.gpu`` measured: a line as it comes, markdown tables, and the ratios to TRL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Jobs = Mapping[str, Mapping[str, Any]]
"""Figures of a stage's jobs, by name."""


def ratios(steps: Jobs) -> dict[str, dict[str, dict[str, float]]]:
    """Of every contender to each of TRL at the same model and task: times faster, and its share of the memory."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, own in steps.items():
        what, contender = name.rsplit(" ", 1)
        if contender.startswith("trl") or "seconds" not in own:
            continue
        for rival, theirs in steps.items():
            if not rival.startswith(f"{what} trl") or "seconds" not in theirs:
                continue
            ratio = {"faster": theirs["seconds"] / own["seconds"]}
            if theirs["peak_mb"]:
                ratio["memory"] = own["peak_mb"] / theirs["peak_mb"]
            found.setdefault(name, {})[rival.rsplit(" ", 1)[1]] = ratio
    return found


# --- a line for every figure ---


def line_of(stage: str, figures: Mapping[str, Any]) -> str:
    """What is worth printing of figures that may be incomplete."""
    state = figures.get("state", "")
    parts = {"gradients": _gradients_line, "attention": _attention_line, "steps": _steps_line, "qlora": _steps_line}
    return f"{parts[stage](figures)}{state}" if stage in parts else state


def _gradients_line(figures: Mapping[str, Any]) -> str:
    if figures.get("state") == "running":
        return ""  # one line at the end: there are hundreds of trees
    return f"{figures['trees']} trees, {figures['failed']} wrong; " if "trees" in figures else ""


def _attention_line(figures: Mapping[str, Any]) -> str:
    done = figures.get("cases", {})
    if not done:
        return ""
    name, row = list(done.items())[-1]
    return f"{name}: {row['new_ms']:.2f} ms new, {row['repeated_ms']:.2f} repeated; "


def _steps_line(figures: Mapping[str, Any]) -> str:
    if "seconds" not in figures:
        return "".join(f"{second:.2f} " for second in figures.get("warm_up", ()))
    return (
        f"{figures['seconds']:.3f} s ({figures['least']:.3f}), {figures['peak_mb'] / 1024:.1f} GB, "
        f"{len(figures['new'])} draws; "
    )


# --- tables ---


def tables(report: Mapping[str, Any]) -> str:
    """Markdown of all that was measured so far."""
    stages = report["stages"]
    lines = _machine(stages.get("machine", {}).get("machine", {}), report.get("settings", {}))
    parts = {
        "gradients": _gradients,
        "attention": _attention,
        "profile": _profile,
        "agreement": _agreement,
        "qlora": _qlora,
    }
    for stage, jobs in stages.items():
        if stage == "steps":
            lines += ["", "**steps**", "", *_steps(jobs, report)]
        elif stage in parts:
            lines += ["", f"**{stage}**", "", *parts[stage](jobs)]
    return "\n".join(lines) + "\n"


def _machine(machine: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    if "gpu" not in machine:
        return [f"machine: {machine.get('state', 'not looked at')}"]
    speed = f"; matrix product {machine['matmul_tflops']:.3g} TFLOP/s" if "matmul_tflops" in machine else ""
    least, most = settings.get("lengths", ("?", "?"))
    return [
        f"{machine['gpu']}, torch {machine['torch']}, CUDA {machine['cuda']}, transformers {machine['transformers']}, "
        f"bf16{speed}; {settings.get('groups')} prompts per micro-batch, answers of {least} to {most} tokens, new in "
        f"every step."
    ]


def _table(head: str, rows: list[str]) -> list[str]:
    return [head, "|" + "---|" * (head.count("|") - 1), *rows]


def _gradients(jobs: Jobs) -> list[str]:
    rows = []
    for form, found in jobs.items():
        if "trees" not in found:
            rows.append(f"| {form} | {found['state']} | | | | |")
        for kind, worst in found.get("worst", {}).items():
            rows.append(
                f"| {form} | {kind} | {found['trees']} ({found['windows']}) | {found['failed']} | "
                f"{worst['output']:.1e} | {worst['query']:.1e} {worst['key']:.1e} {worst['value']:.1e} |"
            )
    head = "| form | inputs | trees (with windows) | wrong | largest error: output | of query, key, value |"
    return _table(head, rows)


def _attention(jobs: Jobs) -> list[str]:
    measured = {form: found["cases"] for form, found in jobs.items() if "cases" in found}
    cases = list(dict.fromkeys(case for found in measured.values() for case in found))
    rows = []
    for case in cases:
        cells = []
        for found in measured.values():
            row = found.get(case)
            cells.append(
                f"{row['repeated_ms']:.2f}, {row['new_ms']:.2f}, {row['plan_ms']:.2f}, {row['peak_mb']:.0f}"
                if row
                else ""
            )
        rows.append(f"| {case} | {' | '.join(cells)} |")
    named = " | ".join(f"{form}: repeated, new, plan ms, MB" for form in measured)
    left = [f"{form}: {found['state']}" for form, found in jobs.items() if "cases" not in found]
    head = f"| heads, key heads; groups x (trunk, branches) | {named} |"
    return [*(_table(head, rows) if rows else []), *(["", *left] if left else [])]


def _steps(jobs: Jobs, report: Mapping[str, Any]) -> list[str]:
    rows = []
    machine = report["stages"].get("machine", {}).get("machine", {})
    for name, found in jobs.items():
        if "seconds" not in found:
            rows.append(f"| {name} | {found['state']} | | | | | | |")
            continue
        shown = [f"{found['seconds']:.3f} ({found['least']:.3f})", f"{found.get('new_to_repeated', 1):.2f}"]
        shown += [f"{found['peak_mb'] / 1024:.1f}", f"{found['host']:.3f}", f"{found.get('tokens', 0):,.0f}"]
        shown += [_mfu(found, machine), _against(report.get("ratios", {}).get(name, {}))]
        rows.append(f"| {name} | {' | '.join(shown)} |")
    head = "| step | s (least) | new / repeated | GB | host s | tokens | MFU: measured, datasheet | faster, memory |"
    return _table(head, rows)


def _mfu(found: Mapping[str, Any], machine: Mapping[str, Any]) -> str:
    """Share of the measured matrix product, and of the datasheet's where it is known."""
    if "tflops" not in found:
        return found["state"]
    against = [machine.get("matmul_tflops"), machine.get("datasheet_tflops")]
    return " ".join(f"{found['tflops'] / ceiling:.0%}" for ceiling in against if ceiling)


def _against(rivals: Mapping[str, Mapping[str, float]]) -> str:
    return ", ".join(
        f"{name} {ratio['faster']:.2f}x" + (f" {ratio['memory']:.2f}" if "memory" in ratio else "")
        for name, ratio in rivals.items()
    )


def _profile(jobs: Jobs) -> list[str]:
    lines: list[str] = []
    for name, found in jobs.items():
        if "kinds" not in found:
            lines += [f"{name}: {found['state']}", ""]
            continue
        wall = found["wall"]
        lines += [
            f"{name}: {1e3 * wall:.0f} ms, of which kernels {1e3 * found['kernels']:.0f} ({found['count']:,} of them), "
            f"gaps {1e3 * found['gaps']:.0f}; the program took {1e3 * found['host']:.0f} ms to launch it.",
            "",
            *_table(
                "| kind | ms | share of the step |",
                [f"| {kind} | {1e3 * part:.1f} | {part / wall:.0%} |" for kind, part in found["kinds"].items()],
            ),
            "",
        ]
    return lines[:-1]


def _agreement(jobs: Jobs) -> list[str]:
    rows = []
    for model, found in jobs.items():
        for layout, row in found.get("layouts", {}).items():
            shown = " | ".join(f"{row[key]:.4f}" for key in ("mean", "max", "max_to_rows", "gradient"))
            rows.append(f"| {model} | {layout} | {shown} |")
        if "layouts" not in found:
            rows.append(f"| {model} | {found['state']} | | | | |")
    return _table("| bf16 against float32 | layout | mean | max | max to `rows` | gradient, relative |", rows)


def _qlora(jobs: Jobs) -> list[str]:
    return [
        f"{name}, pair step as `tree`, 4 bits: {found['seconds']:.3f} s, {found['peak_mb'] / 1024:.1f} GB"
        if "seconds" in found
        else f"{name}: {found['state']}"
        for name, found in jobs.items()
    ]
