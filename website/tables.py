"""Tables of figures on the pages, each from a committed JSON file under ``benchmarks/results``.

A page marks their place, ``<!-- table: NAME ARGUMENTS -->`` to ``<!-- end -->``; ``python -m website.tables`` fills all
places anew, and a test holds pages to it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import arithmetic
from sightline.evaluation.statistics import Interval
from sightline.files import replace_file
from sightline.report.league import SIGNS, Standing, markdown_table
from sightline.report.table import measured, number
from website.agents import budgets, commands, imports, layout, make_targets
from website.papers import papers

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"
PLACE = re.compile(r"(?<=<!-- table: )([\w ]+)( -->\n)(.*?)(?=<!-- end -->)", re.DOTALL)
LEAGUES = ("offline", "online", "loops")


def pages() -> list[Path]:
    """All pages that may hold tables."""
    return [ROOT / "README.md", ROOT / "AGENTS.md", *sorted((ROOT / "docs").rglob("*.md"))]


def filled(text: str) -> str:
    """A page with its tables made anew."""

    def table(match: re.Match[str]) -> str:
        name, *arguments = match[1].split()
        return match[1] + match[2] + TABLES[name](*arguments)

    return PLACE.sub(table, text)


def read(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def rows_of(titles: Sequence[str], rows: Iterable[Sequence[Any]], *, words: int = 1) -> str:
    """A table whose first ``words`` columns are left-aligned, figures to the right."""
    head = "| " + " | ".join(titles) + " |\n|" + "---|" * words + "---:|" * (len(titles) - words) + "\n"
    return head + "".join("| " + " | ".join(map(str, row)) + " |\n" for row in rows)


# --- leagues ----------------------------------------------------------------------------------


def standings(kind: str) -> tuple[Standing, ...]:
    """One league of ``league.json``, which has what ``sightline compare`` writes as far as it was kept."""

    def intervals(found: Mapping[str, Any]) -> dict[str, Interval]:
        return {name: Interval(**value) for name, value in found.items()}

    def single(value: float) -> Interval:
        return Interval(value=value, low=value, high=value)

    return tuple(
        Standing(
            name=row["name"],
            seeds=tuple(row["seeds"]),
            values=intervals(row["values"]),
            by_seed={},
            changes=intervals(row["changes"]),
            learning_rate=0.0,
            seconds=single(0.0),
            cpu_seconds=single(row.get("cpu_seconds", 0.0)),
            steps=row.get("steps", 0),
            answers=single(row.get("answers", 0)),
        )
        for row in read("league")[kind]["standings"]
    )


def league(kind: str) -> str:
    return markdown_table(standings(kind))


def standing(*names: str) -> str:
    """What some methods reached, beside the base of their league."""
    lines = []
    for kind in LEAGUES:
        base, *others = standings(kind)
        chosen = [one for one in others if one.name in names]
        for one in [base, *chosen] if chosen else []:
            changes = [measured(one.changes[name], "percent", signed=True) if one.changes else "" for name in _CLEAR]
            figures = [number(one.values[name].value, "percent") for name in _CLEAR]
            name = f"`{one.name}`" if one.changes else f"**{one.name}**, {kind}"
            lines.append([name, *figures, *changes, f"{SIGNS[one.verdict]} {one.verdict}".strip()])
    made = rows_of(["league", "Hal %", "Cover %", "Δ Hal", "Δ Cover", "verdict"], lines)
    return made.replace("---:|\n", "---|\n")


_CLEAR = ("hal", "cover")


def two_settings() -> str:
    titles = ["method", "first settings", "Hal %", "Δ Cover", "settings here", "Hal %", "Δ Cover"]
    rows = (
        [f"`{one['method']}`", *(cell for part in ("first", "here") for cell in _setting(one[part]))]
        for one in read("league")["two_settings"]
    )
    return rows_of(titles, rows).replace("---|---:|---:|---:|---:|---:|---:|", "---|---|---:|---:|---|---:|---:|")


def _setting(found: Mapping[str, Any]) -> tuple[str, str, str]:
    return found["settings"], number(found["hal"], "number"), number(found["cover_change"], "number", signed=True)


def cover_by_seed() -> str:
    rows = (
        [f"`{name}`", *(number(value, "number", signed=True) for value in values)]
        for name, values in read("league")["online_cover_by_seed"].items()
    )
    return rows_of(["method", "seed 0", "seed 1", "seed 2"], rows)


# --- speed ------------------------------------------------------------------------------------

_STEPS = {
    "pair_full": "pair, full",
    "pair_lora": "pair, LoRA, frozen tower",
    "group_of_8": "group of 8, full",
    "group_of_16": "group of 16, full",
}


def step(*files: str) -> str:
    """An optimisation step. A file that measures a step that came before is ``again``."""
    lines, seen = [], set()
    for file in files:
        for key, found in read(file).items():
            if key not in _STEPS:
                continue
            label = _STEPS[key] + (", again" if key in seen else "")
            seen.add(key)
            lines += _contenders(label, found)
    titles = ["step", "", "CPU s", "GFLOP", "MB", "against `tree`: CPU, FLOP", "memory of `tree`"]
    return rows_of(titles, lines, words=2)


def _contenders(label: str, found: Mapping[str, Any]) -> Iterable[list[str]]:
    for name, figures in found["figures"].items():
        ratios = found["ratios"][name]
        against = [f"{ratios['cpu']:.1f}x {ratios['gflops']:.1f}x", f"{ratios['memory']:.2f}"]
        shown = f"`{name}`" if name in ("tree", "rows") else name
        costs = [f"{figures['cpu']:.2f}", f"{figures['gflops']:.0f}", f"{figures['memory']:.0f}"]
        yield [label, shown, *costs, *(against if name != "tree" else ["", ""])]
        label = ""


def gpu_steps() -> str:
    lines = []
    for file, label, own, other, named in (
        ("gpu_h100_pair", "4 pairs", "llava pair tree+compile", "llava pair trl", "TRL DPOTrainer"),
        (
            "gpu_h100_group",
            "4 groups of 8",
            "llava group tree+compile",
            "llava group trl+checkpointing",
            "TRL GRPOTrainer, checkpointing",
        ),
    ):
        stages = read(file)["stages"]
        machine, steps = stages["machine"]["machine"], stages["steps"]
        faster = f"{steps[other]['seconds'] / steps[own]['seconds']:.1f}x"
        less = f"{steps[own]['peak_mb'] / steps[other]['peak_mb']:.2f}"
        lines.append([label, "`tree`, compiled", *_gpu_step(steps[own], machine), f"{faster} {less}"])
        lines.append(["", named, *_gpu_step(steps[other], machine), ""])
    titles = ["step", "", "s (least)", "new lengths / same again", "GB"]
    mfu = "MFU: of a measured product, of the datasheet"
    return rows_of([*titles, mfu, "faster than TRL, memory"], lines, words=2)


def _gpu_step(found: Mapping[str, Any], machine: Mapping[str, Any]) -> list[str]:
    shares = [found["tflops"] / machine[name] for name in ("matmul_tflops", "datasheet_tflops")]
    return [
        f"{found['seconds']:.3f} ({found['least']:.3f})",
        f"{found['new_to_repeated']:.2f}",
        f"{found['peak_mb'] / 1024:.1f}",
        " ".join(f"{100 * share:.0f} %" for share in shares),
    ]


def gpu_attention() -> str:
    gathered = {name: stage["cases"] for name, stage in read("gpu_h100_attention")["stages"]["attention"].items()}
    segments = read("gpu_h100")["stages"]["attention"]["segments"]["cases"]
    lines = []
    for case, by_segments in segments.items():
        gather, merge = gathered["gather"][case], gathered["merge"][case]
        times = [f"{one['repeated_ms']:.2f}" for one in (by_segments, gather, merge)]
        lines.append([case, *times, f"{gather['peak_mb']:.0f}, {merge['peak_mb']:.0f}"])
    titles = ["heads, key heads; groups x (trunk, branches)", "segments", "gather", "merge", "MB: gather, merge"]
    return rows_of(titles, lines)


def starts() -> str:
    lines = []
    for name, found in read("data")["starts"].items():
        rows, start = name.split()
        figures = [f"{found[key]:.0f}" for key in ("wall", "cpu", "memory", "largest")]
        lines.append([f"{found['groups']:,} {rows}", start, *figures])
    return rows_of(["rows", "start", "s", "CPU s", "MB, all processes", "MB, largest process"], lines, words=2)


def stages() -> str:
    lines = []
    for label, file, decimals in (
        ("2 rounds, 12 steps", "stages", 1),
        ("none, 8 steps", "stages_on_policy", 2),
    ):
        found = read(file)
        where = f"[results](../benchmarks/results/{file}.json)"
        seconds = [f"{found[part]['seconds']:.1f} s" for part in ("turns", "overlap")]
        lines.append([f"{label} ({where})", *seconds, f"{found['ratio']:.{decimals}f}x"])
    return rows_of(["sampled ahead", "in turn", "overlapped", "ratio"], lines)


def rollouts() -> str:
    found = read("rollouts")
    sizes = [key for key in found if key.isdigit()]
    lines = [
        [size, f"{found[size]['engine']:.0f}", f"{found[size]['generate']:.0f}", f"{found[size]['ratio']:.1f}x"]
        for size in sizes
    ]
    return rows_of(["prompts per batch", "engine", "generate", "ratio"], lines)


def refill() -> str:
    found, lines = read("rollouts_refill"), []
    for answers in ("1", "8"):
        one = found[f"refill_{answers}"]
        steps = [f"{one[part]['steps']:.0f}" for part in ("refilled", "batches")]
        lines.append([answers, *steps, f"{one['ratio']['steps']:.1f}x", f"{one['ratio']['seconds']:.2f}"])
    titles = ["answers per prompt", "steps refilled", "steps in batches", "steps saved"]
    return rows_of([*titles, "CPU time, batches / refilled"], lines)


_SEARCHES = {
    "search": "picture and prompt once, each sentence once, prompts together",
    "alone": "the same, prompt by prompt",
    "nodes": "picture and prefix once for each node, its groups branch from there",
    "rows": "as the release: node by node, every group encodes the whole prefix (the vision tower once)",
}


def sentence_search() -> str:
    found = read("sentence_search")
    lines = [
        [
            f"`{name}`",
            what,
            f"{found['seconds'][name]:.1f}",
            f"{found['ratio'][name]:.1f}x" if name != "search" else "",
        ]
        for name, what in _SEARCHES.items()
    ]
    return rows_of(["", "", "CPU s", "against the search"], lines, words=2)


def evaluation() -> str:
    found = read("evaluation")
    lines = [
        [str(length), *(f"{found[str(length)][name]:.1f}" for name in ("harness", "generate")), _times(found, length)]
        for length in found["lengths"]
    ]
    return rows_of(["tokens of an answer", "harness, questions/s", "generate", "ratio"], lines)


def _times(found: Mapping[str, Any], length: int) -> str:
    return f"{found[str(length)]['ratio']:.1f}x"


# --- the built-in world -----------------------------------------------------------------------


def demo() -> str:
    lines = [
        [seed, *(f"{before} -> {after} %" for before, after in found.values())]
        for seed, found in read("worlds")["demo"].items()
    ]
    return rows_of(["seed", "Hal", "CHAIR", "Cover", "yes/no accuracy"], lines)


def world(name: str) -> str:
    """A table of ``worlds.json`` as it stands; a list in it is of several seeds."""
    found = read("worlds")[name]
    lines = [[_seeds(cell, found["unit"]) for cell in row] for row in found["rows"]]
    return rows_of(found["columns"], lines, words=sum(isinstance(cell, str) for cell in found["rows"][0]))


def _seeds(cell: Any, unit: str) -> str:
    if isinstance(cell, str):
        return cell
    return ", ".join(f"{value}{unit}" for value in (cell if isinstance(cell, list) else [cell]))


# --- what the code has -------------------------------------------------------------------------

_EXTRAS = {
    "wandb": "Weights & Biases as a tracker",
    "trackio": "Trackio as a tracker",
    "quantize": "decoders in 4 or 8 bits, optimizers in 8 bits",
    "bench": "TRL, to measure against",
    "nouns": "nouns of answers as AMBER and CHAIR find them",
    "serve": "`sightline serve`",
    "smolvlm": "the processor of SmolVLM",
    "diffusion": "pictures painted in this process",
    "recurrence": "trees through linear attention (Qwen3.5)",
    "ray": "sampling and rewards on other machines",
    "app": "`sightline app`",
    "compressed": "GPTQ and AWQ exports, read by transformers",
    "docs": "this site",
    "dev": "all that the tests ask for",
}
"""Extra of ``pyproject.toml`` to what it is for."""


def extras() -> str:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = re.search(r"^\[project\.optional-dependencies\]\n(.*?)^\[", text, re.MULTILINE | re.DOTALL)
    found = re.findall(r"^(\w+) = \[(.*?)\]\n", section[1] if section else "", re.MULTILINE | re.DOTALL)
    packages = {name: ", ".join(re.findall(r'"([\w-]+)', listed)) for name, listed in found}
    return rows_of(["extra", "for"], [[f"`{name}`", _EXTRAS.get(name, packages[name])] for name in packages], words=2)


TABLES: Mapping[str, Callable[..., str]] = {
    "league": league,
    "standing": standing,
    "two_settings": two_settings,
    "cover_by_seed": cover_by_seed,
    "step": step,
    "gpu_steps": gpu_steps,
    "gpu_attention": gpu_attention,
    "starts": starts,
    "stages": stages,
    "rollouts": rollouts,
    "refill": refill,
    "sentence_search": sentence_search,
    "evaluation": evaluation,
    "arithmetic": arithmetic.table,
    "demo": demo,
    "world": world,
    "extras": extras,
    "papers": papers,
    "commands": commands,
    "make_targets": make_targets,
    "layout": layout,
    "budgets": budgets,
    "imports": imports,
}
"""Name to what makes it."""

if __name__ == "__main__":
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if (anew := filled(text)) != text:
            replace_file(page, anew)
