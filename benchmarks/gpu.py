"""One command that measures Sightline on a GPU, beside TRL, in about four minutes.

    python -m benchmarks.gpu --json OUT                                    # gradients, attention, steps, profile
    python -m benchmarks.gpu --json OUT --only steps --models qwen --seconds steps=200
    python -m benchmarks.gpu --json OUT --only steps --tasks group --contenders tree+checkpointing trl+checkpointing
    python -m benchmarks.gpu --json OUT --device cpu --tiny                # tiny models, to see that it runs

Stages: ``gradients`` (every form of attention against float64 on random trees; a wrong one makes the command end with
1), ``attention`` (one layer, forward and backward), ``steps`` (LLaVA-1.5-7B or Qwen2.5-VL-7B shape, LoRA; pairs and
groups; TRL's trainers on the same tokens), ``profile`` (where a step's time goes), ``agreement`` (bf16 against
float32), ``qlora``. Weights are random and made on the device: nothing is downloaded. Lengths are new in every step.

Every job has a process of its own, and a stage its seconds. OUT/gpu.json and OUT/gpu.md are written after every
figure, so that whatever ends the command leaves what was measured. What does not fit the memory is reported as that.

Ends with 0; with 1 where a gradient is wrong or a job failed; with 2 where there is no GPU.

MFU: FLOPs that the layout needs (the tower's included, recomputed activations not) per second, over the FLOP/s of a
large matrix product measured on the same device, and over the datasheet's.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu_jobs import Figures, Job, run_here, run_jobs, write_whole
from benchmarks.gpu_table import line_of, ratios, tables

SECONDS = {"gradients": 25, "attention": 30, "steps": 150, "profile": 35, "agreement": 60, "qlora": 40}
"""Of each stage, unless told otherwise."""
DEFAULT = ("gradients", "attention", "steps", "profile")
FORMS = ("segments", "gather", "merge", "dense")
TOWER = "tower"
"""Of the gradients: no form of the tree, but what vision towers take windows and pictures by."""
IMAGE_TOKENS = {"llava": 576, "qwen": 1024}
TINY_IMAGE = 16
CONTENDERS = ("tree+compile", "trl", "tree", "tree+compile+checkpointing", "trl+checkpointing")
"""What matters most comes first: a stage's time may end."""
SWITCHES = {
    "tree": {"compile", "checkpointing", "expandable", *FORMS},
    "rows": {"compile", "checkpointing", "expandable"},
    "trl": {"checkpointing", "expandable"},
}
TASKS = {"pair": 2, "group": 8}
"""Answers per prompt."""


class NoDevice(Exception):
    """There is nothing to measure on."""


@dataclass(frozen=True, eq=False)
class Report:
    """All figures, and their files."""

    folder: Path
    found: dict[str, Any] = field(default_factory=lambda: {"stages": {}})

    def change(self, job: Job, figures: Figures) -> None:
        """Writes the figures of a job, prints what is new in a line."""
        stage = self.found["stages"].setdefault(job.stage, {})
        before = stage.get(job.name, {})
        stage[job.name] = figures
        self.found["ratios"] = ratios(self.found["stages"].get("steps", {}))
        self.write()
        if figures["state"] == "no device":
            raise NoDevice
        if (line := line_of(job.stage, figures)) != line_of(job.stage, before):
            print(f"{job.stage}: {job.name}: {line}", flush=True)

    def write(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / "gpu.json", json.dumps(self.found, indent=1) + "\n")
        write_whole(self.folder / "gpu.md", tables(self.found))

    def right(self) -> bool:
        """Whether no gradient is wrong and no job failed."""
        every = [figures for stage in self.found["stages"].values() for figures in stage.values()]
        return not any(figures.get("wrong") or figures["state"].startswith("failed") for figures in every)


def jobs_of(options: argparse.Namespace) -> list[Job]:
    """In the order they run; the machine first."""
    shared: dict[str, Any] = {"device": options.device, "tiny": options.tiny}
    shared |= {"question": options.question, "groups": options.groups}
    shared |= {"shortest": options.lengths[0], "longest": options.lengths[1]}
    jobs = [Job(stage="machine", name="machine", **shared)]
    for stage in options.only:
        if stage in ("gradients", "attention"):
            told = [form for form in options.forms if stage == "gradients" or form != TOWER]
            jobs += [Job(stage=stage, name=form, form=form, **shared) for form in told]
            continue
        for model in options.models:
            image = options.image_tokens or (TINY_IMAGE if options.tiny else IMAGE_TOKENS[model])
            sized = shared | {"model": model, "image": image}
            tasks = options.tasks if stage in ("steps", "profile") else ("pair",)
            for task in tasks:
                named = {"task": task, "answers": options.answers if task == "group" else TASKS["pair"]}
                jobs += [Job(stage=stage, **one, **sized, **named) for one in _who(stage, model, task, options)]
    return jobs


def _who(stage: str, model: str, task: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Names and contenders of a stage's jobs for one model and task."""
    if stage not in ("steps", "profile"):
        return [{"name": model}]
    chosen = [one for one in options.contenders if stage == "steps" or not one.startswith("trl")]
    chosen = chosen if stage == "steps" else chosen[:1]
    return [{"name": f"{model} {task} {one}", "contender": one} for one in chosen]


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", type=Path, required=True, metavar="DIR", help="where gpu.json and gpu.md go")
    made.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    made.add_argument("--tiny", action="store_true", help="tiny models and few rounds instead of 7B")
    made.add_argument("--only", nargs="+", choices=SECONDS, default=DEFAULT, help="stages, in this order")
    made.add_argument("--seconds", nargs="+", type=_seconds, default=[], metavar="STAGE=N", help=f"default: {SECONDS}")
    made.add_argument("--models", nargs="+", choices=IMAGE_TOKENS, default=["llava"])
    made.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    switches = "; ".join(f"{name}+{'|'.join(sorted(known))}" for name, known in SWITCHES.items())
    made.add_argument(
        "--contenders", nargs="+", type=_contender, default=list(CONTENDERS), help=f"names with switches: {switches}"
    )
    made.add_argument("--forms", nargs="+", choices=(*FORMS, TOWER), default=[*FORMS[:3], TOWER], help="of attention")
    made.add_argument("--groups", type=int, default=4, help="prompts per micro-batch")
    made.add_argument("--answers", type=int, default=TASKS["group"], help="responses of a group")
    made.add_argument("--lengths", nargs=2, type=int, default=(100, 174), metavar="N", help="tokens of an answer")
    made.add_argument("--question", type=int, default=65, help="tokens of a prompt beside its picture")
    made.add_argument("--image-tokens", type=int, help="of Qwen's picture, about (default: 1,024)")
    made.add_argument("--one-process", action="store_true", help="for tests and debuggers: memory counts together")
    return made


def _seconds(text: str) -> tuple[str, float]:
    stage, _, number = text.partition("=")
    if stage not in SECONDS:
        raise argparse.ArgumentTypeError(f"{text} names no stage; write STAGE=N with one of {', '.join(SECONDS)}")
    return stage, float(number)


def _contender(text: str) -> str:
    name, *switches = text.split("+")
    if name not in SWITCHES or not set(switches) <= SWITCHES[name]:
        known = "; ".join(f"{one} with {', '.join(sorted(own))}" for one, own in SWITCHES.items())
        raise argparse.ArgumentTypeError(f"{text} is no contender; write NAME or NAME+SWITCH: {known}")
    return text


def refusal(options: argparse.Namespace) -> str | None:
    """Why it cannot run, before anything is started."""
    if options.device == "cpu" and not options.tiny:
        return "7B models do not run on a CPU in reasonable time. Add --tiny"
    expandable = any("expandable" in one.split("+") for one in options.contenders)
    if expandable and (options.device == "cpu" or options.one_process):
        why = "+expandable is about a GPU's memory, and set before a process begins"
        return f"{why}. Leave out --device cpu and --one-process, or the switch"
    least, most = options.lengths
    if not 1 <= least <= most:
        return f"--lengths {least} {most} is no range. Write the fewest tokens of an answer, then the most"
    if options.answers < 2 or options.question < 4 or options.groups < 1:
        return "a group has at least 2 answers, a question 4 tokens, a micro-batch 1 group. Raise what is below"
    return None


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    if reason := refusal(options):
        print(reason, file=sys.stderr)
        return 2
    report = Report(options.json)
    report.found["settings"] = settings(options)
    budgets = {"machine": 120.0, **SECONDS, **dict(options.seconds)}
    run = run_here if options.one_process else run_jobs
    try:
        run(jobs_of(options), budgets, report.change, ahead=options.device == "cuda")
    except NoDevice:
        print("no CUDA device was found. Run on a GPU, or try the command with --device cpu --tiny", file=sys.stderr)
        return 2
    print(tables(report.found), flush=True)
    return 0 if report.right() else 1


def settings(options: argparse.Namespace) -> dict[str, Any]:
    names = ("tiny", "groups", "answers", "lengths", "question", "image_tokens")
    return {name: value for name, value in vars(options).items() if name in names}


def _stop(*_: object) -> None:
    sys.exit(143)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)  # leaves through every ``finally``: no process stays behind
    sys.exit(main())
