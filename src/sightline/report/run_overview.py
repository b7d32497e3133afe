"""What stands above the curves of a run: what was trained on what, for how long, and what it said before and after."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import yaml

from sightline.data.schema import read_groups
from sightline.errors import DataError
from sightline.evaluation.results import RESULTS, Measured, read_measured
from sightline.report.evaluation import graded_item
from sightline.report.gallery import gallery_of
from sightline.report.page import GalleryItem
from sightline.types import Group

Records = Sequence[Mapping[str, Any]]
TIME: Final = "time/"
"""Parts of a step's time, by the start of their names."""
_MOST_SAMPLES: Final = 12
_MOST_PAIRED: Final = 8
_START: Final = 6
_ANSWERS: Final = 2
"""Of each side, where before and after stand beside each other."""


# --- facts --------------------------------------------------------------------------------------


def facts(records: Records, run_dir: Path) -> list[tuple[str, str]]:
    """Name and value of what a reader asks first; what is not known is left out."""
    recipe, environment = _read(run_dir / "recipe.yaml"), _read(run_dir / "environment.json")
    last = records[-1]
    data = environment.get("rows") or {}
    found = {
        "model": _model(recipe.get("model") or {}),
        "algorithm": _options(dict(recipe.get("algorithm") or {})),
        "rows": "; ".join(
            text if part == "train" else f"{part}: {text}"
            for part, text in data.items()
            if not str(text).startswith("0 of 0 ")
        ),
        "steps": _steps(last),
        "duration": _duration(records),
        "time by stage": _stages(records),
        "machine": _machine(environment),
    }
    return [(name, text) for name, text in found.items() if text]


def _model(spec: Mapping[str, Any]) -> str:
    if not spec.get("path"):
        return ""
    told = [str(spec["path"])]
    told += [f"with the adapter {spec['adapter']}"] if spec.get("adapter") else []
    told += [f"held in {spec['quantization']}"] if spec.get("quantization", "none") != "none" else []
    parts = spec.get("parts") or {}
    told += [", ".join(f"{part} {mode}" for part, mode in parts.items())] if parts else []
    told += [f"LoRA of rank {spec['lora']['r']}"] if (spec.get("lora") or {}).get("r") else []
    return "; ".join(told)


def _options(algorithm: dict[str, Any]) -> str:
    name = algorithm.pop("name", "")
    told = ", ".join(f"{key} {value}" for key, value in algorithm.items())
    return f"{name} ({told})" if told else str(name)


def _steps(last: Mapping[str, Any]) -> str:
    epochs = f", {last['epoch']:.3g} epochs" if isinstance(last.get("epoch"), int | float) else ""
    tokens = f", {last['num_tokens']:,.0f} tokens" if isinstance(last.get("num_tokens"), int | float) else ""
    return f"{last['step']:,}{epochs}{tokens}"


def _duration(records: Records) -> str:
    seconds = records[-1].get("seconds")
    return clock(seconds) if isinstance(seconds, int | float) else ""


def _stages(records: Records) -> str:
    """What all steps took, by part, the longest first: a record tells the mean over the steps since the one before."""
    spent: dict[str, float] = {}
    before = 0
    for record in records:
        steps, before = record["step"] - before, record["step"]
        for name, value in record.items():
            if name.startswith(TIME) and math.isfinite(value):
                spent[name.removeprefix(TIME)] = spent.get(name.removeprefix(TIME), 0.0) + steps * value
    whole = sum(spent.values())
    longest = sorted(spent.items(), key=lambda one: -one[1])
    shown = [(name, value) for name, value in longest if value >= 0.005 * whole > 0]
    return ", ".join(f"{name.replace('_', ' ')} {clock(value)} ({100 * value / whole:.0f} %)" for name, value in shown)


def _machine(environment: Mapping[str, Any]) -> str:
    count = environment.get("processes", 1)
    told = [str(environment.get("device", "")), f"{count} processes" if count > 1 else ""]
    packages = environment.get("packages") or {}
    told += [f"{name} {packages[name]}" for name in ("sightline", "torch", "transformers") if name in packages]
    return ", ".join(filter(None, told))


def clock(seconds: float) -> str:
    """``0.4 s``, ``52 s``, ``12 min``, ``3 h 05 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def _read(path: Path) -> Mapping[str, Any]:
    """A mapping of a file of a run; an empty one where it is not there, or is not one."""
    if not path.is_file():
        return {}
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is YAML
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, Mapping) else {}


# --- samples ------------------------------------------------------------------------------------


def samples(run_dir: Path) -> list[tuple[str, list[GalleryItem]]]:
    """Galleries, each under its title: the same questions before and after, where the run asked some twice."""
    found = []
    if examined := _examined(run_dir / "evaluation"):
        found.append(("The same questions before and after", examined))
    path = run_dir / "samples.jsonl"
    if path.is_file():
        first, again, last = _first_and_last(read_groups(path, growing=True))
        if again:
            paired = [_beside(group, again[group.id]) for group in first.values() if group.id in again]
            found.append(("Samples of the same prompts, first and last", paired[:_MOST_PAIRED]))
        elif start := [group for group in list(first.values())[:_START] if group.id not in {one.id for one in last}]:
            found.append(("Samples at the start", gallery_of(start)))
        found.append(("Samples at the end", gallery_of(last)))
    return [(title, items) for title, items in found if items]


def where_samples_come_from(run_dir: Path) -> str:
    """Of a run that left no answers to show: what leaves some."""
    told = (
        "This run left no answers. A recipe with evaluation (every, benches) has some questions answered while it "
        "trains, and the first answers and the last ones stand here"
    )
    if any((run_dir / "evaluation").glob("step-*")):
        told = "Questions were answered at one step alone; a smaller evaluation.every gives two to compare"
    spec = _read(run_dir / "recipe.yaml").get("model") or {}
    start = f"--model {spec.get('path') or 'MODEL'}"
    start += f" --adapter {spec['adapter']}" if spec.get("adapter") else ""
    first = f"sightline eval BENCH {start} --data DIR -o eval/before"
    then = f"sightline eval BENCH --model {run_dir} --data DIR -o eval/after --against eval/before"
    return f"{told}. Of a run that has ended, two commands write a page of both: {first}; {then}"


def _first_and_last(groups: Iterable[Group]) -> tuple[dict[str, Group], dict[str, Group], list[Group]]:
    """The first prompts with their answers, their last answers where they were asked again, and the last of all."""
    first, again, last = dict[str, Group](), dict[str, Group](), deque[Group](maxlen=_MOST_SAMPLES)
    for group in groups:
        last.append(group)
        if group.id in first:
            again[group.id] = group
        elif len(first) < _MOST_SAMPLES:
            first[group.id] = group
    return first, again, list(last)


def _beside(before: Group, after: Group) -> GalleryItem:
    (old,), (new,) = gallery_of([before]), gallery_of([after])
    sides = (("first", old.answers[:_ANSWERS]), ("last", new.answers[:_ANSWERS]))
    return replace(new, answers=[replace(one, title=f"{side}: {one.title}") for side, some in sides for one in some])


def _examined(folder: Path) -> list[GalleryItem]:
    """Questions of the first benchmark whose answer changed from the first to the last evaluation of the run."""
    steps = sorted(one for one in folder.glob("step-*") if one.is_dir())
    for bench in sorted(steps[0].glob(f"*/{RESULTS}")) if len(steps) > 1 else ():
        ends = (bench.parent, steps[-1] / bench.parent.name)
        try:
            before, after = map(read_measured, ends)
        except DataError:  # killed before it was graded
            continue
        titles = [f"after step {int(step.name.removeprefix('step-')):,}" for step in (steps[0], steps[-1])]
        if items := list(_changed(before, after, titles)):
            return items[:_MOST_PAIRED]
    return []


def _changed(before: Measured, after: Measured, titles: Sequence[str]) -> Iterator[GalleryItem]:
    old = {row.id: row for row in before.result.graded}
    for row in after.result.graded:
        if row.id in old and row.details.get("answer") != old[row.id].details.get("answer"):
            yield graded_item([(titles[0], old[row.id]), (titles[1], row)])
