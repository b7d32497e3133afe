"""The report of a training run, from the files of its run directory alone."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sightline.data.schema import read_groups
from sightline.errors import CheckpointError
from sightline.report.page import Answer, Detail, GalleryItem, write_report
from sightline.report.svg import Curve, Line
from sightline.types import Group, Prompt

Records = Sequence[dict[str, Any]]

_CHARTS: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("Loss", "", {"loss": "training", "eval/loss": "held out"}),
    ("Negative log-likelihood of a token", "nats", {"nll": "training", "eval/nll": "held out"}),
    (
        "Preference accuracy",
        "share of pairs",
        {"rewards/accuracies": "training", "eval/rewards/accuracies": "held out"},
    ),
    ("Reward margin", "nats", {"rewards/margins": "training", "eval/rewards/margins": "held out"}),
    ("Implicit rewards", "nats", {"rewards/chosen": "chosen", "rewards/rejected": "rejected"}),
    ("Log-probability of the answers", "nats", {"logps/chosen": "chosen", "logps/rejected": "rejected"}),
    (
        "Does it look? Margin that training added, and what of it another picture takes away",
        "nats",
        {"looking/margin": "margin", "looking/other": "another picture", "looking/blank": "a white one"},
    ),
    (
        "Does it look? The same of the policy as it is",
        "nats",
        {
            "looking/policy/margin": "margin",
            "looking/policy/other": "another picture",
            "looking/policy/blank": "a white one",
        },
    ),
    ("Reward of the samples", "", {"reward": "reward"}),
    ("Length of the answers", "tokens", {"length/chosen": "chosen", "length/rejected": "rejected"}),
    ("Length of the samples", "tokens", {"completions/mean_length": "mean"}),
    ("Entropy", "nats", {"entropy": "entropy"}),
    ("Gradient norm", "", {"grad_norm": "before clipping"}),
    ("Learning rate", "", {"learning_rate": "learning rate"}),
    ("Speed", "tokens per second", {"tokens_per_second": "tokens"}),
)
"""Charts in the order they are shown: title, unit, and metric to name in the legend."""
_PARTS = {
    "loss/": "Loss by term",
    "rewards/accuracies/": "Pairs ranked right, by kind",
    "rewards/margins/": "Reward margin by kind",
}
"""Metrics that are parts of another one, by the start of their names: one chart, if there are two or more."""
_TIME = "time/"
"""Parts of a step's time, by the start of their names: one chart, on each other."""
_INTERVALS = {f"looking/{picture}/{end}" for picture in ("blank", "other") for end in ("low", "high")}
_NOT_CHARTED = frozenset({"step", "epoch", "seconds", "num_tokens", "looking/blind", *_INTERVALS})
_MOST_SAMPLES = 12
_DETAILS = (
    ("First row as the model sees it", "first_row.txt"),
    ("Recipe", "recipe.yaml"),
    ("Environment", "environment.json"),
    ("Bad rows", "bad_rows.jsonl"),
)
"""Files of a run directory that the page shows."""


def report_run(run_dir: str | Path, out: str | Path | None = None) -> Path:
    """Write the report of one training run.

    Args:
        run_dir: Holds ``metrics.jsonl``; ``recipe.yaml``, ``environment.json`` and ``samples.jsonl`` are
            shown where they are there.
        out: The page; None: ``report.html`` in the run directory.

    Raises:
        CheckpointError: The folder is no run directory, or nothing was logged yet.
    """
    run_dir = Path(run_dir)
    metrics = run_dir / "metrics.jsonl"
    if not metrics.is_file():
        remedy = "Expected the output_dir of a training run"
        raise CheckpointError(f"{run_dir}: found no metrics.jsonl. {remedy}; `sightline train` makes one.")
    records = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    if not records:
        raise CheckpointError(f"{metrics}: found no logged step. Train for at least train.log_every steps.")
    samples = run_dir / "samples.jsonl"
    return write_report(
        run_dir / "report.html" if out is None else out,
        title=f"Training run: {run_dir.resolve().name}",
        curves=training_curves(records),
        gallery=gallery_of(deque(read_groups(samples, growing=True), _MOST_SAMPLES)) if samples.is_file() else (),
        notes=[_summary(records, run_dir)],
        details=list(_details(run_dir)),
    )


def training_curves(records: Records, *, prefix: str = "") -> list[Curve]:
    """Charts of what a run logged: the well-known metrics first, then all others by name.

    Args:
        records: Lines of ``metrics.jsonl``.
        prefix: Stands before every title (``DPO: ``), where one page shows several runs.
    """
    names = {name for record in records for name, value in record.items() if type(value) in (int, float)}
    parts = {start: sorted(name for name in names if name.startswith(start)) for start in _PARTS}
    known = {metric for _, _, lines in _CHARTS for metric in lines} | {name for part in parts.values() for name in part}
    charts = [*_CHARTS]
    for start, members in parts.items():
        if len(members) > 1:
            charts.append((_PARTS[start], "", {name: name.removeprefix(start) for name in members}))
    charts += [(name, "", {name: name}) for name in sorted(names - known - _NOT_CHARTED) if not name.startswith(_TIME)]
    curves = []
    for title, unit, metrics in charts:
        lines = [_line(records, metric, label) for metric, label in metrics.items() if metric in names]
        if lines:
            noisy = "learning_rate" not in metrics
            curves.append(Curve(title=f"{prefix}{title}", lines=lines, y_label=unit, noisy=noisy))
    if spent := _time(records):
        curves.append(Curve(title=f"{prefix}Time of a step by part", lines=spent, y_label="seconds", stacked=True))
    return curves


def gallery_of(groups: Iterable[Group]) -> list[GalleryItem]:
    """Sampled or preference groups as gallery items: each answer with its reward and its place in the edges."""
    items = []
    for group in groups:
        prompt = group.prompts[0]
        won = {edge.winner for edge in group.edges}
        lost = {edge.loser for edge in group.edges}
        answers = []
        for index, response in enumerate(group.responses):
            roles = [name for name, members in (("chosen", won), ("rejected", lost)) if index in members]
            note = "" if response.reward is None else f"reward {response.reward:.3g}"
            title = " and ".join(roles) or f"answer {index + 1}"
            answers.append(Answer(title=title, text=response.text, note=note))
        images = [image for image in prompt.images if Path(image).is_file()]
        items.append(GalleryItem(images=images, question=question_of(prompt), answers=answers))
    return items


def question_of(prompt: Prompt) -> str:
    """Text of the last message of a prompt."""
    content = prompt.messages[-1]["content"]
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part["type"] == "text")


def _line(records: Records, metric: str, label: str) -> Line:
    logged = [record for record in records if metric in record]
    return Line(name=label, x=[record["step"] for record in logged], y=[record[metric] for record in logged])


def _time(records: Records) -> list[Line]:
    """What each part of a step took, in the order of a step; parts that took nothing are left out."""
    logged = [record for record in records if f"{_TIME}rest" in record]
    parts = [name for name in logged[-1] if name.startswith(_TIME)] if logged else []
    lines = [_line(logged, name, name.removeprefix(_TIME).replace("_", " ")) for name in parts]
    return [line for line in lines if any(line.y)]


def _summary(records: Records, run_dir: Path) -> str:
    final = records[-1]
    shown = [f"{name} {final[name]:.4g}" for name in ("loss", "rewards/accuracies", "reward") if name in final]
    return f"{final['step']} optimizer steps. Last logged: {', '.join(shown) or 'nothing'}. From {run_dir}."


def _details(run_dir: Path) -> Iterable[Detail]:
    for title, name in _DETAILS:
        path = run_dir / name
        if path.is_file():
            yield Detail(title=f"{title} ({name})", text=path.read_text(encoding="utf-8"))
